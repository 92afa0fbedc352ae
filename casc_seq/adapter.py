"""The adapter "rnn": recurrent text classifiers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from torch import Tensor, nn

import casc_seq.spiking.integer_forms  # which registers what recurrent layers are in an export
import casc_seq.spiking.onnx_rules  # noqa: F401  # how its operations are written as ONNX
from casc_core import Adapter, ConversionError
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
    batch_norm,
    grid_threshold,
    half_step,
    join,
    stored,
)
from casc_core.operations import Layout
from casc_seq.classifier import Standardise
from casc_seq.layers.gated import GatedLayers
from casc_seq.layers.gru import GRU
from casc_seq.layers.lstm import LSTM
from casc_seq.layers.recurrent import RecurrentLayers
from casc_seq.layers.rnn import RNN
from casc_seq.spiking.bags import embedding_bag
from casc_seq.spiking.gated_populations import EmittedPopulation, GatedNode
from casc_seq.spiking.last_state import LastState
from casc_seq.spiking.recurrence import Recurrence
from casc_seq.spiking.recurrent_grid import recurrent_grid

RULES = RuleTable()
RULES.module(nn.EmbeddingBag)(embedding_bag)
RULES.module(Standardise)(batch_norm)  # evaluated, it is the batch normalisation it inherits from

# Which populations receive the spikes of which, at one position.
_GRU_BEFORE = ((), (), (0,), (1, 2))
_LSTM_BEFORE = ((), (), (), (), (0, 1, 2), (3, 4))


@RULES.module(RNN)
def _rnn(reader: Reader, rnn: RNN, input: Any, hx: Any = None, lengths: Any = None) -> tuple[SignalNode, SignalNode]:
    _require_lengths(reader, lengths)

    def cell(x: SignalNode, suffix: str, name: str, reverse: bool, row: int) -> list[SignalNode]:
        start = _start(reader, hx, row)
        return [_rnn_cell(reader, rnn, x, suffix, reader.layer_name(name), reverse, start, row, lengths)]

    output, (final,) = _layers(reader, rnn, input, lengths, cell)
    return output, final


@RULES.module(GRU)
def _gru(reader: Reader, gru: GRU, input: Any, hx: Any = None, lengths: Any = None) -> tuple[SignalNode, SignalNode]:
    _require_lengths(reader, lengths)

    def cell(x: SignalNode, suffix: str, name: str, reverse: bool, row: int) -> list[SignalNode]:
        weight, recurrent, bias_ih, bias_hh = _parameters(gru, suffix)
        own, hidden = None, gru.hidden_size
        if bias_ih is not None and bias_hh is not None:
            own, outside = bias_hh[2 * hidden :], bias_hh.clone()
            outside[2 * hidden :] = 0  # the reset gate multiplies the rest
            bias_ih = bias_ih + outside
        states = None if hx is None else (_start(reader, hx, row),)
        maps = (weight, bias_ih, recurrent, own)
        emitted = _gated(reader, gru, x, maps, None, name, reverse, states, row, lengths, _GRU_BEFORE)
        return [emitted[3]]

    output, (final,) = _layers(reader, gru, input, lengths, cell)
    return output, final


@RULES.module(LSTM)
def _lstm(
    reader: Reader, lstm: LSTM, input: Any, hx: Any = None, lengths: Any = None
) -> tuple[SignalNode, tuple[SignalNode, SignalNode]]:
    if hx is not None and not (isinstance(hx, (tuple, list)) and len(hx) == 2):
        raise reader.refuse("its initial states must be a tuple (h_0, c_0)")
    _require_lengths(reader, lengths)

    def cell(x: SignalNode, suffix: str, name: str, reverse: bool, row: int) -> list[SignalNode]:
        weight, recurrent, bias_ih, bias_hh = _parameters(lstm, suffix)
        bias = None if bias_ih is None or bias_hh is None else bias_ih + bias_hh
        states = None if hx is None else tuple(_start(reader, each, row) for each in hx)
        maps = (weight, bias, recurrent, None)
        emitted = _gated(reader, lstm, x, maps, lstm.cell_range, name, reverse, states, row, lengths, _LSTM_BEFORE)
        return [emitted[5], emitted[4]]

    output, (hidden, cells) = _layers(reader, lstm, input, lengths, cell)
    return output, (hidden, cells)


def _require_lengths(reader: Reader, lengths: Any) -> None:
    """Refuse lengths that do not follow from the inputs alone."""
    if lengths is not None and not isinstance(lengths, InputNode):
        raise reader.refuse("its lengths must be computed from the inputs, not from spiking neurons")


def _start(reader: Reader, hx: Any, row: int) -> InputNode | SignalNode | None:
    """The initial states `[cells, B, hidden]` where the inputs decide them; this cell's row of what follows from spikes."""
    if hx is None or isinstance(hx, InputNode):
        return hx
    if not isinstance(hx, SignalNode):
        raise reader.refuse(f"its initial state must be a tensor, not a {type(hx).__name__}")
    _require_undivided(
        reader,
        hx,
        "initial state",
        "put an activation between the mean and the layer, such as nn.Hardtanh() or nn.Tanh()",
    )
    return reader.apply(Layout(function="operator.getitem"), hx, row)


