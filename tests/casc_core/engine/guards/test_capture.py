"""Nothing may record a run of a spiking network, since it could not be replayed; compiled code calls it as it is."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

import casc_core
from casc_core import ConfigError

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def snn() -> casc_core.SpikingModel:
    torch.manual_seed(0)
    return casc_core.convert(casc_core.prepare(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), q=4))


CAPTURES = {
    "torch.jit.trace": lambda snn: torch.jit.trace(snn, X),
    "torch.jit.script": torch.jit.script,
    "torch.fx": fx.symbolic_trace,
    "torch.export": lambda snn: torch.export.export(snn, (X,), strict=False),
    "torch.fx.experimental.proxy_tensor.make_fx": lambda snn: make_fx(snn)(X),
    "torch.func": lambda snn: torch.vmap(snn)(X[:, None]),
    "torch.func (vmap, grad, jvp)": lambda snn: torch.func.grad(lambda x: snn(x).sum())(X),
}


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
@pytest.mark.parametrize("by", CAPTURES)
def test_a_recording_is_refused(snn: casc_core.SpikingModel, by: str) -> None:
    with pytest.raises(ConfigError) as error:
        CAPTURES[by](snn)
    assert str(error.value).startswith(by)
    assert "use snn.save(folder)" in str(error.value)


@pytest.mark.parametrize("call", ["reference", "simulate"])
def test_its_other_calls_are_refused_too(snn: casc_core.SpikingModel, call: str) -> None:
    with pytest.raises(ConfigError, match=r"torch\.func .* cannot take a spiking network"):
        torch.vmap(getattr(snn, call))(X[:, None])


@pytest.mark.filterwarnings("ignore")
def test_an_export_to_onnx_is_refused(snn: casc_core.SpikingModel) -> None:
    with pytest.raises(ConfigError, match="cannot take a spiking network"):
        torch.onnx.export(snn, (X,), io.BytesIO(), dynamo=False)


def test_compiled_code_runs_it_as_it_is(snn: casc_core.SpikingModel) -> None:
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return snn(2 * x) + 1, snn.reference(2 * x) + 1

    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x in (X, 3 * X[:2]):
            assert torch.equal(torch.compile(snn, backend="eager")(x), snn(x))
            assert all(map(torch.equal, torch.compile(both, backend="eager")(x), both(x)))
