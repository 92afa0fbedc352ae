"""A recurrent population in a lowered network: each token position has its own neurons."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from casc_core.errors import InputError
from casc_core.numerics import INPUT_EXPONENT, INPUT_REACH
from casc_core.ops import Op, batch_owner
from casc_core.run import Run
from casc_core.signal import Signal
from casc_seq.rnn import check_lengths, time_order


class Recurrence(Op):
    """One direction of one recurrent layer: `I_i[t] = current_i[t] + W_h s_{i-1}[t]`, then the neurons of position i.

    The spikes that position i-1 emits at step t reach position i at step t. Each position is simulated over all its
    steps at once: one product for the recurrent current of every step, then one scan over time.

    Settings: the layer's name, threshold, grid, and direction. Called with the input current `[B, L, hidden]` (or
    `[L, B, hidden]`), a real-valued initial state `[cells, B, hidden]` or None, its row, and lengths `[B]` or None.
    """

    is_layer = True
    weight: Tensor

    def __init__(
        self, name: str, weight: Tensor, threshold: float, scale: float, exponent: int, reverse: bool, batch_first: bool
    ) -> None:
        super().__init__(
            {
                "name": name,
                "threshold": threshold,
                "scale": scale,
                "exponent": exponent,
                "reverse": reverse,
                "batch_first": batch_first,
            },
            {"weight": weight},
        )
        self.reach = float(weight.double().abs().sum(1).max())

    def forward(
        self, run: Run, current: Signal, start: Tensor | None = None, row: int = 0, lengths: Tensor | None = None
    ) -> Signal:
        name, exponent = self.settings["name"], self.settings["exponent"]
        if len(current.shape) != 3 or 0 in current.shape:
            raise InputError(f"{name}: expected a non-empty batch of sequences; got shape {list(current.shape)}")
        if current.divisor is not None:
            raise InputError(
                f"{name}: its input is divided by numbers that differ by sample; divide after the recurrence"
            )
        batch_axis = 0 if self.settings["batch_first"] else 1
        batch, length = current.shape[batch_axis], current.shape[1 - batch_axis]
        if run.samples != batch and run.recorder is not None and run.recorder.last_spike:
            raise InputError(
                f"{name}: {batch} sequences, but the layers before it saw {run.samples} samples: neurons in front of a "
                "recurrent layer need the batch as their first dimension; use batch_first=True"
            )
        run.samples = batch
        order = Order.of(batch, length, lengths, self.settings["reverse"], current.train.device)
        initial = self._initial_current(run, start, row, batch, order)
        reach = current.bound + current.drive_reach + self.reach
        reach += 0.0 if initial is None else float(initial.abs().max())
        dtype = run.potential_dtype(reach, self.settings["threshold"], exponent, name)
        product = run.numerics.dtype(self.reach * run.peak, exponent, name)
        spikes = self._spikes(run, current, initial, order, dtype, product)
        if not self.settings["batch_first"]:
            spikes = spikes.transpose(1, 2)
        result = Signal(spikes, None, None, 1.0, batch_owner(spikes[0] if len(spikes) else spikes.sum(0), batch_axis))
        if run.recorder is not None:
            run.recorder.spikes(name, result, batch, neurons=sum(order.sizes) * current.shape[2])
        return result

    def _spikes(
        self,
        run: Run,
        current: Signal,
        initial: Tensor | None,
        order: Order,
        dtype: torch.dtype,
        product: torch.dtype,
    ) -> Tensor:
        """Spikes of all positions, `[steps, B, L, hidden]`."""
        name, exponent, threshold = (self.settings[key] for key in ("name", "exponent", "threshold"))
        drive = None if current.drive is None else run.numerics.snap(current.drive, exponent)
        train = current.train
        if not self.settings["batch_first"]:
            drive, train = None if drive is None else drive.transpose(0, 1), train.transpose(1, 2)
        weight = self.weight.to(product)
        hidden = weight.shape[0]
        emitted: list[tuple[Tensor, Tensor, int]] = []
        before = train.new_zeros((0, 0, hidden), dtype=torch.int8)
        for position, size, known in order.visits:
            rows = order.rows[:size]
            arriving = train[:, rows, position].to(dtype)
            if before.shape[0]:
                recurrent = F.linear(before[:, :known].to(product), weight)
                if arriving.shape[0] or known < size:
                    steps = max(len(arriving), len(recurrent))
                    total = arriving.new_zeros((steps, size, hidden))
                    total[: len(arriving)] = arriving
                    total[: len(recurrent), :known] += recurrent
                    arriving = total
                else:
                    arriving = recurrent.to(dtype)
                if run.recorder is not None:
                    run.recorder.arriving(name, before[:, :known], hidden)
            wake = None if drive is None else drive[rows, position].to(dtype)
            if initial is not None and known < size:
                wake = torch.zeros((size, hidden), dtype=dtype, device=train.device) if wake is None else wake
                wake[known:] += initial[known:size].to(dtype)
            before = run.fire(arriving, wake, threshold)
            emitted.append((before, rows, position))
        steps = max(len(spikes) for spikes, _, _ in emitted)
        result = train.new_zeros((steps, train.shape[1], train.shape[2], hidden), dtype=emitted[0][0].dtype)
        for spikes, rows, position in emitted:
            result[: len(spikes), rows, position] = spikes
        return result

    def _initial_current(self, run: Run, start: Tensor | None, row: int, batch: int, order: Order) -> Tensor | None:
        """Current from a real-valued initial state, in the order of the visits."""
        if start is None or not bool((start != 0).any()):
            return None
        hidden = self.weight.shape[0]
        if start.dim() != 3 or tuple(start.shape[1:]) != (batch, hidden) or start.shape[0] <= row:
            raise InputError(
                f"{self.settings['name']}: expected hx of shape [cells, {batch}, {hidden}]; got {list(start.shape)}"
            )
        state = run.numerics.snap(start[row] / self.settings["scale"], INPUT_EXPONENT)
        if not float(state.abs().max()) < INPUT_REACH:
            raise InputError(f"{self.settings['name']}: the initial state must be finite and below {INPUT_REACH:g}")
        exponent = self.settings["exponent"]
        run.numerics.dtype(float(state.abs().max()) * self.reach, exponent + INPUT_EXPONENT, self.settings["name"])
        return run.numerics.snap(F.linear(state, self.weight.double()), exponent)[order.rows]


class Order:
    """How a recurrence goes through a padded batch: longest texts first, each visit one position of those that have it.

    Attributes:
        rows: samples, longest first.
        sizes: how many samples have position 0, 1, ...
        visits: `(position, size, known)`: the first `size` of `rows` are visited, of which the first `known` have a state.
    """

    def __init__(self, rows: Tensor, sizes: list[int], reverse: bool) -> None:
        self.rows, self.sizes = rows, sizes
        positions = range(len(sizes) - 1, -1, -1) if reverse else range(len(sizes))
        spans = time_order(sizes, reverse)
        self.visits = [(position, size, known) for position, (_, size, known) in zip(positions, spans, strict=True)]

    @classmethod
    def of(cls, batch: int, length: int, lengths: Tensor | None, reverse: bool, device: torch.device) -> Order:
        """The order for a batch with these lengths (None: all full)."""
        if lengths is None:
            return cls(torch.arange(batch, device=device), [batch] * length, reverse)
        checked = check_lengths(lengths, batch, length)
        ordered, rows = torch.sort(checked, descending=True, stable=True)
        sizes = [int((ordered > position).sum()) for position in range(int(ordered[0]))]
        return cls(rows.to(device), sizes, reverse)


class LastState(Op):
    """`h_n` of one direction: the output at the last real position, or at the first in reverse."""

    def __init__(self, reverse: bool, batch_first: bool) -> None:
        super().__init__({"reverse": reverse, "batch_first": batch_first})

    def forward(self, run: Run, output: Signal, lengths: Tensor | None = None) -> Signal:
        positions_axis = 1 if self.settings["batch_first"] else 0
        if self.settings["reverse"]:
            return output.map(lambda x: x.select(positions_axis, 0))
        if lengths is None:
            return output.map(lambda x: x.select(positions_axis, -1))
        last = torch.as_tensor(lengths, device=output.train.device).long() - 1
        index = last.reshape([-1, 1, 1] if positions_axis == 1 else [1, -1, 1])
        width = output.shape[-1]

        def pick(x: Tensor) -> Tensor:
            shape = list(x.shape)
            shape[positions_axis], shape[-1] = 1, width
            return x.gather(positions_axis, index.expand(shape)).squeeze(positions_axis)

        return output.map(pick)
