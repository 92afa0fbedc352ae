"""What pyproject.toml cannot say: the compiled kernels, and recipes that lie in a folder of another name.

Without a C compiler the installation goes on, and torch does the kernels' work more slowly.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

KERNELS = "casc_core/engine/kernels"
LIBRARY = "libcasc_kernels.so"


class BuildKernels(build_ext):
    """Compiles a plain shared library, which casc loads with ctypes: it needs nothing of Python."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split(".")[:-1]) / LIBRARY)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return ext.export_symbols

    def get_libraries(self, ext: Extension) -> list[str]:
        return ext.libraries

    def build_extension(self, ext: Extension) -> None:
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)  # an older one would be taken for this
        try:
            super().build_extension(ext)
        except (CCompilerError, ExecError, PlatformError):
            print(
                "casc: the kernels could not be compiled; torch does their work, several times slower", file=sys.stderr
            )


class PlatformWheel(bdist_wheel):
    """One wheel per platform for every Python, `py3-none-PLATFORM`, or `py3-none-any` where no library was compiled."""

    def get_tag(self) -> tuple[str, str, str]:
        library = Path(self.bdist_dir) / KERNELS / LIBRARY
        return "py3", "none", _platform(library, super().get_tag()[2]) if library.exists() else "any"


def _platform(library: Path, here: str) -> str:
    """The platforms that a library runs on, it being compiled for that of `here`."""
    # It needs the C library alone: what tells where it runs is the newest version of that of which it needs a function.
    versions = [int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", library.read_bytes())]
    if not here.startswith("linux_") or not versions:
        return here
    return f"manylinux_2_{max(17, *versions)}_{here.removeprefix('linux_')}"


setup(
    # The recipes are scripts, and modules that `casc` finds by the entry point group `casc.recipes`.
    packages=[
        *find_packages(include=["casc_core*", "casc_lab*", "casc_seq*"]),
        "casc_recipes",
        "casc_recipes.image_recipes",
        "casc_recipes.detection_recipes",
    ],
    package_dir={"casc_recipes": "recipes"},
    ext_modules=[
        Extension(
            f"{KERNELS.replace('/', '.')}.{LIBRARY.partition('.')[0]}",
            [f"{KERNELS}/src/dispatch.c"],
            depends=sorted(str(header) for header in Path(KERNELS, "src").glob("*.h")),
            extra_compile_args=["-O3", "-std=c11", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": PlatformWheel},
)
