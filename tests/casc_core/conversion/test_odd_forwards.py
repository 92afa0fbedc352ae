"""What `convert` takes runs: small random forwards of supported operations in odd combinations."""

from __future__ import annotations

import re

import pytest
import torch
from odd_forwards import FaultError, Forward, check, drawn

import casc_core

SEEDS = 48


@pytest.mark.parametrize("first", range(0, SEEDS, 12))
def test_it_is_refused_by_its_place_or_it_runs_and_is_exact(first: int) -> None:
    equal = 0
    for seed in range(first, first + 12):
        forward = drawn(seed)
        try:
            why = check(forward)
        except FaultError as fault:
            raise AssertionError(f"seed {seed}: {fault}\n{forward.source}") from fault
        assert why is None or re.search(r"module '\w|the forward of \w|^forward", why), why
        equal += why is None
    assert equal >= 8


SOURCE = """
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.fc = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, input_0, input_1):
        return self.fc(F.relu(self.layer(input_0)) * input_1)
"""


def test_what_is_converted_and_does_not_run_is_found() -> None:
    inputs = torch.randn(2, 3, 6).unbind(0)
    with pytest.raises(FaultError, match="it is converted and does not run: InputError"):
        check(Forward(SOURCE, inputs, 4))


def test_what_is_not_exact_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    convert = casc_core.convert
    monkeypatch.setattr(casc_core, "convert", lambda ann: convert(ann, neuron=casc_core.IF()))
    source = SOURCE.replace("F.relu(self.layer(input_0)) * input_1", "self.deep(input_0 - input_1)").replace(
        "self.layer, self.fc", "self.deep, self.fc"
    )
    source = source.replace("nn.Linear(6, 6), nn", f"nn.Sequential({'nn.Linear(6, 6), nn.ReLU(), ' * 4}), nn")
    inputs = 3 * torch.randn(2, 50, 6, generator=torch.Generator().manual_seed(0))
    with pytest.raises(FaultError, match=r"differ|not exact"):
        check(Forward(source, inputs.unbind(0), 8))
