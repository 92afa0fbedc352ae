"""What follows from parameters and buffers alone stays what it is: no activation of it becomes a neuron."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import casc_core
from casc_core import ConversionError, CQReLU
from casc_core.conversion.tracing.dataflow import called_on, reading_inputs
from casc_core.conversion.tracing.trace import trace

X = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))


class Fusion(nn.Module):
    """Two branches, weighed by what an activation makes of parameters: the forward is the test's."""

    def __init__(self, functional: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.fc = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)
        self.act, self.relu, self.other = nn.ReLU(), nn.ReLU(), nn.Tanh()
        self.w = nn.Parameter(torch.tensor([2.5, -0.5]))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("offsets", torch.tensor([1.75, -3.0]))
        self.functional = functional

    def spikes(self, layer: nn.Module, x: Tensor) -> Tensor:
        return F.relu(layer(x)) if self.functional else self.act(layer(x))

    def fused(self, x: Tensor, w: Tensor) -> Tensor:
        return self.fc(self.spikes(self.a, x) * w[0] + self.spikes(self.b, x) * 2)


SPELLINGS: dict[str, Callable[[Fusion], Tensor]] = {
    "module": lambda m: m.relu(m.w),
    "function": lambda m: F.relu(m.w),
    "function of torch": lambda m: torch.relu(m.w),
    "method": lambda m: m.w.relu(),
    "relu6": lambda m: F.relu6(m.w),
    "hardtanh": lambda m: F.hardtanh(m.w, -1.0, 4.0),
    "tanh": lambda m: torch.tanh(m.w) * 1.5,
    "method tanh": lambda m: m.w.tanh() * 1.5,
    "module tanh": lambda m: m.other(m.w) + 1.0,
    "of a buffer": lambda m: m.relu(m.offsets),
    "of a function of them": lambda m: F.relu(m.w + m.offsets) / 2,
    "of a layer": lambda m: m.relu(m.fc(m.fc.weight[:1, :8].clone()))[0] + 1.25,
    "softmax": lambda m: torch.softmax(m.w, 0),
    "sigmoid": lambda m: torch.sigmoid(m.w),
}


def model_of(spelling: str, functional: bool) -> nn.Module:
    weigh = SPELLINGS[spelling]

    def forward(self: Fusion, x: Tensor) -> Tensor:
        return self.fused(x, weigh(self))

    return type("Own", (Fusion,), {"forward": forward})(functional)


@pytest.mark.parametrize("functional", [False, True], ids=["modules", "functions"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_activation_of_parameters_is_evaluated_as_it_is(spelling: str, functional: bool) -> None:
    model = model_of(spelling, functional)
    prepared = casc_core.prepare(model, q=4).eval()
    # The same network with the number that it computes written down.
    with torch.no_grad():
        number = SPELLINGS[spelling](model)[0].item()
    plain = type("Plain", (Fusion,), {"forward": lambda self, x: self.fused(x, [number])})(functional)
    expected = casc_core.prepare(plain, q=4).eval()
    torch.testing.assert_close(prepared(X), expected(X))
    snn = casc_core.convert(prepared)
    assert len(snn.layers) == 2
    assert casc_core.verify(snn, X).exact
    torch.testing.assert_close(casc_core.convert(prepared, numerics="as trained").reference(X), prepared(X).detach())


def test_weights_of_the_fusion_are_still_trained() -> None:
    prepared = casc_core.prepare(model_of("function", True), q=4)
    prepared(X).sum().backward()
    assert float(prepared.w.grad[0]) != 0.0
    with torch.no_grad():
        before = prepared(X)
        prepared.w[0] = 7.0
        assert not torch.equal(prepared(X), before)


def test_a_module_that_is_called_on_both_is_refused() -> None:
    def forward(self: Fusion, x: Tensor) -> Tensor:
        return self.fused(x, self.act(self.w))

    model = type("Own", (Fusion,), {"forward": forward})(False)
    with pytest.raises(
        ConversionError, match=r"'act': ReLU is called on a parameter or buffer.*a module of its own for each"
    ):
        casc_core.prepare(model, q=4)


def test_a_cq_relu_of_parameters_is_no_neuron() -> None:
    class Own(Fusion):
        def __init__(self) -> None:
            super().__init__(False)
            self.act, self.level = CQReLU(4), CQReLU(4, 3.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.fused(x, self.level(self.w))

    model = Own()
    assert float(model.level(model.w.detach())[0]) == 2.25
    snn = casc_core.convert(model)
    assert snn.layers == ("act", "act#2")
    assert list(casc_core.analyse(snn, [(X, torch.zeros(9, dtype=torch.int64))], T=4).layers) == ["act", "act#2"]
    assert casc_core.verify(snn, X).exact
    torch.testing.assert_close(casc_core.convert(model, numerics="as trained").reference(X), model(X).detach())


def test_modules_of_constants_that_no_rule_would_take() -> None:
    class Own(Fusion):
        def __init__(self) -> None:
            super().__init__(False)
            self.gate, self.norm = nn.Sigmoid(), nn.LayerNorm(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fused(x, self.gate(self.norm(self.w)))

    prepared = casc_core.prepare(Own(), q=4).eval()
    assert casc_core.verify(casc_core.convert(prepared), X).exact
    torch.testing.assert_close(casc_core.convert(prepared, numerics="as trained").reference(X), prepared(X).detach())


def test_what_reads_the_inputs() -> None:
    model = model_of("module", False)
    graph = trace(model, lambda module: False)
    reading = {node.name for node in reading_inputs(graph, ["x"])}
    assert {"x", "a", "act", "act_1", "fc"} <= reading
    assert not {"w", "relu", "getitem"} & reading
    assert called_on([graph], ["x"]) == ({"a", "b", "act", "fc"}, {"relu"})
