"""The adapter "rnn": recurrent text classifiers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from torch import nn

from casc_core.activation import check_threshold
from casc_core.conversion.adapter import Adapter
from casc_core.conversion.lowering import Lowering, RuleTable
from casc_core.conversion.rules import batch_norm, grid_threshold, half_step, join, linear_map
from casc_core.conversion.symbols import Form, InputValue, SignalValue
from casc_core.numerics import stored
from casc_seq.classifier import Standardise
from casc_seq.recurrence import LastState, Recurrence
from casc_seq.rnn import RNN

RULES = RuleTable()
RULES.module(Standardise)(batch_norm)  # evaluated, it is the batch normalisation it inherits from


@RULES.module(RNN)
def _rnn(low: Lowering, rnn: RNN, input: Any, hx: Any = None, lengths: Any = None) -> tuple[SignalValue, SignalValue]:
    """Layer by layer and direction by direction: an input map, then the recurrence."""
    x = low.signal(input)
    for what, value in (("initial state", hx), ("lengths", lengths)):
        if value is not None and not isinstance(value, InputValue):
            raise low.refuse(f"its {what} must be computed from the inputs, not from spiking neurons")
    single = rnn.num_layers * rnn.directions == 1
    outputs: list[SignalValue] = []
    final: list[SignalValue] = []
    for row, (layer, direction, suffix) in enumerate(rnn.cells()):
        if direction == 0 and layer > 0:
            x, outputs = join(low, outputs, -1, stack=False), []
        name = low.layer_name(low.node_name if single else f"{low.node_name}.{suffix}")
        output = _cell(low, rnn, x, suffix, name, bool(direction), hx, row, lengths)
        outputs.append(output)
        last = low.emit(LastState(reverse=bool(direction), batch_first=rnn.batch_first), output, lengths)
        final.append(SignalValue(last, output.form))
    return join(low, outputs, -1, stack=False), join(low, final, 0, stack=True)


def _cell(
    low: Lowering, rnn: RNN, x: SignalValue, suffix: str, name: str, reverse: bool, hx: Any, row: int, lengths: Any
) -> SignalValue:
    weight_ih, weight_hh, bias = rnn.cell_parameters(suffix)
    check_threshold(rnn.threshold)
    recurrent = weight_hh.detach().double() * rnn.threshold
    if x.form.is_divided and x.form.exponent is not None:
        raise low.refuse(
            "its input is a mean over spikes, whose divisor only a run knows; divide after the recurrence, or multiply a "
            "sum by a constant"
        )
    exponent = own = low.numerics.weight_exponent(recurrent)
    if x.form.exponent is not None:
        arriving = x.form.exponent + low.numerics.weight_exponent(weight_ih.detach().double() * x.form.factor)
        # Weights that read whole spikes may give up the bits that the recurrence has not; those on a finer grid may not.
        exponent = max(exponent, arriving) if x.form.exponent >= 0 else min(exponent, arriving)
    threshold, exponent = grid_threshold(low, rnn.threshold, exponent)
    current = linear_map(low, x, weight_ih, bias, name, exponent)
    op = Recurrence(
        name=name,
        weight=stored(low.numerics.snap(recurrent, max(own, exponent))),
        threshold=threshold,
        scale=rnn.threshold,
        exponent=exponent,
        reverse=reverse,
        batch_first=rnn.batch_first,
        charge=half_step(low, threshold, exponent) if rnn.half_step else None,
    )
    return SignalValue(
        low.emit(op, current, hx, row, lengths), Form(scale=Fraction(rnn.threshold), exponent=0, is_exact=True)
    )


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
