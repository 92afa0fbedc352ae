"""Builds the compiled kernels. Without a C compiler the installation goes on, and torch does their work more slowly."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "casc_core.kernels._kernels",
            ["casc_core/kernels/_kernels.c"],
            depends=[f"casc_core/kernels/_kernels_{part}.h" for part in ("body", "convolution", "end")],
            extra_compile_args=["-O3", "-std=c11", "-fno-math-errno"],
            optional=True,
        )
    ]
)
