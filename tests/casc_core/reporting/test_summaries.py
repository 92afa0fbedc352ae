"""What holds tensors is printed in a line."""

from __future__ import annotations

import dataclasses
import inspect
from types import ModuleType

import pytest
import torch
from torch import nn

import casc_core
import casc_seq
from casc_core import extend


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 300), casc_core.CQReLU(q=4), nn.Linear(300, 2)).eval()


def test_results_name_shapes_and_not_numbers() -> None:
    snn, x = casc_core.convert(_model()), torch.rand(50, 40)
    spikes = snn.simulate(x, record=("spikes", "potentials")).spikes["1"]
    assert spikes.train is not None
    assert f"train=int8{list(spikes.train.shape)}, potentials=float64[" in repr(spikes)
    for result in (spikes, casc_core.verify(snn, x), casc_core.analyse(snn, [x])):
        assert "tensor(" not in repr(result)
        assert "\n" not in repr(result)
        assert len(repr(result)) < 800


@pytest.mark.parametrize("module", [casc_core, extend, casc_seq], ids=lambda module: module.__name__)
def test_every_public_dataclass_with_tensors_is_summarised(module: ModuleType) -> None:
    classes = [each for each in vars(module).values() if inspect.isclass(each) and dataclasses.is_dataclass(each)]
    printed_whole = {
        each.__name__
        for each in classes
        if any("Tensor" in str(field.type) for field in dataclasses.fields(each)) and each.__dataclass_params__.repr
    }
    assert printed_whole == set()
