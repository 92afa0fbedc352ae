"""What pyproject.toml cannot say: the compiled kernels, and recipes that lie in a folder of another name.

Without a C compiler the installation goes on, and torch does the kernels' work more slowly.
"""

from setuptools import Extension, find_packages, setup

setup(
    # The recipes are scripts, and modules that `casc` finds by the entry point group `casc.recipes`.
    packages=[
        *find_packages(include=["casc_core*", "casc_lab*", "casc_seq*"]),
        "casc_recipes",
        "casc_recipes.image_recipes",
    ],
    package_dir={"casc_recipes": "recipes"},
    ext_modules=[
        Extension(
            "casc_core.engine.kernels._kernels",
            ["casc_core/engine/kernels/_kernels.c"],
            depends=[f"casc_core/engine/kernels/_kernels_{part}.h" for part in ("body", "convolution", "end")],
            extra_compile_args=["-O3", "-std=c11", "-fno-math-errno"],
            optional=True,
        )
    ],
)
