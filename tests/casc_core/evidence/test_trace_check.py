"""A trace that does not do what the forward does: `verify` holds the two against each other."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx._symbolic_trace import is_fx_symbolic_tracing

import casc_core
from casc_core.conversion.functional_activations import source_of
from casc_core.evidence.trace_check import AS_TRACED, traced_otherwise

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


class Otherwise(nn.Module):
    """Its forward goes another way while it is traced, in a way that no stand-in can know of."""

    is_traced = staticmethod(is_fx_symbolic_tracing)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.relu, self.out = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_traced():
            x = x * 2
        return self.out(self.activation(self.fc(x)))

    def activation(self, x: Tensor) -> Tensor:
        return self.relu(x)


class OtherwiseByFunctions(Otherwise):
    def activation(self, x: Tensor) -> Tensor:
        return F.relu(x)


class OfTypes(OtherwiseByFunctions):
    """Float64 does not take the branch that float32 does, so that an evaluation in float64 does not see it."""

    def is_traced(self) -> bool:  # type: ignore[override]
        return self.kind is not torch.float32

    def forward(self, x: Tensor) -> Tensor:
        self.kind = x.dtype
        return super().forward(x)


@pytest.mark.parametrize("numerics", ["as trained", "exact"])
@pytest.mark.parametrize("kind", [Otherwise, OtherwiseByFunctions, OfTypes])
def test_a_branch_that_a_trace_leaves_out_is_a_fault(kind: type[nn.Module], numerics: Any) -> None:
    snn = casc_core.convert(casc_core.prepare(kind(), q=4).eval(), numerics=numerics)
    report = casc_core.verify(snn, X)
    assert report.spikes_exact
    assert not report.exact
    assert report.lowering is not None
    assert report.lowering.layers[AS_TRACED].wrong > 0
    assert "FAULT OF THE LOWERING: the readout of the forward as traced, 18 of 18 logits" in str(report)


class ChangesInPlace(OtherwiseByFunctions):
    is_traced = staticmethod(lambda: True)

    def activation(self, x: Tensor) -> Tensor:
        torch.relu_(x)
        return F.relu(x + 0.5)


def test_a_change_in_place_that_a_trace_does_not_see_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("casc_core.conversion.tracing.trace.refuse_changes_in_place", lambda model, graph: None)
    report = casc_core.verify(casc_core.convert(casc_core.prepare(ChangesInPlace(), q=4).eval()), X)
    assert not report.exact
    assert report.lowering is not None
    assert report.lowering.layers[AS_TRACED].wrong > 0


def test_a_trace_is_held_once_for_each_way_of_calling(monkeypatch: pytest.MonkeyPatch) -> None:
    snn = casc_core.convert(casc_core.prepare(OtherwiseByFunctions(), q=4).eval())
    first = traced_otherwise(snn, {"x": X})
    monkeypatch.setattr(OtherwiseByFunctions, "forward", None)
    assert traced_otherwise(snn, {"x": X[:2]}) is first
    with pytest.raises(casc_core.ExactnessError, match="not callable"):
        traced_otherwise(snn, {"x": X.double()})


def test_the_source_of_a_prepared_copy_is_neither_copied_nor_saved() -> None:
    prepared = casc_core.prepare(OtherwiseByFunctions(), q=4).eval()
    source = source_of(prepared)
    assert isinstance(source, OtherwiseByFunctions)
    assert source.fc is prepared.fc
    assert source_of(copy.deepcopy(prepared)) is source
    assert prepared.state_dict().keys() == source.state_dict().keys()
    loaded = pickle.loads(pickle.dumps(prepared))
    assert source_of(loaded) is None
    report = casc_core.verify(casc_core.convert(loaded), X)
    assert report.lowering is not None
    assert AS_TRACED not in report.lowering.layers
    assert source_of(nn.ReLU()) is None


def test_held_arguments_and_several_outputs_are_held_too() -> None:
    class Several(OtherwiseByFunctions):
        def forward(self, x: Tensor, scale: float = 0.5, both: bool = True) -> Any:  # type: ignore[override]
            h = F.relu(self.fc(x * scale))
            return {"logits": self.out(h), "features": h} if both else self.out(h)

    snn = casc_core.convert(casc_core.prepare(Several(), q=4).eval())
    assert casc_core.verify(snn, X).exact
    assert traced_otherwise(snn, {"x": X}) is None
