"""The test bench in Verilog, on exports of a perceptron: registers as wide as the export proves that they must be."""

from __future__ import annotations

import shutil
from pathlib import Path

import mlp_bench
import pytest
from exported import converted

from casc_core import Exact

pytestmark = pytest.mark.skipif(shutil.which("iverilog") is None, reason="needs Icarus Verilog")


@pytest.mark.parametrize("numerics", [Exact(8), Exact(8, bias_on_weight_grid=True), Exact(16)], ids=str)
def test_no_number_differs(numerics: Exact, tmp_path: Path) -> None:
    snn, made = converted("mlp", numerics)
    snn.export(tmp_path / "export", made.inputs, hex=True)
    steps = snn.simulate(*made.inputs).T
    numbers = 3 * steps * (2 * (8 + 7) + 3)
    assert mlp_bench.run(tmp_path / "export").splitlines()[-1] == f"0 of {numbers} numbers differ"


def test_a_changed_weight_is_found(tmp_path: Path) -> None:
    snn, made = converted("mlp", Exact(8))
    snn.export(tmp_path, made.inputs, hex=True)
    drive = tmp_path / "hex" / "3.drive.hex"
    digits = drive.read_text().split()
    drive.write_text("\n".join([f"{int(digits[0], 16) ^ 64:0{len(digits[0])}x}", *digits[1:]]))
    assert not mlp_bench.run(tmp_path).startswith("0 of")