def _require_undivided(reader: Reader, x: SignalNode, what: str, remedy: str) -> None:
    """Refuse spikes over a divisor that only a run knows."""
    if x.is_divided and x.has_spikes:
        raise reader.refuse(f"its {what} is a mean over spikes, whose divisor only a run knows; {remedy}")


def _layers(
    reader: Reader,
    module: RecurrentLayers,
    input: Any,
    lengths: Any,
    cell: Callable[[SignalNode, str, str, bool, int], list[SignalNode]],
) -> tuple[SignalNode, list[SignalNode]]:
    """Layer by layer and direction by direction: the output, and each final state.

    Args:
        cell: gives the states at all positions of what it reads, the suffix of its parameters, its name, whether it goes
            backwards, and the row of its initial states.
    """
    x = reader.signal(input)
    _require_undivided(reader, x, "input", "divide after the recurrence, or multiply a sum by a constant")
    single = module.num_layers * module.directions == 1
    outputs: list[SignalNode] = []
    final: list[list[SignalNode]] = []
    for row, (layer, direction, suffix) in enumerate(module.cells()):
        if direction == 0 and layer > 0:
            x, outputs = join(reader, outputs, -1, stack=False), []
        name = reader.name if single else f"{reader.name}.{suffix}"
        states = cell(x, suffix, name, bool(direction), row)
        outputs.append(states[0])
        last = LastState(reverse=bool(direction), batch_first=module.batch_first)
        final.append([reader.apply(last, state, lengths) for state in states])
    together = [join(reader, list(each), 0, stack=True) for each in zip(*final, strict=True)]
    return join(reader, outputs, -1, stack=False), together


def _parameters(module: GatedLayers, suffix: str) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """`(W_x, W_h, b_x, b_h)` of a cell, float64."""
    from_input, from_state = (module.own(name, suffix).detach().double() for name in ("weight_ih", "weight_hh"))
    of_input, of_state = (None if each is None else each.detach().double() for each in module.biases(suffix))
    return from_input, from_state, of_input, of_state


def _levels_of(reader: Reader, module: RecurrentLayers) -> int:
    if module.q is None:
        raise reader.refuse("its activations are not rounded to levels; call casc_core.prepare(model, q=...) first")
    return module.q


