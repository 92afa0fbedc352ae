"""Small random forwards of supported operations in odd combinations, their weights as torch draws them.

Where `random_graphs` holds every spelling against an oracle, these ask one thing: what `convert` takes runs, on whatever
inputs the network itself takes. As a program: `python tests/support/odd_forwards.py --help`.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field

import torch
from graph_oracle import NAMES, built
from torch import Tensor, nn

import casc_core
from casc_core.errors import ConversionError, InputError

MAP, ACTIVATION, MOVE, FACTOR, PRODUCT, ASKING = "map", "activation", "move", "factor", "product", "asking"
BATCH = 3
LARGEST = 400  # entries of a value, so that everything is fast


@dataclass(frozen=True)
class Row:
    """One way to make a value of another.

    Attributes:
        kind: of operation, by which it is drawn.
        ranks: of the operand.
        code: `{x}` is the operand; of its shape are `{y}`, any other, and `{y0}`, an input; `{m}`, `{n}` are the layers;
            `{C}`, `{D}` sizes of dimension 1 and of the last, `{S}` how many dimensions follow the channels.
        layers: constructors.
    """

    kind: str
    ranks: str
    code: str
    layers: tuple[str, ...] = ()


def _rows(kind: str, ranks: str, *codes: str | tuple[str, ...]) -> list[Row]:
    return [Row(kind, ranks, *((code,) if isinstance(code, str) else (code[0], code[1:]))) for code in codes]


ROWS = [
    *_rows(
        MAP, "34",
        ("{m}({x})", "nn.Conv{S}d({C}, 3, 3, padding=1)"), ("{m}({x})", "nn.Conv{S}d({C}, {C}, 1)"),
        ("{m}({x})", "nn.Conv{S}d({C}, {C}, 3, padding=1, groups={C})"), ("{m}({x})", "nn.Conv{S}d({C}, 2, 2, stride=2)"),
        ("{m}({x})", "nn.ConvTranspose{S}d({C}, 2, 2, stride=2)"),
        ("{n}({m}({x}))", "nn.Conv{S}d({C}, 3, 1)", "nn.BatchNorm{S}d(3)"),
        ("{n}({x})", "nn.Identity()", "nn.BatchNorm{S}d({C})"),
    ),
    *_rows(
        MAP, "234", ("{m}({x})", "nn.Linear({D}, {D})"), ("{m}({x})", "nn.Linear({D}, 3)"), "{x} * self.factor",
        "{x} / 3 + {y} * 0.7", "torch.lerp({x}, {y}, 0.3)",
    ),
    *_rows(MAP, "2", ("{m}({x})", "nn.BatchNorm1d({D})")),
    *_rows(
        ACTIVATION, "234", ("{m}({x})", "nn.ReLU()"), "F.relu({x})", "{x}.relu()", ("{m}({x})", "nn.Sigmoid()"),
        "torch.sigmoid({x})", ("{m}({x})", "nn.Tanh()"), "torch.tanh({x})", ("{m}({x})", "nn.ReLU6()"),
        ("{m}({x})", "nn.Hardtanh()"), ("{m}({x})", "nn.Hardsigmoid()"), ("{m}({x})", "nn.Softsign()"),
        ("{m}({x})", "nn.LeakyReLU(0.1)"), ("{m}({x})", "nn.PReLU()"), ("{m}({x})", "nn.SiLU()"), "F.hardswish({x})",
        "{x}.clamp(0, 2)",
    ),
    *_rows(ACTIVATION, "34", ("{m}({x})", "nn.PReLU({C})")),
    *_rows(
        MOVE, "34", "F.max_pool{S}d({x}, 2)", "F.max_pool{S}d({x}, 3, stride=1, padding=1)", "F.avg_pool{S}d({x}, 2)",
        "F.avg_pool{S}d({x}, 3, stride=1, padding=1)", "F.avg_pool{S}d({x}, 3, 2, padding=1, count_include_pad=False)",
        ("{m}({x})", "nn.AdaptiveAvgPool{S}d(2)"), ("{m}({x})", "nn.AdaptiveAvgPool{S}d(1)"),
        ("{m}({x})", "nn.AdaptiveMaxPool{S}d(2)"), "F.interpolate({x}, scale_factor=2)", "F.pad({x}, (1, 1))",
        "{x}.mean(-1, keepdim=True)", "{x}.amax(-1, keepdim=True)", "{x}.sum(2, keepdim=True)", "{x}.transpose(1, 2)",
        "{x}.flip(2)", "torch.cat(torch.unbind({x}, 1)[::-1], -1)", "{x}.max(1).values", "{x}[:, :, 0]", "{x}.flatten(1)",
        "{x}.data",
    ),
    *_rows(
        MOVE, "4", "F.interpolate({x}, scale_factor=2, mode='bilinear')", "{x}.flatten(2)", "{x}.mean((2, 3))",
        "{x}.amax((2, 3), keepdim=True)", "{x}.permute(0, 2, 3, 1)",
    ),
    *_rows(
        MOVE, "234", "-{x}", "{x} * 0.5", "{x} + 1", "1 - {x}", "{x} - {y}", "{x} + {y}", "torch.cat([{x}, {y}], 1)",
        "torch.stack([{x}, {y}]).amax(0)", "torch.stack([{x}, {y}], 1).sum(1)", "torch.stack([{x}, {y}], 1).mean(1)",
        "{x}[:, 1:]", "{x}[..., :2]", "torch.cat({x}.chunk(2, 1), -1) if {C} % 2 == 0 else {x}", "{x}.roll(1, -1)",
        "sum(list({x}.chunk({D}, -1)))", "[{x}, *{y}.chunk(2, -1)][-1] if {D} > 1 else {x}",
        "{x} * (input_0.flatten(1)[:, :1] > 0).reshape([-1] + [1] * ({x}.dim() - 1))",
        "{x}.masked_fill({y0} > 0.5, 0.0)", "torch.where({y0} > 0, {x}, {y})", "{x}.clone()",
        "F.dropout({x}, 0.1, self.training)",
        "{x}.unsqueeze(1).repeat(1, 2, *[1] * ({x}.dim() - 1)).flatten(1, 2)", "{x}.sum(1, keepdim=True)",
    ),
    *_rows(
        ASKING, "234", "{x} if isinstance({x}, torch.Tensor) else -{x}", "-{x} if type({x}) is torch.Tensor else {x}",
        "{x} * 0.5 if torch.is_tensor({x}) else {x}", "[{x}, -{x}][isinstance({x}, (list, tuple))]",
        "{x} if hasattr({x}, 'ndim') and not hasattr({x}, 'foo') else -{x}",
        "-{x} if isinstance({x}.shape, tuple) else {x}", "-{x} if isinstance({x}.max(1), tuple) else {x}",
        "{x} if callable({x}) else -{x}",
        "-{x} if {x}.__class__ is torch.Tensor else {x}", "{x} if {x} is None or self.training else {x} * 0.5",
        "-{x} if torch.jit.is_scripting() or torch.compiler.is_compiling() else {x}",
        "{x}.expand_as({y})", "{x}.view_as({y})", "{x}.repeat_interleave(2, 1)",
        "-{x} if issubclass(type({x}.shape[0]), int) else {x}",
    ),
    *_rows(FACTOR, "234", "{x} / 3", "{x} * 0.3", "{x}.mean(1, keepdim=True)"),
    *_rows(
        PRODUCT, "234", "{x} * {y}", "{x} * torch.sigmoid({y})", "{x} * {y0}", "{x}.square()",
        "{x} * (1 - torch.sigmoid({y}))", ("{x} * torch.sigmoid({m}({x}))", "nn.Linear({D}, {D})"),
        "torch.addcmul({x}, {x}, {y})", "{y0} * torch.sigmoid({x})",
        "{x} * {x}.mean(-1, keepdim=True)", "{x} * torch.sigmoid({x}.mean(1, keepdim=True))", "{x} ** 2",
        "{y} * torch.sigmoid({x}) + (1 - torch.sigmoid({x})) * {x}",
    ),
    *_rows(
        PRODUCT, "34", "{x} @ {y}.transpose(-2, -1)", "{x}.transpose(-2, -1) @ {y} / {x}.shape[-2]",
        "{x} @ ({y}.mT @ {x})", "torch.relu({x} @ {x}.mT) @ {y} * 0.25", "{y0} @ {x}.mT",
        "{x} @ {x}.mean(-2).unsqueeze(-1)",
        "torch.einsum('b...ij,b...kj->b...ik', torch.sigmoid({x}), {y})",
    ),
    *_rows(
        PRODUCT, "4", "torch.einsum('bchw,bkhw->bck', {x}, {y}) / {x}.shape[-1]",
        "torch.einsum('bchw,bkc->bkhw', {x}, torch.sigmoid({y}.flatten(2).mT @ {x}.flatten(2))[:, :2, :{C}])",
    ),
    *_rows(
        PRODUCT, "2", "torch.einsum('bi,bj->bij', {x}, {y})", ("{m}({x}, {y})", "nn.Bilinear({D}, {D}, 3)"),
    ),
    *_rows(
        ACTIVATION, "3", ("{m}({x})[0]", "casc_seq.GRU({D}, 3, batch_first=True, q=Q)"),
        ("{m}({x})[0]", "nn.LSTM({D}, 2, batch_first=True, bidirectional=True)"),
        ("{m}({x})[0]", "nn.RNN({D}, 3, batch_first=True)"),
        ("{m}({x})[1][-1]", "nn.GRU({D}, 3, batch_first=True)"),
    ),
]  # fmt: skip
"""Every operation."""

BEGINNINGS = {"2": (BATCH, 6), "3": (BATCH, 4, 6), "4": (BATCH, 2, 4, 4)}


@dataclass
class Forward:
    """A forward that was drawn: the source of `class Model`, and its inputs."""

    source: str
    inputs: tuple[Tensor, ...]
    q: int


@dataclass
class _Writer:
    rng: random.Random
    q: int
    values: dict[str, Tensor] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def write(self, row: Row, name: str) -> str | None:
        """The value that the row makes of another, if torch can make it."""
        x = self.values[name]
        fit = [other for other, value in self.values.items() if value.shape == x.shape]
        given = [other for other in fit if other.startswith("input_")]
        if "{y0}" in row.code and not given:
            return None
        own = [f"self.layer_{len(self.made) + index}" for index in range(len(row.layers))]
        sizes = {"C": x.shape[1], "D": x.shape[-1], "S": x.dim() - 2}
        names = {"x": name, "y": self.rng.choice(fit), **dict(zip("mn", own, strict=False))}
        names["y0"] = self.rng.choice(given or [""])
        code = row.code.format(**sizes, **names)
        made = [layer.format(**sizes).replace("Q", str(self.q)) for layer in row.layers]
        holder = _Holder()
        try:
            for attribute, each in zip(own, made, strict=True):
                setattr(holder, attribute.removeprefix("self."), eval(each, dict(NAMES)).eval())
            found = eval(code, {**NAMES, "self": holder, **self.values})
        except (RuntimeError, ValueError, IndexError):
            return None
        if not isinstance(found, Tensor) or found.dim() not in (2, 3, 4) or len(found) != BATCH:
            return None
        if not 0 < found.numel() <= LARGEST:
            return None
        result = f"x_{len(self.lines)}"
        self.made += [f"{attribute} = {each}" for attribute, each in zip(own, made, strict=True)]
        self.lines.append(f"{result} = {code}")
        self.values[result] = found.detach()
        return result


class _Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.tensor(0.7)


def drawn(seed: int) -> Forward:
    """The forward of a seed: two inputs of one shape, up to nine operations, and a readout."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    writer = _Writer(rng, rng.choice((2, 3, 4, 8)))
    shape = BEGINNINGS[rng.choice("234")]
    inputs = tuple(torch.randn(shape) * rng.choice((1.0, 1.0, 30.0)) for _ in range(2))
    for index, each in enumerate(inputs):
        writer.values[f"input_{index}"] = each
    # An input that drives no neurons anywhere would be taken for a mask.
    begins = Row(ACTIVATION, "234", "F.relu({m}({x}))", ("nn.Linear({D}, {D})",))
    last = rng.choice([name for name in (writer.write(begins, name) for name in list(writer.values)) if name])
    for _ in range(rng.randint(3, 9)):
        kind = rng.choices((MAP, ACTIVATION, MOVE, FACTOR, PRODUCT, ASKING), (4, 4, 4, 1, 3, 2))[0]
        for _ in range(20):
            rank = str(writer.values[last].dim())
            row = rng.choice([row for row in ROWS if row.kind == kind and rank in row.ranks])
            operand = last if rng.random() < 0.8 else rng.choice(list(writer.values))
            found = writer.write(row, operand) if str(writer.values[operand].dim()) in row.ranks else None
            if found is not None:
                last = found
                break
    made, end = "", f"{last}.flatten(1)"
    if rng.random() < 0.7:
        made, end = f"self.fc = nn.Linear({writer.values[last][0].numel()}, 3)", f"self.fc({end})"
    init = [
        "super().__init__()",
        'self.register_buffer("factor", torch.tensor(0.7))',
        *writer.made,
        *filter(None, [made]),
    ]
    source = "\n".join(
        [
            "class Model(nn.Module):",
            "    def __init__(self):",
            *(f"        {line}" for line in init),
            "    def forward(self, input_0, input_1):",
            *(f"        {line}" for line in (*writer.lines, f"return {end}")),
        ]
    )
    return Forward(source, inputs, writer.q)


