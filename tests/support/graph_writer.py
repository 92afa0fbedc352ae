"""Writing random forwards from a grammar.

A forward is written statement by statement, each tried out on real numbers as it is drawn: what PyTorch refuses is not
written. So a row of the grammar says only how an operation is spelled, and nothing of shapes.
"""

from __future__ import annotations

import random
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from graph_oracle import NAMES, Graph, Input, arguments, in_double, settle
from torch import Tensor, nn

BATCH = 3
# A value may be so large, and a tensor have so many entries.
REACH, ENTRIES = 2.0**9, 3 * 1500


@dataclass(frozen=True)
class Piece:
    """An operation as spelled: `{0}`, `{1}` are its operands, `{t}` what it gives where that stands in the code itself.

    Attributes:
        layers: what it needs of `self`, by name.
        maps, factors: how many linear maps, and how many factors, it puts between neurons.
        fires: it ends in spikes.
        results: how many values it gives.
        rough, random: as those of `Graph`.
    """

    code: str
    operands: tuple[str, ...]
    layers: dict[str, str] = field(default_factory=dict)
    maps: int = 0
    factors: int = 0
    fires: bool = False
    results: int = 1
    rough: bool = False
    random: bool = False


@dataclass(frozen=True)
class Statement:
    """A piece of a forward, and the names of what it gives."""

    targets: tuple[str, ...]
    piece: Piece

    def text(self) -> str:
        code = self.piece.code.format(*self.piece.operands, t=", ".join(self.targets))
        return code if "{t}" in self.piece.code else f"{', '.join(self.targets)} = {code}"


@dataclass(frozen=True)
class Script:
    """A forward as a list of statements: what a graph is made from, and what is made smaller when one is at fault."""

    inputs: tuple[Input, ...]
    statements: tuple[Statement, ...]
    result: str
    q: int
    seed: int
    options: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]

    def needed(self) -> Script:
        """Without what nothing reads."""
        wanted, kept = {self.result}, []
        for statement in reversed(self.statements):
            if wanted & set(statement.targets):
                kept.append(statement)
                wanted |= set(statement.piece.operands)
        inputs = tuple(each for each in self.inputs if each.name in wanted)
        return replace(self, inputs=inputs or self.inputs[:1], statements=tuple(reversed(kept)))

    def graph(self) -> Graph:
        layers: dict[str, str] = {}
        for statement in self.statements:
            layers |= statement.piece.layers
        body = [line for statement in self.statements for line in statement.text().splitlines()]
        source = "class Model(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        source += "".join(textwrap.indent(layer, " " * 8) + "\n" for layer in layers.values())
        source += f"\n    def forward(self, {', '.join(each.name for each in self.inputs)}):\n"
        source += textwrap.indent("\n".join([*body, f"return {self.result}"]), " " * 8) + "\n"
        pieces = [statement.piece for statement in self.statements]
        return Graph(
            source, self.inputs, self.q, self.seed, self.options,
            any(piece.rough for piece in pieces), any(piece.random for piece in pieces),
            len(self.needed().statements) < len(self.statements),
        )  # fmt: skip


@dataclass
class Value:
    """A tensor of the forward that is being written.

    Attributes:
        spikes: it depends on neurons, and on nothing else but constants.
        maps, factors: how many lie between it and neurons or the input.
        memory: what shares its memory has the same.
    """

    name: str
    tensor: Tensor
    spikes: bool = False
    maps: int = 0
    factors: int = 0
    memory: str = ""
    used: bool = False

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape


@dataclass(frozen=True)
class Row:
    """How some operations are spelled, on tensors of so many dimensions; a draw shows one of its `faces`."""

    draw: Callable[[Writer, Value], Piece | None]
    dims: tuple[int, ...]
    faces: int = 1


