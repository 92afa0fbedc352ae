"""How GRU and LSTM are trained: the compiled cells against torch's, and what autograd may ask of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from engines import COMPILED
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from casc_core.engine import kernels
from casc_core.errors import InputError
from casc_seq.layers.cell import CompiledCell
from casc_seq.layers.gru import GRU
from casc_seq.layers.lstm import LSTM
from casc_seq.layers.rnn import RNN

compiled = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")


class Subclass(Tensor):
    """Of which nobody knows what it holds."""


def trained(module: Any, x: Tensor, states: Any, lengths: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
    """All results of a call, and the gradients of their weighted sum."""
    x = x.detach().clone().requires_grad_()
    states = [each.detach().clone().requires_grad_() for each in states]
    hx = None if not states else states[0] if isinstance(module, GRU) else tuple(states)
    output, final = module(x, hx, lengths)
    results = [output, *(final if isinstance(final, tuple) else [final])]
    torch.manual_seed(0)
    weighed = sum((each * torch.randn(each.shape)).sum() for each in results)
    wanted = [x, *states, *module.parameters()]
    return [each.detach() for each in results], list(torch.autograd.grad(weighed, wanted))


def are_decided(module: Any, x: Tensor, states: list[Tensor], lengths: Tensor | None) -> bool:
    """Whether no activation is so near to an edge between two levels that float32 leaves it open."""
    wide = copy.deepcopy(module).double()
    hx = [each.double() for each in states]
    given_states = None if not hx else hx[0] if isinstance(module, GRU) else tuple(hx)
    with torch.no_grad():
        _, before = wide.observed([None] * len(wide.populations()), x.double(), given_states, lengths=lengths)
    each = len(wide.POPULATIONS)
    gates = [z for place, z in enumerate(before) if place % each < wide.GATES]
    return all(bool(((z - z.round()).abs() > 2e-5 * module.q).logical_or(z == 0).all()) for z in gates)


@compiled
@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from((GRU, LSTM)))
def test_compiled_cells_train_as_torchs_do(data: st.DataObject, kind: Any) -> None:
    draw = data.draw
    q, sizes = draw(st.sampled_from((None, 1, 3, 4, 16))), [draw(st.integers(1, 6)) for _ in range(2)]
    batch, longest, layers = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 2))
    options = {"bias": draw(st.booleans()), "bidirectional": draw(st.booleans())}
    lengths = draw(st.none() | st.lists(st.integers(1, longest), min_size=batch, max_size=batch))
    lengths = None if lengths is None else torch.tensor(lengths)
    torch.manual_seed(draw(st.integers(0, 2**31)))
    clipped = {"cell_range": draw(st.sampled_from((1, 32)))} if kind is LSTM else {}
    module = kind(*sizes, layers, batch_first=True, q=q, **options, **clipped)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    x, shape = torch.randn(batch, longest, sizes[0]), (layers * module.directions, batch, sizes[1])
    states = [torch.randn(shape) for _ in range(draw(st.sampled_from((0, 1))) * (2 if kind is LSTM else 1))]
    assume(q is None or are_decided(module, x, states, lengths))
    found, grads = trained(module, x, states, lengths)
    with kernels.using(None):
        expected, wanted = trained(module, x, states, lengths)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 if q is not None else 1e-5)
    for one, other in zip(grads, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@compiled
@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_who_computes_is_chosen_by_type_and_device(kind: Any) -> None:
    cell, numbers = kind(3, 4, q=4).cell, torch.zeros(2, 3)
    assert isinstance(cell.computing(numbers), CompiledCell)
    assert isinstance(kind(3, 4).cell.computing(numbers), CompiledCell)
    for others in (numbers.double(), numbers.bfloat16(), numbers.to("meta"), numbers.as_subclass(Subclass)):
        assert cell.computing(others) is cell
    many = kind(3, 4, q=2**15).cell  # float32 does not hold the products of so many levels
    assert many.computing(numbers) is many
    with kernels.using(None):
        assert cell.computing(numbers) is cell


def sizes_of(kind: Any) -> Any:
    """As large as what oneDNN multiplies, in several groups of positions."""
    torch.manual_seed(0)
    return kind(96, 96, batch_first=True), torch.randn(48, 30, 96)


@compiled
@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_large_layers_without_levels_are_torchs(kind: Any) -> None:
    ours, x = sizes_of(kind)
    theirs = {GRU: nn.GRU, LSTM: nn.LSTM}[kind](96, 96, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    for one, other in zip(trained_plainly(ours, x), trained_plainly(theirs, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def trained_plainly(module: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    output, _ = module(x)
    torch.manual_seed(1)
    return [
        output.detach(),
        *torch.autograd.grad((output * torch.randn(output.shape)).sum(), [x, *module.parameters()]),
    ]


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_values_without_a_gradient_are_the_same(kind: Any) -> None:
    torch.manual_seed(0)
    module, x = kind(5, 6, 2, q=4, bidirectional=True), torch.randn(7, 3, 5)
    lengths = torch.tensor([7, 3, 5])
    with torch.no_grad():
        alone = module(x, lengths=lengths)[0]
    assert torch.equal(alone, module(x, lengths=lengths)[0].detach())


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_a_gradient_can_be_taken_twice_but_has_none_of_its_own(kind: Any) -> None:
    torch.manual_seed(0)
    module, x = kind(5, 6, q=4), torch.randn(7, 3, 5, requires_grad=True)
    output = module(x)[0].sum()
    inputs = [x, *module.parameters()]
    first = [each.clone() for each in torch.autograd.grad(output, inputs, retain_graph=True)]
    for one, other in zip(first, torch.autograd.grad(output, inputs, retain_graph=True), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(InputError, match="no second derivatives: ask for their gradient without create_graph=True"):
        torch.autograd.grad(output, inputs, create_graph=True)


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_a_caller_may_change_the_output_in_place(kind: Any) -> None:
    torch.manual_seed(0)
    module, x = kind(5, 6, q=4), torch.randn(7, 3, 5)
    expected = torch.autograd.grad(2 * module(x)[0].sum(), list(module.parameters()))
    for one, other in zip(
        torch.autograd.grad(module(x)[0].mul_(2).sum(), list(module.parameters())), expected, strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_autocast_leaves_the_type_of_the_weights(kind: Any) -> None:
    torch.manual_seed(0)
    module, x = kind(5, 6, q=4), torch.randn(7, 3, 5)
    for given_type in (torch.float32, torch.bfloat16):
        inputs = x.to(given_type)
        with torch.autocast("cpu", torch.bfloat16):
            output, _ = module(inputs)
        expected, _ = module(inputs.float())
        assert output.dtype == torch.float32
        assert torch.equal(output, expected)
        for one, other in zip(
            torch.autograd.grad(output.sum(), list(module.parameters())),
            torch.autograd.grad(expected.sum(), list(module.parameters())),
            strict=True,
        ):
            assert torch.equal(one, other)


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_only_the_last_state_has_a_gradient(kind: Any) -> None:
    """What reads cells or final states alone gets the gradient that it would with all the rest times zero."""
    torch.manual_seed(0)
    module, x = kind(5, 6, q=4), torch.randn(7, 3, 5)
    parameters = list(module.parameters())
    output, final = module(x)
    last = final[-1] if kind is LSTM else final
    alone = torch.autograd.grad(last.sum(), parameters)
    output, final = module(x)
    last = final[-1] if kind is LSTM else final
    for one, other in zip(alone, torch.autograd.grad(last.sum() + 0 * output.sum(), parameters), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_initial_states_may_lie_in_memory_as_they_like(kind: Any) -> None:
    torch.manual_seed(0)
    module, x = kind(5, 6, q=4), torch.randn(7, 3, 5)
    for start in (
        torch.rand(3, 1, 6).transpose(0, 1),
        torch.rand(6, 3, 1).permute(2, 1, 0),
        torch.rand(6).expand(1, 3, 6),
    ):
        for q in (4, None):
            module.q = q
            found, dense = (
                module(x, (each, each) if kind is LSTM else each)[0] for each in (start, start.contiguous())
            )
            assert torch.equal(found, dense)
