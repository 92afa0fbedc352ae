"""The adapter "rnn": recurrent text classifiers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from casc_core import Adapter
from casc_core.activation import check_threshold
from casc_core.extend import (
    Form,
    InputNode,
    LinearMap,
    Node,
    PopulationNode,
    Reach,
    Reader,
    RuleTable,
    SignalNode,
    Snapped,
    Snapping,
    TableLookup,
    batch_norm,
    grid_threshold,
    half_step,
    join,
    stored,
)
from casc_seq.classifier import Standardise
from casc_seq.recurrence import LastState, Recurrence
from casc_seq.rnn import RNN

RULES = RuleTable()
RULES.module(Standardise)(batch_norm)  # evaluated, it is the batch normalisation it inherits from


@RULES.module(RNN)
def _rnn(reader: Reader, rnn: RNN, input: Any, hx: Any = None, lengths: Any = None) -> tuple[SignalNode, SignalNode]:
    """Layer by layer and direction by direction: an input map, then the recurrence."""
    x = reader.signal(input)
    for what, value in (("initial state", hx), ("lengths", lengths)):
        if value is not None and not isinstance(value, InputNode):
            raise reader.refuse(f"its {what} must be computed from the inputs, not from spiking neurons")
    single = rnn.num_layers * rnn.directions == 1
    outputs: list[SignalNode] = []
    final: list[SignalNode] = []
    for row, (layer, direction, suffix) in enumerate(rnn.cells()):
        if direction == 0 and layer > 0:
            x, outputs = join(reader, outputs, -1, stack=False), []
        name = reader.layer_name(reader.name if single else f"{reader.name}.{suffix}")
        output = _cell(reader, rnn, x, suffix, name, bool(direction), hx, row, lengths)
        outputs.append(output)
        last = LastState(reverse=bool(direction), batch_first=rnn.batch_first)
        final.append(reader.apply(last, output, lengths))
    return join(reader, outputs, -1, stack=False), join(reader, final, 0, stack=True)


def _cell(
    reader: Reader, rnn: RNN, x: SignalNode, suffix: str, name: str, reverse: bool, hx: Any, row: int, lengths: Any
) -> SignalNode:
    weight, recurrent, bias = (None if each is None else each.detach().double() for each in rnn.cell_parameters(suffix))
    assert weight is not None
    assert recurrent is not None
    check_threshold(rnn.threshold)
    if x.is_divided and x.has_spikes:
        raise reader.refuse(
            "its input is a mean over spikes, whose divisor only a run knows; divide after the recurrence, or multiply a "
            "sum by a constant"
        )
    current = LinearMap(x, weight, bias, name)
    population = RecurrentPopulation(
        name, x, current, weight, recurrent * rnn.threshold, rnn.threshold, rnn.half_step, reverse, rnn.batch_first, hx,
        row, lengths,
    )  # fmt: skip
    return reader.add(population)


@dataclass(frozen=True, eq=False, repr=False)
class RecurrentPopulation(PopulationNode):
    """A population of neurons for each token position, which the spikes of the one before reach.

    Attributes:
        x: what its input map reads.
        current: the input map; its result is put on the grid of the recurrence.
        weight: of the input map, before anything is folded into it.
        recurrent: the weights that spikes come back through, times the threshold.
        hx, row, lengths: the initial state, of which this is the row, and how long each text is.
    """

    x: SignalNode
    current: SignalNode
    weight: Tensor
    recurrent: Tensor
    threshold: float
    rounds: bool
    reverse: bool
    batch_first: bool
    hx: InputNode | None
    row: int
    lengths: InputNode | None

    @property
    def worth(self) -> Fraction:
        return Fraction(self.threshold)

    def potential(self, of: Callable[[Node], Reach]) -> Reach:
        received, recurrent = of(self.current), float(self.recurrent.abs().sum(1).max())
        return replace(received, train=received.train + recurrent + self.threshold)

    def snap(self, snapping: Snapping) -> Snapped:
        numerics, form = snapping.numerics, snapping.of(self.x).form
        exponent = own = numerics.weight_exponent(self.recurrent)
        if form.exponent is not None:
            arriving = form.exponent + numerics.weight_exponent(self.weight * form.factor, arriving=form.exponent)
            # Weights that read whole spikes may give up bits that the recurrence has not; those on a finer grid may not.
            exponent = max(exponent, arriving) if form.exponent >= 0 else min(exponent, arriving)
        threshold, exponent = grid_threshold(numerics, self.threshold, exponent)
        self.require_threshold(threshold, self.threshold, 2.0**exponent)
        assert isinstance(self.current, (LinearMap, TableLookup))
        op = Recurrence(
            name=self.name,
            weight=stored(numerics.snap(self.recurrent, max(own, exponent))),
            threshold=threshold,
            scale=self.threshold,
            exponent=exponent,
            reverse=self.reverse,
            batch_first=self.batch_first,
            charge=half_step(numerics, threshold, exponent) if self.rounds else None,
        )
        current = self.current.on_grid(exponent)
        ref = snapping.call(op, current, self.hx, self.row, self.lengths)
        return Snapped(ref, Form(scale=Fraction(self.threshold), exponent=0, is_exact=True))


def _prepared(module: nn.Module, q: int, threshold: float) -> RNN:
    """The CQReLU counterpart of a `torch.nn.RNN`, with its weights."""
    assert isinstance(module, nn.RNN)
    weight = next(module.parameters())
    rnn = RNN(
        module.input_size,
        module.hidden_size,
        module.num_layers,
        bias=module.bias,
        batch_first=module.batch_first,
        dropout=module.dropout,
        bidirectional=module.bidirectional,
        device=weight.device,
        dtype=weight.dtype,
        q=q,
        threshold=threshold,
    )
    rnn.load_state_dict(module.state_dict())
    return rnn.train(module.training)


def _recognises(model: nn.Module) -> bool:
    return any(isinstance(module, (nn.RNNBase, nn.Embedding, nn.EmbeddingBag, RNN)) for module in model.modules())


adapter = Adapter("rnn", _recognises, {nn.RNN: _prepared}, RULES)
