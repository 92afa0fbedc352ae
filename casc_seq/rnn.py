"""The CQReLU recurrent network: a drop-in for `torch.nn.RNN` that can be converted exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from casc_core.activation import Quantised
from casc_core.errors import ConfigError, InputError

# Of layers, units and inputs.
_MOST = 2**20


def time_order(batch_sizes: Sequence[int], reverse: bool) -> list[tuple[int, int, int]]:
    """Rows of a packed sequence in the order a recurrence visits them.

    Position `i` of a packed sequence occupies rows `start : start + size`, `size = batch_sizes[i]`. Returns
    `(start, size, known)` for each visit, `known` being how many of its rows already have a state from the visit
    before; the others begin at the initial state. Forward, sequences only leave; in reverse, they only join.

    >>> time_order([3, 2], reverse=False)
    [(0, 3, 0), (3, 2, 2)]
    >>> time_order([3, 2], reverse=True)
    [(3, 2, 0), (0, 3, 2)]
    """
    spans, start = [], 0
    for size in batch_sizes:
        spans.append((start, size))
        start += size
    if reverse:
        spans.reverse()
    order, before = [], 0
    for start, size in spans:
        order.append((start, size, min(before, size)))
        before = size
    return order


def _levels(
    drive: Tensor, start: Tensor, weight: Tensor, order: list[tuple[int, int, int]], q: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The levels of every visit, the currents they come from, and the levels before."""
    z = drive.clone()
    levels, previous = torch.empty_like(z), torch.empty_like(z)
    weight_t = weight.t()
    last = 0
    for row, size, known in order:
        rows, before = slice(row, row + size), previous[row : row + size]
        before[:known] = levels[last : last + known]
        before[known:] = start[known:size]
        torch.addmm(z[rows], before, weight_t, out=z[rows])
        torch.floor(z[rows], out=levels[rows])
        levels[rows].clamp_(0, q)
        last = row
    return levels, z, previous


class _Recurrence(torch.autograd.Function):
    """One direction of one layer over a whole packed sequence, in levels.

    With `z_i = q/theta * current_i + W_h n_{i-1}` the new state is `n_i = clip(floor(z_i), 0, q)`, and
    `h_i = theta/q * n_i`: the scale cancels in the recurrent product, so a visit is one product, one floor and one
    clip. Backward visits the positions once in the opposite order, then takes one product for the gradient of `W_h`.
    """

    @staticmethod
    def forward(
        ctx: Any, drive: Tensor, start: Tensor, weight: Tensor, order: list[tuple[int, int, int]], q: int
    ) -> Tensor:
        levels, z, previous = _levels(drive, start, weight, order, q)
        ctx.order = order
        ctx.save_for_backward((z >= 0) & (z <= q), previous, weight)
        return levels

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        inside, previous, weight = ctx.saved_tensors
        order = ctx.order
        grad = grads[0] * inside
        grad_start = torch.zeros_like(previous[: max(size for _, size, _ in order)])
        inside = inside.to(grad.dtype)
        for visit in reversed(range(len(order))):
            row, size, known = order[visit]
            into_previous = grad[row : row + size] @ weight
            if known:
                earlier = order[visit - 1][0]
                rows = slice(earlier, earlier + known)
                grad[rows].addcmul_(into_previous[:known], inside[rows])
            grad_start[known:size] = into_previous[known:]
        return grad, grad_start, grad.t() @ previous, None, None


_recurrence: Callable[[Tensor, Tensor, Tensor, list[tuple[int, int, int]], int], Tensor] = _Recurrence.apply


class _Visit(NamedTuple):
    """What the recurrence of one direction of one layer reads, in levels: as `_levels` takes it."""

    drive: Tensor
    start: Tensor
    weight: Tensor
    order: list[tuple[int, int, int]]
    q: int


