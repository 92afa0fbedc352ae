"""The paper's detector at its full width: exact in spikes, and within the memory limit.

On images of half the paper's side, to save time; CASC_SIDE=416 makes it the paper's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detection_recipes.network import MEASURES, Detector

import casc_core

SIDE = int(os.environ.get("CASC_SIDE", "208"))


def trained(q: int) -> torch.nn.Module:
    """Weights as they begin, and the statistics that they have on such images."""
    torch.manual_seed(0)
    detector = Detector(classes=20)
    model = casc_core.prepare(detector, adapter="cnn", q=q)
    for _ in range(2):
        with torch.no_grad():
            model.train()(torch.randn(2, 3, SIDE // 2, SIDE // 2))
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("q", [4, 8, 16])
def test_every_neuron_and_readout_is_that_of_the_network_with_levels(q: int) -> None:
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    report = casc_core.verify(casc_core.convert(trained(q)), image, measures=MEASURES)
    assert report.exact, str(report)
    assert report.silent_at > q


PEAK = """
import torch, casc_core
from test_full_width import SIDE, trained

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

snn = casc_core.convert(trained(8))
image = torch.randn(2, 3, SIDE, SIDE)
before = open("/proc/self/clear_refs", "w").write("5") and peak()
assert snn.simulate(image, T=64).T == 64
print(peak() - before, snn.memory_limit)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_run_of_64_steps_stays_under_the_memory_limit() -> None:
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    told = subprocess.run([sys.executable, "-c", PEAK], env=environment, capture_output=True, text=True, check=True)
    used, limit = map(int, told.stdout.split())
    assert used <= limit