@dataclass(frozen=True)
class Grammar:
    """What a writer draws from.

    Attributes:
        groups: rows, each group as likely as its weight says.
        beginnings: tokens to states, for models of texts.
        activations: rows that end in spikes.
        endings: a value to `[batch, features]`.
    """

    groups: Sequence[Sequence[Row]]
    weights: Sequence[float]
    beginnings: Sequence[Callable[[Writer, Sequence[Input]], Piece]]
    activations: Sequence[Row]
    endings: Sequence[Callable[[Writer, Value], Piece]]


class Writer:
    """Draws one forward."""

    def __init__(self, seed: int, grammar: Grammar) -> None:
        self.seed, self.grammar, self.rng = seed, grammar, random.Random(seed)
        self.values: list[Value] = []
        self.given: dict[str, Tensor] = {}
        self.statements: list[Statement] = []
        self.model = nn.Module().eval()
        self.numbers = 0
        # Linear maps in a row, without neurons between them.
        self.depth = self.pick(1, 1, 1, 1, 2)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.q = self.pick(2, 4, 4, 8, 16) if self.rng.random() < 0.7 else self.pick(1, 3, 5, 6, 7, 12)

    # What rows of the grammar use.

    def pick(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def fresh(self, word: str) -> str:
        self.numbers += 1
        return f"{word}{self.numbers}"

    def layer(self, word: str, constructor: str) -> tuple[str, dict[str, str]]:
        """`self.name` and what defines it."""
        name = self.fresh(word)
        return f"self.{name}", {name: f"self.{name} = {constructor}"}

    def buffer(
        self, word: str, shape: Sequence[int] | str, parameter: bool | None = None
    ) -> tuple[str, dict[str, str]]:
        """A parameter or a buffer of this shape."""
        name = self.fresh("p") + f"_{word}"
        made = f"torch.zeros({', '.join(map(str, shape)) if not isinstance(shape, str) else shape})"
        if len(shape) == 0:
            made = "torch.zeros(())"
        if parameter if parameter is not None else self.rng.random() < 0.5:
            return f"self.{name}", {name: f"self.{name} = nn.Parameter({made})"}
        return f"self.{name}", {name: f'self.register_buffer("{name}", {made})'}

    def options(self, **choices: Sequence[Any]) -> str:
        """Some of these keyword arguments, each with one of its choices; the first is the default."""
        chosen = {name: self.rng.choice(values) for name, values in choices.items()}
        shown = [f"{n}={v!r}" for n, v in chosen.items() if v != choices[n][0] or self.rng.random() < 0.2]
        return "".join(f", {each}" for each in shown)

    def other(self, like: Value, shape: Sequence[int] | None = None) -> Value | None:
        """Another value of the same shape."""
        wanted = like.shape if shape is None else torch.Size(shape)
        found = [value for value in self.values if value is not like and value.shape == wanted]
        return self.rng.choice(found) if found else None

    # Writing.

    def write(self) -> Script:
        kind = self.rng.choices(("image", "series", "flat", "tokens", "volume"), (40, 15, 15, 27, 3))[0]
        inputs = self._inputs(kind)
        self._take(inputs)
        if kind == "tokens":
            self._must(lambda: self._try(self.rng.choice(self.grammar.beginnings)(self, inputs)))
        for _ in range(self.number(3, 16)):
            self._add()
        while not any(value.spikes for value in self.values):
            self._add(self.grammar.activations)
        unused = [value for value in self.values if value.spikes and not value.used][-3:]
        result = self._head(unused or [value for value in self.values if value.spikes][-1:])
        options: dict[str, Any] = {}
        if self.rng.random() < 0.1:
            options["threshold"] = self.pick(0.5, 2.0, 0.75, 3.0)
        if self.rng.random() < 0.1:
            options["half_step"] = True
        if self.rng.random() < 0.1 and kind != "tokens":
            options["trainable_threshold"] = True
        script = Script(inputs, tuple(self.statements), result, self.q, self.seed, options, self.shapes)
        return script if self.rng.random() < 0.03 else script.needed()

    def single(self, row: Row, dims: int, spiking: bool) -> Script | None:
        """One row of the grammar alone, between neurons (or behind the input); None where it cannot stand there."""
        size = {2: (4,), 3: (4, 5), 4: (4, 4, 6), 5: (2, 2, 2, 3)}[dims]
        inputs: tuple[Input, ...] = tuple(Input(name, "real", (BATCH, *size)) for name in "xz")
        inputs += (Input("tokens", "tokens", (BATCH, 4)), Input("lengths", "lengths", (BATCH, 4)))
        self._take(inputs)
        if spiking:
            for name in "xz":
                self._try(Piece("torch.relu({0})", (name,), fires=True))
        operand = self.values[2 if spiking else 0]
        for _ in range(30):
            if spiking:  # what stands beside it spikes as well
                self.values = [value for value in self.values if value.spikes]
            piece = row.draw(self, operand)
            if piece is not None and self._try(piece):
                break
        else:
            return None
        value = self.values[-1]
        if not self._try(Piece("F.relu({0})", (value.name,), fires=True)):
            return None
        result = self._head(self.values[-1:])
        statements = tuple(self.statements)
        return Script(inputs, statements, result, self.q, self.seed, {}, self.shapes).needed()

    def _take(self, inputs: tuple[Input, ...]) -> None:
        for each, tensor in zip(inputs, arguments(Graph("", inputs, self.q, self.seed)), strict=True):
            wide = tensor.double() if tensor.is_floating_point() else tensor
            if each.kind == "real":
                self.values.append(Value(each.name, wide, memory=each.name))
            self.given[each.name] = wide

    def _inputs(self, kind: str) -> tuple[Input, ...]:
        if kind == "tokens":
            length = self.number(2, 5)
            more = [Input("lengths", "lengths", (BATCH, length)), Input("mask", "mask", (BATCH, length))]
            return Input("tokens", "tokens", (BATCH, length)), *(m for m in more if self.rng.random() < 0.6)
        channels = self.pick(1, 2, 3, 4)
        size = {
            "image": (self.number(4, 6), self.number(4, 6)), "series": (self.number(4, 8),), "flat": (),
            "volume": (2, 3, 4),
        }[kind]  # fmt: skip
        shape = (BATCH, channels if size else self.number(2, 8), *size)
        if self.rng.random() < 0.15:
            return Input("x", "real", shape), Input("z", "real", shape)
        return (Input("x", "real", shape),)

    def _must(self, attempt: Callable[[], bool]) -> None:
        for _ in range(500):
            if attempt():
                return
        raise RuntimeError(f"seed {self.seed}: nothing can be written")

    def _add(self, rows: Sequence[Row] | None = None) -> None:
        def attempt() -> bool:
            value = self.values[-1] if self.rng.random() < 0.75 else self.rng.choice(self.values)
            if rows is None and self.statements and self.rng.random() < 0.06:
                return self._again(value)
            group = self.rng.choices(self.grammar.groups, self.grammar.weights)[0] if rows is None else rows
            row = self.rng.choice(group)
            if value.tensor.dim() not in row.dims:
                return False
            piece = row.draw(self, value)
            return piece is not None and self._try(piece)

        self._must(attempt)

    def _again(self, value: Value) -> bool:
        """A module that is there already, used once more on something else of its shape."""
        statement = self.rng.choice(self.statements)
        piece = statement.piece
        known = {each.name: each for each in self.values}
        if not piece.layers or piece.operands[0] not in known or "{t}" in piece.code:
            return False
        if known[piece.operands[0]].shape != value.shape:
            return False
        return self._try(replace(piece, operands=(value.name, *piece.operands[1:])))

    def _try(self, piece: Piece | None, more: int = 0) -> bool:
        """Write it if PyTorch runs it and the numbers stay as small as a proof of exactness needs.

        Args:
            more: maps and factors that are allowed beyond the usual, at the end.
        """
        if piece is None:
            return False
        known = {value.name: value for value in self.values}
        read = [known[name] for name in piece.operands if name in known]
        maps = max((value.maps for value in read), default=0) + piece.maps
        factors = max((value.factors for value in read), default=0) + piece.factors
        spikes = piece.fires or (bool(read) and all(value.spikes for value in read))
        if (piece.maps and maps > self.depth + more) or (not piece.fires and factors > 4 + more):
            return False
        targets = tuple(self.fresh("v") for _ in range(piece.results))
        statement = Statement(targets, piece)
        try:
            found, memory, changed = self._run(statement)
        except (RuntimeError, IndexError, NameError, ValueError, TypeError, NotImplementedError):
            return False
        for tensor in found:
            if not isinstance(tensor, Tensor) or tensor.dim() < 2 or len(tensor) != BATCH or not tensor.numel():
                return False
            if not tensor.is_floating_point() or tensor.numel() > ENTRIES or bool(tensor.isnan().any()):
                return False
            if float(tensor.abs().max()) > REACH * 64.0**more:
                return False
        self.statements.append(statement)
        for value in read:
            value.used = True
        # What is changed in place must not be read again; now and then it is, which is to be refused.
        if self.rng.random() > 0.02:
            self.values = [value for value in self.values if value.memory not in changed]
        for name, tensor, shared in zip(targets, found, memory, strict=True):
            cost = (0, 0) if piece.fires else (maps, factors)
            self.values.append(Value(name, tensor, spikes, *cost, memory=shared))
            self.shapes[name] = tuple(tensor.shape)
        return True

    def _run(self, statement: Statement) -> tuple[list[Tensor], list[str], set[str]]:
        """What the statement gives, whose memory each part of it shares, and whose memory is changed in place."""
        fresh = nn.Module().eval()
        space = dict(NAMES)
        for name, code in statement.piece.layers.items():
            if not hasattr(self.model, name):
                exec(code, space | {"self": fresh})
        settle(fresh, self.seed)
        for name, module in fresh.named_children():
            setattr(self.model, name, module.double().eval())
        for name, tensor in (*fresh.named_parameters(recurse=False), *fresh.named_buffers(recurse=False)):
            held = tensor.double() if tensor.is_floating_point() else tensor
            setattr(self.model, name, nn.Parameter(held.detach()) if isinstance(tensor, nn.Parameter) else held)
        given = {value.name: value.tensor.clone() for value in self.values}
        space |= {"self": self.model, **self.given, **given}
        with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings(), in_double():
            warnings.simplefilter("ignore")
            exec(statement.text(), space)
        changed = {value.memory for value in self.values if given[value.name]._version}
        owners = {given[value.name].untyped_storage().data_ptr(): value.memory for value in self.values}
        found = [_detached(space[name]) for name in statement.targets]
        memory = [
            owners.get(each.untyped_storage().data_ptr() if isinstance(each, Tensor) else 0, name)
            for each, name in zip(found, statement.targets, strict=True)
        ]
        return found, memory, changed

    def _head(self, chosen: Sequence[Value]) -> str:
        """Read these out."""
        parts: list[Value] = []
        for value in chosen:
            self._must(lambda value=value: self._try(self.rng.choice(self.grammar.endings)(self, value), 1))  # type: ignore[misc]
            parts.append(self.values[-1])
        if self.rng.random() < 0.08:
            return parts[0].name
        if len(parts) > 1:
            code = f"torch.cat([{', '.join(f'{{{index}}}' for index in range(len(parts)))}], 1)"
            self._must(lambda: self._try(Piece(code, tuple(part.name for part in parts)), 1))
        last = self.values[-1]
        name, layers = self.layer("fc", f"nn.Linear({last.shape[1]}, {self.pick(1, 2, 3)})")
        self._must(lambda: self._try(Piece(f"{name}({{0}})", (last.name,), layers, maps=1), 1))
        return self.values[-1].name


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