def _gated(
    reader: Reader,
    module: GatedLayers,
    x: SignalNode,
    maps: tuple[Tensor, Tensor | None, Tensor, Tensor | None],
    cell_range: int | None,
    name: str,
    reverse: bool,
    hx: tuple[InputNode | SignalNode | None, ...] | None,
    row: int,
    lengths: InputNode | None,
    before: tuple[tuple[int, ...], ...],
) -> list[SignalNode]:
    """The populations of one direction of one layer; `before` says which receive the spikes of which."""
    weight, bias, recurrent, own = maps
    q = _levels_of(reader, module)
    node = GatedNode(
        name, x, LinearMap(x, weight, bias, name), weight, recurrent, own, q, cell_range, reverse,
        module.batch_first, hx, row, lengths, place=reader.place,
    )  # fmt: skip
    emitted: list[SignalNode] = []
    ends = zip(module.POPULATIONS, before, (high // q for _, high in module.ranges()), strict=False)
    for index, (population, read, units) in enumerate(ends):
        called = reader.layer_name(name + population)
        each = EmittedPopulation(called, node, index, tuple(emitted[i] for i in read), units)
        emitted.append(reader.add(each))
    return emitted


def _rnn_cell(
    reader: Reader, rnn: RNN, x: SignalNode, suffix: str, name: str, reverse: bool,
    start: InputNode | SignalNode | None, row: int, lengths: Any,
) -> SignalNode:  # fmt: skip
    weight, recurrent, bias = (None if each is None else each.detach().double() for each in rnn.cell_parameters(suffix))
    assert weight is not None
    assert recurrent is not None
    _levels_of(reader, rnn)
    check_threshold(rnn.threshold)
    current = LinearMap(x, weight, bias, name)
    state = start if isinstance(start, SignalNode) else None
    begins = None if state is None else LinearMap(state, recurrent, None, name)
    hx = start if isinstance(start, InputNode) else None
    population = RecurrentPopulation(
        name, x, current, weight, recurrent * rnn.threshold, rnn.threshold, rnn.half_step, reverse, rnn.batch_first, hx,
        row, lengths, state, begins,
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
        state, start: of an initial state that is a signal, its row, and the recurrent map of that; None: it is none.
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
    state: SignalNode | None
    start: SignalNode | None

    @cached_property
    def worth(self) -> Fraction:
        return Fraction(self.threshold)

    def potential(self, of: Callable[[Node], Reach]) -> Reach:
        received, recurrent = of(self.current), float(self.recurrent.abs().sum(1).max())
        if self.start is not None:
            received = received.plus(of(self.start))
        return replace(received, train=received.train + recurrent + self.threshold)

    def snap(self, snapping: Snapping) -> Snapped:
        numerics = snapping.numerics
        start = None if self.state is None else (self.state, self.recurrent / self.threshold)
        own, exponent = recurrent_grid(snapping, self.x, self.weight, self.recurrent, start)
        threshold, exponent = grid_threshold(numerics, self.threshold, exponent)
        self.require_threshold(threshold, self.threshold, 2.0**exponent)
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
        begins = self.hx if self.start is None else self.start.on_grid(exponent)
        ref = snapping.call(op, current, begins, self.row, self.lengths)
        return Snapped(ref, Form(scale=Fraction(self.threshold), exponent=0, is_exact=True))


def _options(module: nn.RNNBase) -> dict[str, Any]:
    """The options of torch's recurrent layers that ours have too."""
    weight = next(module.parameters())
    return {
        "input_size": module.input_size, "hidden_size": module.hidden_size, "num_layers": module.num_layers,
        "bias": module.bias, "batch_first": module.batch_first, "dropout": module.dropout,
        "bidirectional": module.bidirectional, "device": weight.device, "dtype": weight.dtype,
    }  # fmt: skip


def _with_weights(ours: RecurrentLayers, module: nn.Module) -> RecurrentLayers:
    ours.load_state_dict(module.state_dict())
    return ours.train(module.training)


def _prepared_rnn(module: nn.Module, q: int, threshold: float) -> RecurrentLayers:
    """The CQReLU counterpart of a `torch.nn.RNN`, with its weights."""
    assert isinstance(module, nn.RNN)
    return _with_weights(RNN(**_options(module), q=q, threshold=threshold), module)


def _prepared_gru(module: nn.Module, q: int, threshold: float) -> RecurrentLayers:
    """A `torch.nn.GRU` with its gates and states rounded to levels; they have a range of their own, and no threshold."""
    assert isinstance(module, nn.GRU)
    return _with_weights(GRU(**_options(module), q=q), module)


def _prepared_lstm(module: nn.Module, q: int, threshold: float) -> RecurrentLayers:
    """The same of a `torch.nn.LSTM`."""
    assert isinstance(module, nn.LSTM)
    if module.proj_size:
        raise ConversionError(
            f"an LSTM with proj_size={module.proj_size} cannot be converted: its states are a linear map of the units. Use "
            f"proj_size=0, and nn.Linear({module.hidden_size}, {module.proj_size}) behind it"
        )
    return _with_weights(LSTM(**_options(module), q=q), module)


def _recognises(model: nn.Module) -> bool:
    kinds = (nn.RNNBase, nn.RNNCellBase, nn.Embedding, nn.EmbeddingBag, RecurrentLayers)
    return any(isinstance(module, kinds) for module in model.modules())


adapter = Adapter("rnn", _recognises, {nn.RNN: _prepared_rnn, nn.GRU: _prepared_gru, nn.LSTM: _prepared_lstm}, RULES)