class _Rows:
    """How a batch of sequences becomes rows, position by position and the longest texts first, and back.

    Attributes:
        sizes: how many sequences have position 0, 1, ...
        packed: the batch packed, where its lengths are given.
    """

    def __init__(self, length: int, batch: int, lengths: Tensor | None, batch_first: bool) -> None:
        self.length, self.batch, self.batch_first = length, batch, batch_first
        self.lengths = None if lengths is None else check_lengths(lengths, batch, length)
        self.sizes = [batch] * length
        self.packed: PackedSequence | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Sequences and positions, in the order in which the user has them."""
        return (self.batch, self.length) if self.batch_first else (self.length, self.batch)

    def of(self, sequences: Tensor) -> Tensor:
        """The rows `[rows, features]` of sequences as the user has them."""
        positions_first = sequences.transpose(0, 1) if self.batch_first else sequences
        if self.lengths is None:
            return positions_first.reshape(self.length * self.batch, -1)
        self.packed = pack_padded_sequence(positions_first, self.lengths, enforce_sorted=False)
        self.sizes = self.packed.batch_sizes.tolist()
        return self.packed.data

    def back(self, rows: Tensor) -> Tensor:
        """The sequences of such rows, zero behind each one's end."""
        if self.packed is None:
            sequences = rows.reshape(self.length, self.batch, -1)
        else:
            packed = self.packed
            again = PackedSequence(rows, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
            sequences, _ = pad_packed_sequence(again, total_length=self.length)
        return sequences.transpose(0, 1) if self.batch_first else sequences


_Recur = Callable[[_Visit, _Rows], Tensor]


def _own(visit: _Visit, rows: _Rows) -> Tensor:
    """The levels that a recurrence itself comes to."""
    return _recurrence(*visit) if torch.is_grad_enabled() else _levels(*visit)[0]


def _previous(levels: Tensor, visit: _Visit) -> Tensor:
    """The levels before those of each row, where all are known."""
    previous, last = torch.empty_like(levels), 0
    for row, size, known in visit.order:
        previous[row : row + known] = levels[last : last + known]
        previous[row + known : row + size] = visit.start[known:size]
        last = row
    return previous


class RNN(Quantised):
    r"""A recurrent network with the CQReLU activation; same constructor, parameters and shapes as `torch.nn.RNN`.

    Layer by layer and position by position, `h_i = CQReLU(W_x e_i + b + W_h h_{i-1})` with
    `CQReLU(x) = theta/q * clip(floor(q x / theta), 0, q)` (the paper's Section 5.4 and Eq. 6). The gradient passes
    straight through the floor. A `state_dict` of a `torch.nn.RNN` of the same sizes loads unchanged.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional: as in `torch.nn.RNN`.
        nonlinearity: accepted so that calls of `torch.nn.RNN` work unchanged; the activation is CQReLU whatever it says.
        q: levels of the activation.
        threshold: largest value of a hidden unit.
        half_step: round to the nearest level instead of down: `floor(q x / theta + 1/2)`.

    Shape of the call `rnn(input, hx=None, lengths=None)`:
        input `[L, B, input_size]`, or `[B, L, input_size]` if `batch_first`, or `[L, input_size]` for one sequence;
        hx `[num_layers * directions, B, hidden_size]`, zeros if None;
        lengths `[B]`: how many positions of each sequence are real, in place of a packed sequence. What follows is not
        read; there the output is 0, `h_n` is the state at the last real position, and the reverse direction starts
        from it. Output and `h_n` have the shapes of `torch.nn.RNN`'s.

    Raises:
        ConfigError: sizes, `q` or `threshold` out of range.
        InputError: an input of the wrong shape, a packed sequence, a length outside `1..L`.

    >>> rnn = RNN(5, 3, q=4, batch_first=True, bidirectional=True)
    >>> output, h_n = rnn(torch.randn(2, 7, 5), lengths=torch.tensor([7, 4]))
    >>> output.shape, h_n.shape
    (torch.Size([2, 7, 6]), torch.Size([2, 2, 3]))
    >>> bool((output * 4 == (output * 4).round()).all()), output[1, 4:].abs().sum().item()
    (True, 0.0)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "cq_relu",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        q: int = 2,
        threshold: float = 1.0,
        half_step: bool = False,
    ) -> None:
        super().__init__(q, threshold)
        self.half_step = half_step
        self.threshold: float = float(threshold)
        if nonlinearity not in ("cq_relu", "tanh", "relu"):
            raise ConfigError(f"nonlinearity must be 'cq_relu' (or 'tanh' or 'relu', read as it); got {nonlinearity!r}")
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if not 1 <= value <= _MOST:
                bound = "at least 1" if value < 1 else f"at most {_MOST:,}"
                raise ConfigError(f"{name} must be {bound}; got {value!r}")
        if not 0.0 <= dropout <= 1.0:
            raise ConfigError(f"dropout must be a probability in [0, 1]; got {dropout!r}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, float(dropout), bidirectional
        for layer, _, suffix in self.cells():
            width = input_size if layer == 0 else hidden_size * self.directions
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (hidden_size, width),
                "weight_hh": (hidden_size, hidden_size),
            }
            if bias:
                shapes |= {"bias_ih": (hidden_size,), "bias_hh": (hidden_size,)}
            for name, shape in shapes.items():
                parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                self.register_parameter(f"{name}_{suffix}", parameter)
        self.reset_parameters()

    @property
    def directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    def cells(self) -> list[tuple[int, int, str]]:
        """`(layer, direction, suffix of its parameters)` of each layer and direction, in the order of `h_n`."""
        return [
            (layer, direction, f"l{layer}" + "_reverse" * direction)
            for layer in range(self.num_layers)
            for direction in range(self.directions)
        ]

    def reset_parameters(self) -> None:
        """Draw all parameters from U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)), as `torch.nn.RNN` does."""
        bound = self.hidden_size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def cell_parameters(self, suffix: str) -> tuple[Tensor, Tensor, Tensor | None]:
        """`(W_x, W_h, b)` of the cell with this suffix; b is the sum of its two biases, or None."""
        weight_ih, weight_hh = getattr(self, f"weight_ih_{suffix}"), getattr(self, f"weight_hh_{suffix}")
        if not self.bias:
            return weight_ih, weight_hh, None
        return weight_ih, weight_hh, getattr(self, f"bias_ih_{suffix}") + getattr(self, f"bias_hh_{suffix}")

    def forward(self, input: Tensor, hx: Tensor | None = None, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if isinstance(input, PackedSequence):
            raise InputError("casc_seq.RNN takes no PackedSequence; pass the padded tensor and lengths=... instead")
        if input.dim() == 2:
            output, h_n = self._batched(
                input.unsqueeze(0 if self.batch_first else 1), None if hx is None else hx.unsqueeze(1), lengths, _own
            )
            return output.squeeze(0 if self.batch_first else 1), h_n.squeeze(1)
        return self._batched(input, hx, lengths, _own)

    def populations(self) -> tuple[str, ...]:
        cells = self.cells()
        return ("",) if len(cells) == 1 else tuple(f".{suffix}" for _, _, suffix in cells)

    def observed(self, levels: Sequence[Tensor | None], *inputs: Any, **named: Any) -> tuple[Any, list[Tensor]]:
        seen: list[Tensor] = []

        def recurrence(visit: _Visit, rows: _Rows) -> Tensor:
            given = levels[len(seen)]
            if given is None or given.shape != (*rows.shape, self.hidden_size):
                own, z, _ = _levels(*visit)
            else:
                own = rows.of(given.to(visit.drive.dtype))
                z = visit.drive + _previous(own, visit) @ visit.weight.t()
            seen.append(rows.back(z))
            return own

        return self._observed(recurrence, *inputs, **named), seen

    def _observed(
        self, recurrence: _Recur, input: Tensor, hx: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return self._batched(input, hx, lengths, recurrence)

    def _batched(
        self, input: Tensor, hx: Tensor | None, lengths: Tensor | None, recurrence: _Recur
    ) -> tuple[Tensor, Tensor]:
        if input.dim() != 3 or input.shape[-1] != self.input_size or 0 in input.shape:
            raise InputError(
                f"expected a non-empty input whose last of 3 dimensions is {self.input_size}; got {list(input.shape)}"
            )
        length, batch = (input.shape[1], input.shape[0]) if self.batch_first else input.shape[:2]
        expected = (self.num_layers * self.directions, batch, self.hidden_size)
        if hx is not None and tuple(hx.shape) != expected:
            raise InputError(f"expected hx of shape {list(expected)}; got {list(hx.shape)}")
        rows = _Rows(length, batch, lengths, self.batch_first)
        x = rows.of(input)
        if hx is not None and rows.packed is not None:
            hx = hx[:, rows.packed.sorted_indices]
        output, h_n = self._packed(x, hx, rows, recurrence)
        if rows.packed is not None:
            h_n = h_n[:, rows.packed.unsorted_indices]
        return rows.back(output), h_n

    def _packed(self, x: Tensor, hx: Tensor | None, rows: _Rows, recurrence: _Recur) -> tuple[Tensor, Tensor]:
        sizes = rows.sizes
        scale, last_rows = self.q / self.threshold, torch.as_tensor(_last_rows(sizes), device=x.device)
        final: list[Tensor] = []
        outputs: list[Tensor] = []
        for index, (layer, direction, suffix) in enumerate(self.cells()):
            if direction == 0 and layer > 0:
                x = F.dropout(torch.cat(outputs, dim=1), self.dropout, self.training)
                outputs = []
            weight_ih, weight_hh, bias = self.cell_parameters(suffix)
            drive = F.linear(x, weight_ih, bias) * scale
            drive = drive + 0.5 if self.half_step else drive
            start = drive.new_zeros(sizes[0], self.hidden_size) if hx is None else hx[index] * scale
            visit = _Visit(drive, start, weight_hh, time_order(sizes, reverse=bool(direction)), self.q)
            outputs.append(recurrence(visit, rows) / scale)
            final.append(outputs[-1][: sizes[0]] if direction else outputs[-1][last_rows])
        return torch.cat(outputs, dim=1), torch.stack(final)

    def extra_repr(self) -> str:
        words = [f"{self.input_size}, {self.hidden_size}, q={self.q}, threshold={self.threshold:g}"]
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        defaults["half_step"] = False
        words += [f"{name}={getattr(self, name)}" for name, value in defaults.items() if getattr(self, name) != value]
        return ", ".join(words)


def check_lengths(lengths: Tensor, batch: int, longest: int) -> Tensor:
    """`lengths` as int64 on the CPU, if it has one length in `1..longest` for each of `batch` sequences."""
    lengths = torch.as_tensor(lengths).to("cpu", torch.int64)
    if lengths.shape != (batch,):
        raise InputError(f"expected one length for each of {batch} sequences; got shape {list(lengths.shape)}")
    bad = ((lengths < 1) | (lengths > longest)).nonzero()
    if len(bad):
        index = int(bad[0])
        raise InputError(f"lengths must lie in 1..{longest}; sample {index} has length {int(lengths[index])}")
    return lengths


def _last_rows(sizes: Sequence[int]) -> list[int]:
    """Row of the last real position of each sequence in a packed sequence (longest first)."""
    last = [0] * sizes[0]
    for start, size, _ in time_order(sizes, reverse=False):
        last[:size] = range(start, start + size)
    return last