class FaultError(AssertionError):
    """What `convert` took, and should not have, or what then went wrong."""


def check(forward: Forward) -> str | None:
    """Why it is refused, or its inputs are; None: it runs, equals its reference bit for bit, and `verify` finds it exact.

    Raises:
        FaultError: neither.
    """
    torch.manual_seed(0)
    model = built(forward.source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ann = casc_core.prepare(model, q=forward.q).eval()
        except ConversionError as error:
            return str(error)
        except Exception as error:
            raise FaultError(f"prepare fails: {type(error).__name__}: {error}") from error
        try:
            snn = casc_core.convert(ann)
        except Exception as error:
            raise FaultError(f"prepare takes what convert does not: {type(error).__name__}: {error}") from error
        try:
            logits, reference = snn(*forward.inputs), snn.reference(*forward.inputs)
            report = casc_core.verify(snn, *forward.inputs)
        except InputError as error:
            if "so large a product" not in str(error):
                raise FaultError(f"it is converted and does not run: InputError: {error}") from error
            return f"forward: {error}"
        except Exception as error:
            raise FaultError(f"it is converted and does not run: {type(error).__name__}: {error}") from error
    if not torch.equal(logits, reference):
        raise FaultError("spikes and reference differ")
    if not report.exact:
        raise FaultError(f"verify finds it not exact: {report}")
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--show", action="store_true", help="print the source of each fault")
    given = parser.parse_args()
    began, refused, faults, equal = time.monotonic(), Counter[str](), 0, 0
    for seed in itertools.count(given.seed):
        if time.monotonic() - began > given.seconds:
            break
        forward = drawn(seed)
        try:
            why = check(forward)
        except FaultError as fault:
            faults += 1
            print(f"# seed {seed}: {str(fault)[:1500]}\n{forward.source if given.show else ''}", flush=True)
            continue
        equal += why is None
        refused[str(why).splitlines()[0]] += why is not None
    print(f"{equal} equal, {sum(refused.values())} refused, {faults} at fault, up to seed {seed}")
    print("\n".join(f"{count:5}  {why}" for why, count in refused.most_common(60)))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
