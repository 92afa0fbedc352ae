"""Kernels for other processors run under emulation, where that is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from emulated import emulation


@pytest.fixture(autouse=True, scope="package")
def emulated() -> Iterator[None]:
    with emulation():
        yield
