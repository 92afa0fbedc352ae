"""Tries an installed casc: a network is converted and verified, the command answers, and the compiled kernels are there.

python -I tools/smoke_test.py            # of a wheel
python -I tools/smoke_test.py --without  # of an installation without a C compiler: no kernels, which is said once
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

import casc_core
from casc_core.engine.kernels import instructions


def network() -> nn.Module:
    """A small CNN with random weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10))


def main() -> None:
    """Raises `AssertionError` where the installation is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without", action="store_true", help="there was no C compiler")
    without = parser.parse_args().without
    installed = Path(casc_core.__file__)
    assert Path(sys.prefix) in installed.parents, f"{installed} is not what was installed in {sys.prefix}"
    assert (installed.parent / "py.typed").exists(), "no py.typed"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = instructions()
    assert (found is None) == without, f"kernels: {found}"
    assert [str(each.message).startswith("casc has no compiled kernels") for each in said] == [True] * without, said
    snn = casc_core.convert(casc_core.prepare(network(), q=4).eval())
    report = casc_core.verify(snn, torch.rand(2, 3, 8, 8))
    assert report.exact, report
    command = Path(sys.executable).with_name("casc")
    version = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    assert version == casc_core.__version__, version
    subprocess.run([command, "verify", "--help"], capture_output=True, check=True)
    print(f"casc {version} beside torch {torch.__version__}: exact, kernels={found or 'none'}")


if __name__ == "__main__":
    main()
