"""Parameters and buffers that hold no numbers, or none that can be kept exactly, are refused before the training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import casc_core
from casc_core import ConversionError


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def with_weight(value: Callable[[torch.Tensor], torch.Tensor]) -> nn.Module:
    model = mlp()
    model[0].weight = nn.Parameter(value(model[0].weight.detach()))
    return model


def with_buffer(value: torch.Tensor) -> nn.Module:
    model = mlp()
    model.register_buffer("extra", value)
    return model


BAD = {
    "bfloat16": (lambda: mlp().bfloat16(), r"0\.weight is torch\.bfloat16; give the model float32 weights with"),
    "float16": (lambda: mlp().half(), r"0\.weight is torch\.float16"),
    "complex": (lambda: with_weight(torch.Tensor.cfloat), r"0\.weight is torch\.complex64; hold its real"),
    "meta": (lambda: mlp().to("meta"), r"0\.weight is on the meta device and holds no numbers"),
    "sparse": (lambda: with_weight(torch.Tensor.to_sparse), r"0\.weight has the layout torch\.sparse_coo.*to_dense"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3), nn.ReLU(), nn.Linear(3, 2)), r"0\.weight has no shape yet; call"),
    "nan": (lambda: with_weight(lambda w: w.fill_(float("nan"))), r"0\.weight holds nan: weights must be finite"),
    "infinite buffer": (lambda: with_buffer(torch.tensor([1.0, float("inf")])), "extra holds inf"),
    "quantised buffer": (
        lambda: with_buffer(torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)), "extra is quantised"
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, on lazy and quantised tensors
@pytest.mark.parametrize("kind", BAD)
def test_bad_weights_are_refused_by_name(kind: str) -> None:
    make, message = BAD[kind]
    for step in (casc_core.prepare, casc_core.convert):
        with pytest.raises(ConversionError, match=message):
            step(make(), q=4)


def test_weights_made_in_inference_mode_are_as_good_as_others() -> None:
    with torch.inference_mode():
        model = mlp()
    assert casc_core.verify(casc_core.convert(casc_core.prepare(model, q=4)), torch.randn(3, 4)).exact


def test_double_weights_are_taken() -> None:
    x = torch.randn(5, 4, dtype=torch.float64)
    assert casc_core.verify(casc_core.convert(casc_core.prepare(mlp().double(), q=4)), x).exact
