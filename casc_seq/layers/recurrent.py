"""What the recurrent networks of this package have in common: layers, directions, lengths, initial states."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from casc_core.activation import Observable
from casc_core.errors import ConfigError, InputError
from casc_seq.layers.rows import Rows, TimeOrder, time_order

# Of layers, units and inputs.
_MOST = 2**20


class Visit(NamedTuple):
    """What the recurrence of one direction of one layer reads.

    Attributes:
        x: the input's rows, position by position.
        start: each of its initial states, `[batch, hidden]`; None: zero.
        suffix: of its parameters.
        order: how it goes through the rows, as `time_order` says.
    """

    x: Tensor
    start: Sequence[Tensor | None]
    suffix: str
    order: TimeOrder

    def start_rows(self, state: int, like: Tensor, hidden: int) -> Tensor:
        """An initial state, zeros where there is none."""
        given = self.start[state]
        return like.new_zeros(max(size for _, size, _ in self.order), hidden) if given is None else given


class Course(NamedTuple):
    """What became of a recurrence, row by row.

    Attributes:
        levels: of each population, whole numbers.
        before: what they were rounded from: activations in levels, such that `levels = clip(floor(before))`.
    """

    levels: list[Tensor]
    before: list[Tensor]


_Recur = Callable[[Visit, Rows], Sequence[Tensor]]


def _is_autocast(device: str) -> bool:
    """Whether autocast is on for devices of this type, of which some know none."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    """Sums that are rounded to levels keep the type of their weights."""
    return torch.autocast(device, enabled=False) if _is_autocast(device) else nullcontext()


def only_first_derivatives() -> None:
    """Called where a gradient is computed: refuse to give it one of its own, which no recurrence here has.

    Raises:
        InputError: the gradient is asked for with `create_graph=True`.
    """
    if torch.is_grad_enabled():
        raise InputError(
            "recurrent layers of casc_seq have no second derivatives: ask for their gradient without create_graph=True"
        )


def _beside(outputs: Sequence[Tensor]) -> Tensor:
    """The states of both directions, feature by feature; those of one as they are."""
    return outputs[0] if len(outputs) == 1 else torch.cat(list(outputs), dim=1)


class RecurrentLayers(Observable[int | None]):
    """Layers and directions of one kind of recurrence, with the interface of `torch.nn.RNNBase`.

    A kind says how many `GATES` its parameters hold, and which populations of neurons a cell has.

    Raises:
        ConfigError: a size or a probability out of range.
        InputError: in a call, an input of the wrong shape, a packed sequence, a length outside `1..L`.
    """

    GATES: ClassVar[int] = 1
    """Blocks of `hidden_size` rows in its weights."""
    POPULATIONS: ClassVar[tuple[str, ...]] = ("",)
    """Of neurons at each position: what their names end with."""
    RETURNED: ClassVar[tuple[Any, ...]] = (None, None)
    """The tuples that a call gives, with None for each tensor."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        q: int | None,
        threshold: float = 1.0,
    ) -> None:
        super().__init__(q, threshold)
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if not 1 <= value <= _MOST:
                bound = "at least 1" if value < 1 else f"at most {_MOST:,}"
                raise ConfigError(f"{name} must be {bound}; got {value!r}")
        if not 0.0 <= dropout <= 1.0:
            raise ConfigError(f"dropout must be a probability in [0, 1]; got {dropout!r}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, float(dropout), bidirectional
        rows = self.GATES * hidden_size
        for layer, _, suffix in self.cells():
            width = input_size if layer == 0 else hidden_size * self.directions
            shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_size)}
            if bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
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
        """Draw all parameters from U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)), as torch's do."""
        bound = self.hidden_size**-0.5
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def own(self, name: str, suffix: str) -> Tensor:
        """A parameter of the cell with this suffix, such as "weight_ih"."""
        parameter: Tensor = getattr(self, f"{name}_{suffix}")
        return parameter

    @abstractmethod
    def recur(self, visit: Visit) -> Sequence[Tensor]:
        """The states of every row, in the user's values, with a gradient where one is wanted."""

    @abstractmethod
    def course(self, visit: Visit, levels: Sequence[Tensor] | None = None) -> Course:
        """Level by level what becomes of a recurrence: by itself, or where its populations are to give these levels."""

    @abstractmethod
    def states(self, levels: Sequence[Tensor]) -> Sequence[Tensor]:
        """The states, in the user's values, of the levels of a cell's populations."""

    def given_states(self, hx: Any) -> tuple[Tensor | None, ...]:
        """The initial states among the arguments of a call."""
        return (hx,)

    def returned_states(self, states: Sequence[Tensor]) -> Any:
        """The final states as a call returns them."""
        return states[0]

    def forward(self, input: Tensor, hx: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        if isinstance(input, PackedSequence):
            raise InputError(
                f"casc_seq.{type(self).__name__} takes no PackedSequence; pass the padded tensor and lengths=... instead"
            )
        if input.dim() == 2:
            output, final = self._batched(
                input.unsqueeze(0 if self.batch_first else 1),
                [None if each is None else each.unsqueeze(1) for each in self.given_states(hx)],
                lengths,
                self._own,
            )
            output, final = output.squeeze(0 if self.batch_first else 1), [each.squeeze(1) for each in final]
        else:
            output, final = self._batched(input, self.given_states(hx), lengths, self._own)
        return output, self.returned_states(final)

    def _own(self, visit: Visit, rows: Rows) -> Sequence[Tensor]:
        return self.recur(visit)

    def populations(self) -> tuple[str, ...]:
        cells = self.cells()
        prefixes = ("",) if len(cells) == 1 else tuple(f".{suffix}" for _, _, suffix in cells)
        return tuple(prefix + population for prefix in prefixes for population in self.POPULATIONS)

    def observed(self, levels: Sequence[Tensor | None], *inputs: Any, **named: Any) -> tuple[Any, list[Tensor]]:
        seen: list[Tensor] = []

        def recurrence(visit: Visit, rows: Rows) -> Sequence[Tensor]:
            shape, given = (*rows.shape, self.hidden_size), levels[len(seen) : len(seen) + len(self.POPULATIONS)]
            wanted = [rows.of(each.to(visit.x.dtype)) for each in given if each is not None and each.shape == shape]
            course = self.course(visit, wanted if len(wanted) == len(self.POPULATIONS) else None)
            seen.extend(rows.back(z) for z in course.before)
            return self.states(course.levels)

        return self._observed(recurrence, *inputs, **named), seen

    def _observed(
        self, recurrence: _Recur, input: Tensor, hx: Any = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        output, final = self._batched(input, self.given_states(hx), lengths, recurrence)
        return output, self.returned_states(final)

    def _batched(
        self, input: Tensor, start: Sequence[Tensor | None], lengths: Tensor | None, recurrence: _Recur
    ) -> tuple[Tensor, list[Tensor]]:
        if input.dim() != 3 or input.shape[-1] != self.input_size or 0 in input.shape:
            raise InputError(
                f"expected a non-empty input whose last of 3 dimensions is {self.input_size}; got {list(input.shape)}"
            )
        length, batch = (input.shape[1], input.shape[0]) if self.batch_first else input.shape[:2]
        expected = (self.num_layers * self.directions, batch, self.hidden_size)
        for each in start:
            if each is not None and tuple(each.shape) != expected:
                raise InputError(f"expected hx of shape {list(expected)}; got {list(each.shape)}")
        if _is_autocast(input.device.type):
            kind = self.own("weight_ih", "l0").dtype
            input, start = input.to(kind), [None if each is None else each.to(kind) for each in start]
        rows = Rows(length, batch, lengths, self.batch_first)
        x = rows.of(input)
        ordered = [None if each is None else rows.sorted(each) for each in start]
        with _without_autocast(x.device.type):
            output, final = self._packed(x, ordered, rows, recurrence)
        return rows.back(output), [rows.unsorted(each) for each in final]

    def _packed(
        self, x: Tensor, start: Sequence[Tensor | None], rows: Rows, recurrence: _Recur
    ) -> tuple[Tensor, list[Tensor]]:
        last_rows = rows.last().to(x.device)
        final: list[list[Tensor]] = [[] for _ in start]
        outputs: list[Tensor] = []
        for index, (layer, direction, suffix) in enumerate(self.cells()):
            if direction == 0 and layer > 0:
                x = F.dropout(_beside(outputs), self.dropout, self.training)
                outputs = []
            begins = [None if each is None else each[index] for each in start]
            visit = Visit(x, begins, suffix, time_order(rows.sizes, reverse=bool(direction)))
            states = recurrence(visit, rows)
            outputs.append(states[0])
            for state, ends in zip(states, final, strict=True):
                ends.append(state[: rows.sizes[0]] if direction else state[last_rows])
        return _beside(outputs), [torch.stack(each) for each in final]

    def extra_repr(self) -> str:
        words = [f"{self.input_size}, {self.hidden_size}", *self._options()]
        defaults = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        words += [f"{name}={getattr(self, name)}" for name, value in defaults.items() if getattr(self, name) != value]
        return ", ".join(words)

    def _options(self) -> list[str]:
        """What a representation says of a kind's own options."""
        return [f"q={self.q}"]
