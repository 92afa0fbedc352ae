"""The grammar of random forwards: every way to spell an operation."""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from graph_oracle import Input
from graph_writer import Grammar, Piece, Row, Script, Value, Writer

ANY = (2, 3, 4, 5)


def say(code: str, *dims: int, **cost: Any) -> Row:
    """An operation with no layer of its own; `C`, `H`, `D` stand for sizes of its operand."""

    given = [name for name in ("tokens", "lengths") if name in code]

    def draw(w: Writer, x: Value) -> Piece | None:
        operands = [x.name]
        if "{1}" in code:
            y = w.other(x)
            if y is None:
                return None
            operands.append(y.name)
        return Piece(_sizes(code, x), (*operands, *given), **cost)

    return Row(draw, dims or ANY)


def module(constructor: str, *dims: int, call: str = "{m}({0})", **cost: Any) -> Row:
    """A module, called."""

    def draw(w: Writer, x: Value) -> Piece | None:
        word = re.sub(r"[^a-z]", "", constructor.split("(")[0].split(".")[-1].lower())[:6] or "layer"
        name, layers = w.layer(word, _sizes(constructor, x))
        return Piece(_sizes(call, x).replace("{m}", name), (x.name,), layers, **cost)

    return Row(draw, dims or ANY)


def _sizes(code: str, x: Value) -> str:
    sizes = {"<C>": x.shape[1], "<D>": x.shape[-1], "<H>": x.shape[2] if x.tensor.dim() > 2 else 1}
    for mark, size in sizes.items():
        code = code.replace(mark, str(size))
    return code


def drawn(*dims: int, faces: int = 2) -> Callable[[Callable[[Writer, Value], Piece | None]], Row]:
    return lambda draw: Row(draw, dims or ANY, faces)


# Linear maps.


def convolution(spelling: str, dims: int) -> Row:
    """A convolution of so many spatial dimensions, as a module or as a call."""

    def draw(w: Writer, x: Value) -> Piece:
        channels = int(x.shape[1])
        groups = w.pick(*[g for g in (1, 1, 2, channels) if channels % g == 0])
        outputs = groups * w.pick(1, 2, 3) if groups > 1 else w.pick(1, 2, 3, 4)
        kernel = w.pick(*[(1,) * dims, (2,) * dims, (3,) * dims, (1,) * (dims - 1) + (3,), (3,) + (1,) * (dims - 1)])
        choices: dict[str, tuple[Any, ...]] = {
            "stride": (1, 1, 2, (2,) + (1,) * (dims - 1)), "padding": (0, 1, (0,) * (dims - 1) + (1,), "same", "valid"),
            "dilation": (1, 1, 1, 2),
        }  # fmt: skip
        if "ranspose" in spelling:
            choices |= {"padding": (0, 0, 1), "output_padding": (0, 0, 1)}
        if groups > 1:
            choices["groups"] = (1, groups, groups, groups)
        if not spelling.startswith("nn."):
            shape = (outputs, channels // groups, *kernel)
            if "ranspose" in spelling:
                shape = (channels, outputs // groups, *kernel)
            return _called(w, x, spelling, shape, w.options(**choices))
        modes = () if "ranspose" in spelling else ("reflect", "replicate", "circular")
        options = w.options(**choices, bias=(True, True, False), padding_mode=("zeros",) * 4 + modes)
        size = kernel[0] if len(set(kernel)) == 1 else kernel
        name, layers = w.layer("conv", f"{spelling}({channels}, {outputs}, {size}{options})")
        return Piece(f"{name}({{0}})", (x.name,), layers, maps=1)

    return Row(draw, (dims + 2,), 2)


def _called(w: Writer, x: Value, call: str, shape: tuple[int, ...], geometry: str) -> Piece:
    weight, layers = w.buffer("weight", shape, parameter=w.rng.random() < 0.8)
    bias = ""
    if w.rng.random() < 0.6:
        bias, more = w.buffer("bias", shape[:1])
        layers, bias = layers | more, w.pick(f", {bias}", f", bias={bias}")
    return Piece(f"{call}({{0}}, {weight}{bias}{geometry})", (x.name,), layers, maps=1)


@drawn()
def linear_call(w: Writer, x: Value) -> Piece:
    return _called(w, x, "F.linear", (w.pick(2, 3, 5), int(x.shape[-1])), "")


def product(code: str, *dims: int) -> Row:
    """A product with a constant: `<w:D,3>` is one of these sizes, `<b:3>` an addend, `<f:>` a factor."""

    def draw(w: Writer, x: Value) -> Piece | None:
        layers: dict[str, str] = {}

        def held(found: re.Match[str]) -> str:
            sizes = {"C": int(x.shape[1]), "D": int(x.shape[-1])}
            shape = [sizes.get(size) or int(size) for size in found[2].split(",") if size]
            name, own = w.buffer({"w": "weight", "b": "bias", "f": "factor"}[found[1]], shape)
            layers.update(own)
            return name

        written = re.sub(r"<(\w):([^>]*)>", held, code)
        y = w.other(x) if "{1}" in code else x
        # Written into while it is read, a tensor may become anything.
        return None if y is None else Piece(written, (x.name, y.name)[: 1 + ("{1}" in code)], layers, maps=1)

    return Row(draw, dims or ANY)


def of_spikes(row: Row) -> Row:
    """A product of two spiking tensors, which a mask and an input would not be."""

    def draw(w: Writer, x: Value) -> Piece | None:
        piece = row.draw(w, x) if x.spikes else None
        return None if piece is None else replace(piece, maps=1, rough=True)

    return Row(draw, row.dims)


PRODUCTS = [
    product(code, *dims)
    for dims, codes in (
        (ANY, ("{0} @ <w:D,3>", "torch.matmul({0}, <w:D,2>)", "{0}.matmul(<w:D,3>)",
        "torch.matmul(input={0}, other=<w:D,2>)", "torch.linalg.matmul({0}, <w:D,2>)")),
        ((2,), (
            "torch.mm({0}, <w:D,3>)", "{0}.mm(<w:D,2>)", "torch.addmm(<b:3>, {0}, <w:D,3>)",
            "<b:2>.addmm({0}, <w:D,2>)",
            "torch.addmm(<b:3>, {0}, <w:D,3>, beta=2, alpha=0.5)", "{0}.addmm_({1}, <w:D,D>)",
            "torch.mv({0}, <w:D>).unsqueeze(1)",
            "{0}.mv(<w:D>).unsqueeze(1)", "torch.addmv(<b:1>, {0}, <w:D>).unsqueeze(1)",
            "<b:1>.addmv({0}, <w:D>).unsqueeze(1)",
            "{0}.sum(1).addmv_({0}, <w:D>).unsqueeze(1)", "torch.einsum('bd,de->be', {0}, <w:D,3>)",
            "torch.einsum('bd,ed->be', [{0}, <w:2,D>])",
        )),
        ((3,), (
            "torch.bmm({0}, <w:3,D,2>)", "{0}.bmm(<w:3,D,2>)", "torch.baddbmm(<b:1>, {0}, <w:3,D,2>)",
            "<b:1>.baddbmm({0}, <w:3,D,2>)",
            "torch.matmul(<w:4,C>, {0})", "<w:2,C> @ {0}", "torch.einsum('bcl,oc->bol', {0}, <w:3,C>)",
            "torch.einsum('bcl->bc', {0})", "torch.einsum('bcl,c->bcl', {0}, <f:C>)", "torch.einsum('bcl->blc', {0})",
        )),
        ((4,), ("torch.einsum('bchw,oc->bohw', {0}, <w:3,C>)", "torch.einsum('bchw,w->bch', {0}, <w:D>)")),
    )
    for code in codes
]  # fmt: skip
PRODUCTS += [
    product(code)
    for code in (
        "torch.addcmul({0}, {1}, <f:>)", "{0}.addcmul({1}, <f:D>, value=0.5)", "{0}.addcmul_({1}, <f:1>)",
        "torch.addcdiv({0}, {1}, torch.tensor(2.0), value=0.5)", "{0}.addcdiv({1}, torch.tensor(4.0))",
        "{0}.addcdiv_({1}, torch.tensor([0.5]))", "torch.lerp({0}, {1}, 0.25)", "{0}.lerp({1}, 0.5)",
        "{0}.lerp_({1}, 0.5)",
        "torch.lerp({0}, {1}, <f:D>)",
    )
]  # fmt: skip
PRODUCTS += [
    of_spikes(product(code, *dims))
    for dims, codes in (
        ((2,), (
            "torch.einsum('bi,bj->bij', {0}, {0})", "torch.einsum('...i,...i', {0}, {0}).unsqueeze(1)",
            "F.bilinear({0}, {0}, <w:2,D,D>, <b:2>)",
            "F.bilinear({0}, {0}, <w:3,D,D>)",
        )),
        ((3,), (
            "{0} @ {0}.transpose(1, 2)", "torch.bmm({0}, {0}.mT)", "{0}.mT.matmul({0})", "{0}.bmm({0}.mT)",
            "torch.einsum('bcl,bkl->bck', {0}, torch.sigmoid({0}))", "{0} @ ({0}.mT @ {0})",
            "torch.baddbmm({0} @ <w:D,C>, {0}, {0}.mT, beta=0.5)", "{0}.baddbmm({0}, {0}.mT @ {0}, alpha=0.25)",
            "({0} @ <w:D,D>).baddbmm_({0} @ {0}.mT, {0})",
        )),
        ((4,), (
            "{0} @ {0}.mT", "torch.einsum('bchw,bkhw->bck', {0}, {0})", "torch.einsum('b...w,bcvw->b...v', [{0}, {0}])",
            "torch.matmul({0}, <w:C,D,3>)", "torch.einsum('bchw,cwv->bchv', {0}, <w:C,D,2>)",
        )),
    )
    for code in codes
]  # fmt: skip
PRODUCTS += [of_spikes(module("nn.Bilinear(<D>, <D>, 3)", call="{m}({0}, {0})"))]
NORMS = [
    module("nn.BatchNorm1d(<C>, eps=0.25)", 2, 3, factors=1),
    module("nn.BatchNorm1d(<C>, eps=0.25, affine=False)", 2, 3, factors=1),
    module("nn.BatchNorm2d(<C>, eps=0.25)", 4, factors=1),
    module("nn.BatchNorm2d(<C>, eps=0.25)", 4, factors=1),
    module("nn.BatchNorm2d(<C>, eps=0.25, affine=False)", 4, factors=1),
    module("nn.BatchNorm3d(<C>, eps=0.25)", 5, factors=1),
    module("nn.SyncBatchNorm(<C>, eps=0.25)", 2, 3, 4, factors=1),
    module("casc_seq.classifier.Standardise(<C>, eps=0.25)", 2, factors=1),
]


@drawn(2, 3, 4)
def batch_norm_call(w: Writer, x: Value) -> Piece:
    channels = (int(x.shape[1]),)
    mean, layers = w.buffer("mean", channels, parameter=False)
    variance, more = w.buffer("var", channels, parameter=False)
    layers |= more
    affine = ""
    if w.rng.random() < 0.6:
        factor, more = w.buffer("factor", channels)
        bias, again = w.buffer("bias", channels)
        layers, affine = layers | more | again, w.pick(f", {factor}, {bias}", f", weight={factor}, bias={bias}")
    training = w.pick(*[""] * 8, ", training=False", ", training=self.training")
    return Piece(f"F.batch_norm({{0}}, {mean}, {variance}{affine}{training}, eps=0.0625)", (x.name,), layers, factors=1)


@drawn(4)
def block(w: Writer, x: Value) -> Piece:
    """A Sequential, its activation inside."""
    channels, outputs = int(x.shape[1]), w.pick(2, 3, 4)
    norm = w.pick(f", nn.BatchNorm2d({outputs}, eps=0.25)", "")
    pool = w.pick("", ", nn.MaxPool2d(2)", ", nn.AvgPool2d(2)", ", nn.Dropout2d(0.1)", ", nn.Identity()")
    act = w.pick("nn.ReLU()", "nn.ReLU(inplace=True)", "nn.Tanh()")
    made = f"nn.Sequential(nn.Conv2d({channels}, {outputs}, 3, padding=1){norm}, {act}{pool})"
    name, layers = w.layer("block", made)
    return Piece(f"{name}({{0}})", (x.name,), layers, fires=True, factors=0)


@drawn()
def recurrent(w: Writer, x: Value) -> Piece | None:
    """A recurrent layer behind anything three-dimensional."""
    if x.tensor.dim() != 3:
        return None
    return _recurrent(w, x.name, int(x.shape[2]), None, None)


def _recurrent(w: Writer, name: str, width: int, lengths: str | None, start: str | None) -> Piece:
    hidden, layers, both = w.pick(2, 3, 4), w.pick(1, 1, 2), w.rng.random() < 0.3
    own = w.rng.random() < 0.5 or lengths is not None
    options = (
        f", num_layers={layers}" * (layers > 1) + ", bidirectional=True" * both + w.options(bias=(True, True, False))
    )
    first = w.rng.random() < 0.75
    options += ", batch_first=True" * first
    if own:
        options += f", q={w.q}" + w.options(threshold=(1.0, 1.0, 2.0, 0.75, 0.5), half_step=(False, False, True))
    else:
        options += w.options(nonlinearity=("tanh", "relu"))
    kind = "casc_seq.RNN" if own else "nn.RNN"
    rnn, made = w.layer("rnn", f"{kind}({width}, {hidden}{options})")
    given = "" if start is None else f", {start.format(layers * (1 + both), hidden)}"
    given += "" if lengths is None else f", lengths={lengths}"
    if first:
        code = w.pick(f"{rnn}({{0}}{given})[0]", f"{rnn}({{0}}{given})[1].transpose(0, 1)", f"{rnn}({{0}}{given})[0]")
    else:
        turned = w.pick("{0}.transpose(0, 1)", "{0}.permute(1, 0, 2)")
        code = w.pick(f"{rnn}({turned}{given})[0].transpose(0, 1)", f"{rnn}({turned}{given})[1][-1]")
    return Piece(code, (name,), made, maps=1, fires=True)


def text(w: Writer, inputs: Sequence[Input]) -> Piece:
    """Tokens to states, as texts begin."""
    width = w.pick(2, 3, 4)
    names = [each.name for each in inputs]
    emb, layers = w.layer("emb", f"nn.Embedding(11, {width}{w.pick('', ', padding_idx=0')})")
    embedded = f"{emb}(tokens)"
    if w.rng.random() < 0.3:
        table, layers = w.buffer("weight", (11, width))
        embedded = f"F.embedding(tokens, {table})"
    embedded += w.pick("", "", "", " * 0.5", " * 2", " * (tokens != 0).unsqueeze(-1).float()")
    lengths = "lengths" if "lengths" in names and w.rng.random() < 0.7 else None
    start = w.pick(None, None, None, "torch.zeros({0}, tokens.size(0), {1})")
    piece = _recurrent(w, "tokens", width, lengths, start)
    layers |= piece.layers
    if w.rng.random() < 0.15:
        piece = Piece(w.pick("{0}", "{0}.transpose(1, 2)", "{0}.mean(1)", "{0}.sum(1)"), ("tokens",))
    operands = ("tokens", *(["lengths"] if lengths and "lengths" in piece.code else []))
    return replace(piece, code=piece.code.replace("{0}", f"({embedded})"), operands=operands, layers=layers)


MAPS = [
    *[convolution(f"{space}{name}{dims}d", dims)
      for dims in (1, 2, 2, 3)
      for space, name in (("nn.Conv", ""), ("nn.Conv", ""), ("F.conv", ""), ("torch.conv", ""))],
    *[convolution(f"{name}{dims}d", dims) for dims in (1, 2) for name in ("nn.ConvTranspose", "F.conv_transpose")],
    linear_call, recurrent,
    module("nn.Linear(<D>, 3)", maps=1),
    module("nn.Linear(<D>, 4, bias=False)", maps=1),
    module("nn.Linear(<C>, <C>)", 4, call="{m}({0}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)", maps=1),
    module("nn.Linear(<C>, <C>)", 3, call="{m}({0}.transpose(1, 2)).transpose(1, 2)", maps=1),
    module("nn.Linear(<D>, <D>)", 3, call="{m}({0}.transpose(0, 1)).transpose(0, 1)", maps=1),
    block,
    module("Residual(nn.Sequential(nn.Conv2d(<C>, <C>, 3, padding=1), nn.BatchNorm2d(<C>, eps=0.25)))", 4, fires=True),
    module("Residual(nn.Sequential(nn.Linear(<D>, 3), nn.ReLU(), nn.Linear(3, <D>)))", fires=True),
    module("Residual(nn.Conv1d(<C>, <C>, 1))", 3, fires=True),
]  # fmt: skip
NORMS += [batch_norm_call]

# Activations.

_PLAIN = (
    "nn.ReLU()", "nn.ReLU(inplace=True)", "nn.Tanh()", "nn.ReLU6()", "nn.Hardtanh(0.0, 2.0)", "nn.Hardtanh()",
    "nn.Hardtanh(-2.0, 0.5)",
    "nn.Sigmoid()", "nn.Hardsigmoid()", "nn.Softsign()", "nn.LeakyReLU(0.25)", "nn.PReLU()",
)  # fmt: skip
ACTIVATIONS = [module(each, fires=True) for each in _PLAIN]
ACTIVATIONS += [
    say(each, fires=True)
    for each in (
        "F.relu({0})", "torch.relu({0})", "{0}.relu()", "torch.tanh({0})", "F.tanh({0})", "{0}.tanh()", "F.relu6({0})",
        "F.hardtanh({0}, 0.0, 2.0)", "F.hardtanh({0})", "{0}.clamp(-0.5, 2)", "F.relu_({0})",
        "torch.relu_({0})", "{0}.relu_()",
        "torch.sigmoid({0})", "{0}.sigmoid()", "F.hardsigmoid({0})", "F.leaky_relu({0}, 0.5)", "F.softsign({0})",
        "torch.sigmoid_({0})", "{0}.sigmoid_()", "torch.tanh_({0})", "{0}.tanh_()", "F.leaky_relu_({0}, 0.25)",
        "F.relu({0}, inplace=True)", "F.hardtanh_({0})", "F.relu(input={0})", "F.hardtanh({0}, max_val=0.5)",
        "torch.relu({0}.transpose(0, 1)).transpose(0, 1)",
    )
]  # fmt: skip


# Of an input these are computed as they stand, so what they give need not spike.
CLIPPINGS = [
    say(each)
    for each in (
        "{0}.clamp(0, 1)", "torch.clamp({0}, 0, 1)", "{0}.clip(0, 1)", "torch.clip({0}, 0.0, 2.0)",
        "{0}.clamp(min=0, max=0.5)",
        "F.threshold({0}, 0, 0)", "{0}.clamp_min(0)", "{0}.clamp(min=0)", "torch.maximum({0}, torch.zeros(()))",
        "torch.clamp_min({0}, 0)", "torch.clamp({0}, max=1.0, min=0.0)", "{0}.clamp_(0, 1)", "torch.clamp_({0}, 0, 1)",
        "{0}.clip_(0, 1)", "torch.clip_({0}, 0, 1)", "{0}.clamp_min_(0)", "torch.clamp_min_({0}, 0)",
        "torch.threshold({0}, 0, 0)",
        "torch.threshold_({0}, 0, 0)", "F.threshold_({0}, 0, 0)",
    )
] + [module("nn.Threshold(0, 0)")]  # fmt: skip


@drawn()
def quantised(w: Writer, x: Value) -> Piece:
    """CQReLU itself, thresholds of many kinds."""
    channels = int(x.shape[1])
    each = ", ".join(str(w.pick(0.5, 1.0, 2.0, 0.75, 0.375, 3.0)) for _ in range(channels))
    theta = w.pick("1.0", "2.0", "0.5", "0.75", "3.0", "0.375", f"torch.tensor([{each}])")
    options = w.options(trainable=(False, False, True), half_step=(False, False, True))
    name, layers = w.layer("act", f"casc_core.CQReLU({w.q}, {theta}{options})")
    return Piece(f"{name}({{0}})", (x.name,), layers, fires=True)


ACTIVATIONS += [quantised, quantised, quantised, quantised]


def own(constructor: str, *choices: Any, rough: bool = False) -> Row:
    """A module that a preparation puts, itself."""

    def draw(w: Writer, x: Value) -> Piece:
        name, layers = w.layer("act", f"casc_core.{constructor}({w.q}, {w.pick(*choices)})")
        return Piece(f"{name}({{0}})", (x.name,), layers, fires=True, rough=rough)

    return Row(draw, ANY, 2)


ACTIVATIONS += [
    own(
        "Rounded",
        "'sigmoid'",
        "'tanh', 0.5",
        "'hardsigmoid', 3.0",
        "'hardtanh', 2.0",
        "'softsign'",
        "'hardtanh', ends=(-1.0, 0.5)",
    ),
    own("composed_activations.LeakyCQReLU", "1.0, 0.25", "2.0, -0.5", "1.0, torch.ones(1) / 2"),
    own("composed_activations.Swish", "'sigmoid'", "'hardsigmoid', 2.0", rough=True),
    own("composed_activations.RoundedGLU", "1", "-1", rough=True),
]
ACTIVATIONS += [module(each, fires=True, rough=True) for each in ("nn.SiLU()", "nn.Hardswish()", "nn.GLU(1)")]
ACTIVATIONS += [say(each, fires=True, rough=True) for each in ("F.silu({0})", "F.hardswish({0})", "F.glu({0}, 1)")]
ACTIVATIONS += [
    of_spikes(say(each))
    for each in (
        "torch.square({0})", "{0}.square()", "{0} ** 2", "torch.pow({0}, 2)", "{0}.pow(2)", "{0} * torch.sigmoid({0})",
        "torch.sigmoid({0}) * torch.tanh({0})", "{0}.mul({0}.sigmoid())", "{0} * ({0} > 0.5)",
        "{0} * ~({0} <= 0.25)", "torch.minimum({0}, torch.tensor(0.5))",
        "torch.where({0} > 0.25, {0}, 0.5 * {1})", "{0}.masked_fill({0} < 0.5, 0.25)", "{0} - ({0} // 0.5)",
        "{0} % 0.375", "{0} * (({0} > 0.25) & ({0} < 0.75))", "{0} * (({0} < 0.25) | ({0} > 0.5))",
        "{0} * F.hardsigmoid({0}.mean(1, keepdim=True))",
    )
]  # fmt: skip

# Pools.


def pool(spelling: str, dims: int) -> Row:
    """A pool over windows of so many dimensions, as a module or as a call."""

    def draw(w: Writer, x: Value) -> Piece:
        kernel = w.pick(
            2, 2, 2, 2, 3, *[4] * (dims == 1), *[(2, 1), (1, 2)] * (dims == 2), *[1] * (w.rng.random() < 0.2)
        )
        choices: dict[str, tuple[Any, ...]] = {
            "stride": (None, 1, 2), "padding": (0, 0, 1), "ceil_mode": (False, False, True),
        }  # fmt: skip
        largest = "max" in spelling.lower()
        if largest:
            choices["dilation"] = (1, 1, 2)
        else:
            choices["count_include_pad"] = (True, True, False)
            if dims == 2:
                choices["divisor_override"] = (None, None, 2, 4)
        options = w.options(**choices)
        entries = math.prod(kernel if isinstance(kernel, tuple) else [kernel] * dims)
        # A window of three is divided by later weights, which snapping moves.
        rough = not largest and entries & (entries - 1) != 0 and "divisor_override" not in options
        if not spelling.startswith("nn."):
            return Piece(f"{spelling}({{0}}, {kernel}{options})", (x.name,), factors=1, rough=rough)
        name, layers = w.layer("pool", f"{spelling}({kernel}{options})")
        return Piece(f"{name}({{0}})", (x.name,), layers, factors=1, rough=rough)

    return Row(draw, (dims + 2,), 2)


POOLS = [
    pool(spelling, dims)
    for dims in (1, 2, 2)
    for spelling in (f"nn.MaxPool{dims}d", f"F.max_pool{dims}d", f"torch.max_pool{dims}d", f"nn.AvgPool{dims}d",
                     f"F.avg_pool{dims}d")
] + [pool("torch.avg_pool1d", 1)]  # fmt: skip
POOLS += [
    pool(spelling, 3)
    for spelling in ("nn.MaxPool3d", "F.max_pool3d", "torch.max_pool3d", "nn.AvgPool3d", "F.avg_pool3d")
]
POOLS += [
    say(f"F.{kind}max_pool{dims}d({{0}}, 1, return_indices=True)[0]", dims + 2)
    for kind in ("", "adaptive_")
    for dims in (1, 2, 3)
]
POOLS += [module("nn.MaxPool2d(2, return_indices=True)", 4, call="{m}({0})[0]")]
POOLS += [module(f"nn.Adaptive{kind}Pool3d({size})", 5) for kind in ("Max", "Avg") for size in ("1", "(1, 2, 2)")]
POOLS += [say(f"F.adaptive_{kind}_pool3d({{0}}, 1)", 5) for kind in ("max", "avg")]
POOLS += [module(f"nn.Adaptive{kind}Pool1d({size})", 3) for kind in ("Max", "Avg") for size in (1, 2)]
POOLS += [
    module(f"nn.Adaptive{kind}Pool2d({size})", 4)
    for kind in ("Max", "Avg")
    for size in ("1", "2", "(1, 2)", "(None, 1)", "(<H>, <D>)", "3")
]
POOLS += [
    say(f"F.adaptive_{kind}_pool{dims}d({{0}}, {size})", dims + 2)
    for kind in ("max", "avg")
    for dims in (1, 2)
    for size in ("1", "2")
]
POOLS += [
    say("F.avg_pool2d({0}, {0}.size()[2:])", 4), say("F.max_pool2d({0}, {0}.shape[2:])", 4),
    say("F.avg_pool2d({0}, ({0}.shape[2], 1))", 4), say("F.max_pool1d({0}, {0}.size(2))", 3),
    module("nn.MaxPool2d(1, stride=2)", 4),
]  # fmt: skip

# Sums and factors.

ARITHMETIC = [
    say(each, factors=each.count("alpha"))
    for each in (
        "{0} + {1}", "{0}.add({1})", "torch.add({0}, {1})", "{0}.add({1}, alpha=2)", "torch.add({0}, {1}, alpha=0.5)",
        "{0} - {1}", "{0}.sub({1})", "torch.sub({0}, {1})", "torch.sub({0}, {1}, alpha=2)", "{0}.sub({1}, alpha=0.5)",
        "{0}.add_({1})", "{0}.sub_({1})", "{t} = {0}\n{t} += {1}", "{t} = {0}\n{t} -= {1}", "sum([{0}, {1}])",
        "sum([{0}, {1}, {0}])", "torch.stack([{0}, {1}], 1).sum(1)", "torch.stack([{0}, {1}]).mean(0)",
        "torch.stack([{0}, {1}], dim=1).amax(1)", "torch.stack([{0}, {1}], 1).max(1)[0]",
        "torch.stack([{0}, {1}], dim=1).amin(1)",
        "torch.add(input={0}, other={1})", "torch.subtract({0}, {1})", "{0}.subtract({1})", "torch.maximum({0}, {1})",
        "{0}.maximum({1})", "torch.fmax({0}, {1})", "{0}.fmax({1})", "torch.max({0}, {1})", "{0}.max({1})",
        "torch.minimum({0}, {1})", "{0}.minimum({1})", "torch.fmin({0}, {1})", "{0}.fmin({1})", "torch.min({0}, {1})",
        "{0}.min(other={1})", "torch.maximum({0}, {1}.amax(-1, keepdim=True))",
    )
]  # fmt: skip
FACTORS = [
    say(each, factors=1)
    for each in (
        "2 * {0}", "{0} * 0.5", "{0} / 4", "{0} / 2", "-{0}", "{0}.neg()", "torch.neg({0})", "{0}.mul(2)",
        "{0}.mul(-0.5)",
        "torch.mul({0}, 0.75)", "{0} * 3", "{0} * {0}[0, 0].numel()",
        "{0}.div(2)", "torch.div({0}, 0.5)", "torch.true_divide({0}, 2)",
        "{0}.true_divide(4)", "{0}.mul_(2)", "{0}.div_(2)", "{t} = {0}\n{t} *= 2", "{t} = {0}\n{t} /= 2",
        "torch.mul(0.5, {0})", "{0} * 1", "{0}.neg_()", "torch.negative({0})", "{0}.negative()", "{0}.multiply(2)",
        "{0}.divide(2)", "torch.divide({0}, 4)", "{0}.clamp_max(64)", "torch.clamp_max({0}, 64)", "{0}.clamp_max_(64)",
        "torch.clamp_max_({0}, 64)", "{0} + {0}.new_full((1,), 0.5)", "{0} - {0}.new_ones(1)",
        "{0} * torch.full_like({0}, 2.0)",
        "{0} + torch.ones_like({0})", "torch.multiply({0}, 2)",
        "torch.rsub({0}, 0.5)", "0.5 - {0}", "1 - {0}", "{0} + 0.5", "{0} - 0.25", "0.25 + {0}", "{0}.add(0.5)",
        "torch.add({0}, 0.5, alpha=2)", "{0}.sub(0.5)", "torch.sub({0}, 1)", "{0}.add_(0.25)", "{t} = {0}\n{t} += 0.5",
        "{0}.add(1, alpha=-0.5)", "torch.sub(1, {0})",
    )
]  # fmt: skip


@drawn()
def constant(w: Writer, x: Value) -> Piece:
    """A parameter or buffer, multiplied or added."""
    dims = x.tensor.dim()
    shape = w.pick((), (1,), (x.shape[1], *[1] * (dims - 2)), (1, x.shape[1], *[1] * (dims - 2)), (x.shape[-1],))
    add = w.rng.random() < 0.5
    own, layers = w.buffer("bias" if add else "factor", shape)
    if w.rng.random() < 0.2:
        own = w.pick(
            f"torch.relu({own})", f"F.relu({own})", f"{own}.relu()", f"{own}.abs()", f"({own} * 2)", f"(-{own})"
        )
    if w.rng.random() < 0.15:
        own = f"{own}.view({', '.join(map(str, (1, x.shape[1], *[1] * (dims - 2))))})"
    codes = ("{{0}} + {}", "{} + {{0}}", "{{0}} - {}", "{{0}}.add({})", "torch.add({{0}}, {})", "{} - {{0}}")
    if not add:
        codes = (
            "{{0}} * {}",
            "{} * {{0}}",
            "{{0}}.mul({})",
            "torch.mul({{0}}, {})",
            "torch.mul({}, {{0}})",
            "{{0}}.mul_({})",
        )
    return Piece(w.pick(*codes).format(own), (x.name,), layers, factors=1)


@drawn()
def fused(w: Writer, x: Value) -> Piece | None:
    """Two values with learned weights, kept positive by a ReLU: BiFPN's fusion."""
    y = w.other(x)
    if y is None:
        return None
    own, layers = w.buffer("factor", (2,), parameter=True)
    kind = w.pick("F.relu({})", "torch.relu({})", "{}.relu()", "{}")
    code = f"{{t}} = {kind.format(own)}\n{{t}} = {{t}}[0] * {{0}} + {{t}}[1] * {{1}}"
    return Piece(code, (x.name, y.name), layers, factors=1)


# Whole numbers computed from tokens.
OF_TOKENS = [
    "tokens.eq(0).logical_not()", "tokens.ne(0) & (tokens > 2)", "torch.ge(tokens, 1)", "tokens % 2 == 0",
    "tokens.remainder(3)",
    "tokens // 2 > 1", "tokens.clamp(max=1)", "tokens.clamp_max(1)", "tokens.clamp_min(2)", "tokens.cumsum(1) > 3",
    "torch.cumsum(tokens != 0, 1) <= 2", "tokens.le(4).logical_or(tokens.ge(9))",
    "torch.logical_and(tokens > 1, tokens.lt(8))",
    "torch.where(tokens > 3, 1, 0)", "tokens.bool()", "torch.ones_like(tokens)",
    "(tokens == tokens.amax(1, keepdim=True))",
    "(tokens > tokens.float().mean(1, keepdim=True))", "tokens.bitwise_and(tokens)", "tokens.abs()",
    "(tokens > 2) | (tokens == 0)",
    "(tokens != 0).any(1, keepdim=True).expand(-1, {0}.size(1))", "torch.full_like(tokens, 2)", "tokens.pow(2) > 9",
    "torch.remainder(tokens, 2)", "tokens.sort(1)[0] > 2", "(tokens.argsort(1) == 0)", "tokens.new_ones(tokens.shape)",
    "torch.floor_divide(tokens, 3)", "tokens.masked_fill(tokens > 3, 0)", "torch.eq(tokens, 3).logical_not()",
    "tokens.neg().add(3)",
    "torch.stack([tokens, tokens]).amax(0)", "torch.cat([tokens, tokens], 1)[:, :{0}.size(1)]",
    "(tokens.min(1, keepdim=True)[0] < tokens)",
]  # fmt: skip


def masks_for(w: Writer, x: Value) -> list[str]:
    """Tensors of whole numbers computed from the inputs, which broadcast against `x`."""
    masks: list[str] = []
    dims, ends = x.tensor.dim(), ", 1" * (x.tensor.dim() - 1)
    for name, tensor in w.given.items():
        if name in ("x", "z"):
            every = tuple(range(1, tensor.dim()))
            masks += [f"({name}.sum({every}) > 0).view(-1{ends})", f"({name}.amax({every}) > 1).reshape(-1{ends})"]
            if tensor.shape == x.shape:
                masks += [
                    f"({name} > 0.5)",
                    f"({name} <= 0)",
                    f"({name} != 0)",
                    f"{name}.gt(0.25)",
                    f"torch.lt({name}, 0.5)",
                ]
        elif dims >= 3 and name != "lengths" and x.shape[1] == tensor.shape[1]:
            masks += [f"({name} > 0)" + ".unsqueeze(-1)" * (dims - 2)]
            if name == "tokens":
                shape = ", ".join(map(str, (-1, tensor.shape[1], *[1] * (dims - 2))))
                masks += [f"({each}).view({shape})" for each in OF_TOKENS]
        elif name == "lengths":
            masks.append(f"(lengths > 1).view(-1{ends})")
            if dims == 3:
                masks.append("(torch.arange({0}.shape[1])[None, :] < lengths[:, None]).unsqueeze(-1)")
    return masks


def masking(code: str) -> Row:
    """A mask computed from an input, `<m>`, which shuts out some entries."""

    def draw(w: Writer, x: Value) -> Piece | None:
        masks = masks_for(w, x)
        if not masks:
            return None
        cast = w.pick("", ".float()", ".long()", ".int()", ".to({0}.dtype)", ".type_as({0})", ".bool()")
        written = code.replace("<m>", w.pick(*masks)).replace("<cast>", cast)
        names = tuple(name for name in w.given if re.search(rf"\b{name}\b", written) and name != x.name)
        return Piece(written, (x.name, *names))

    return Row(draw, ANY)


MASKINGS = [
    masking(code)
    for code in (
        "{0} * <m><cast>", "<m><cast> * {0}", "{0}.mul(<m><cast>)", "torch.mul({0}, <m><cast>)", "{0} * (<m>).float()",
        "{0}.masked_fill(~<m>.bool(), 0)", "torch.masked_fill({0}, <m>.bool(), 0.0)", "{0}.masked_fill_(<m> == 0, 0)",
        "{0}.masked_fill(<m>.logical_not(), value=0)", "torch.where(<m>.bool(), 0.0, {0})",
        "torch.where(<m> != 0, {0}, torch.zeros_like({0}))", "{0}.where(<m> != 0, torch.zeros_like({0}))",
        "{0}.mul_(<m>.float())",
    )
]  # fmt: skip


@drawn(3)
def pooled_text(w: Writer, x: Value) -> Piece | None:
    """States of texts to one vector each, by lengths or masks."""
    if "tokens" not in w.given or x.shape[1] != w.given["tokens"].shape[1]:
        return None
    real = "(torch.arange({0}.size(1))[None, :] < lengths[:, None]).unsqueeze(-1)"
    codes = [
        "{0}[:, -1]",
        "{0}.mean(1)",
        "{0}.sum(1)",
        "{0}.max(1).values",
        "torch.max({0}, 1)[0]",
        "{0}.sum(1) / {0}.size(1)",
    ]
    codes += ["({0} * (tokens != 0).unsqueeze(-1)).sum(1) / (tokens != 0).sum(1, keepdim=True).clamp(min=1)"]
    if "lengths" in w.given:
        codes += [
            f"({{0}} * {real}).sum(1) / lengths[:, None]", f"({{0}} * {real}.float()).sum(1) / lengths.unsqueeze(1)",
            f"{{0}}.masked_fill(~{real}, float('-inf')).max(1).values", f"{{0}}.masked_fill(~{real}, -1e9).amax(1)",
            "{0}[torch.arange({0}.shape[0]), lengths - 1]",
            "{0}.gather(1, (lengths - 1).view(-1, 1, 1).expand(-1, 1, {0}.size(2))).squeeze(1)",
            "{0}.sum(1).div(lengths[:, None])", "torch.div({0}.sum(1), lengths.unsqueeze(-1))",
            "{0} / lengths[:, None, None]",
        ]  # fmt: skip
    code = w.pick(*codes)
    names = tuple(name for name in w.given if re.search(rf"\b{name}\b", code))
    return Piece(code, (x.name, *names), factors=1)


# Sums, means, maxima over dimensions.

REDUCTIONS = [
    say(each, *dims, factors=each.count("mean"))
    for dims, spellings in (
        ((3, 4, 5), (
            "{0}.sum(1)", "{0}.mean(1)", "{0}.sum(-1)", "{0}.mean(-1)", "{0}.amax(-1)", "torch.sum({0}, 1)",
            "torch.mean({0}, -1)", "torch.amax({0}, -1)", "{0}.max(-1)[0]", "{0}.max(dim=1).values",
            "torch.max({0}, 2)[0]",
            "{0}.sum(dim=-1, keepdim=True)", "{0}.mean(2, keepdim=True)", "torch.mean({0}, dim=1, keepdim=True)",
            "{0}.sum(2, dtype=torch.float64).float()", "{0}.mean(-1, dtype=torch.float32)",
            "{0}.amax((1,), keepdim=True)", "{0}.amin(-1)", "torch.amin({0}, 1)", "{0}.amin((1,), keepdim=True)",
            "{0}.min(-1)[0]", "{0}.min(dim=1).values", "torch.min({0}, 2)[0]", "torch.min({0}, 1, keepdim=True).values",
            "torch.amax({0}, dim=2)", "{0}.max(2, keepdim=True).values", "{0}.sum(1, True)",
        )),
        ((4,), (
            "{0}.mean((2, 3))", "{0}.mean([2, 3])", "{0}.sum((-2, -1))", "torch.mean({0}, (2, 3), keepdim=True)",
            "{0}.amax((2, 3))", "{0}.amin((2, 3))", "{0}.mean(dim=(-2, -1), keepdim=True)", "{0}.flatten(2).mean(-1)",
            "{0}.mean(3).mean(2)",
            "torch.sum({0}, dim=[2, 3], keepdim=True)",
        )),
        ((2,), ("{0}.sum(1, keepdim=True)", "{0}.amax(1, keepdim=True)", "{0}.mean(-1, keepdim=True)")),
    )
    for each in spellings
]  # fmt: skip

# Rearrangements.

_LAYOUTS: list[tuple[tuple[int, ...], tuple[str, ...]]] = [
    (ANY, (
        "{0}.flatten(1)", "torch.flatten({0}, 1)", "{0}.reshape({0}.shape[0], -1)", "{0}.view({0}.size(0), -1)",
        "torch.reshape({0}, ({0}.shape[0], -1))", "{0}.unsqueeze(1)", "torch.unsqueeze({0}, 2)", "{0}.unsqueeze(-1)",
        "{0}.contiguous()", "{0}.clone()", "torch.clone({0})", "{0}.detach()", "{0}.flip(1)", "torch.flip({0}, (1,))",
        "{0}.flip(-1)", "{0}.roll(1, 1)", "torch.roll({0}, 1, -1)", "{0}.narrow(1, 0, 1)", "torch.narrow({0}, 1, 0, 1)",
        "{0}[:, :1]", "{0}[:, ::2]", "{0}[:, -1:]", "{0}[..., -1:]", "{0}[:, [0]]", "{0}[:, None]", "{0}[:, 1:]",
        "{0}[:, torch.arange({0}.shape[1])]", "{0}.chunk(2, 1)[0]", "torch.chunk({0}, 2, -1)[-1]", "{0}.split(1, 1)[0]",
        "torch.split({0}, 1, 1)[0]", "{0}.flatten(1, {0}.dim() - 1)", "torch.cat([{0}, {0}], 1)",
        "torch.cat(({0}, {1}), dim=1)", "torch.concat([{0}, {1}], 1)", "torch.concatenate([{0}, {1}], -1)",
        "torch.stack([{0}, {1}], 1)", "torch.stack([{0}, {1}], -1)", "{0}.unflatten(1, (1, <C>))",
        "torch.unflatten({0}, 1, (<C>, 1))", "{0}.index_select(1, torch.tensor([0]))",
        "torch.index_select({0}, 1, torch.arange(1))", "{0}.transpose(0, 1).transpose(0, 1)",
        "{0}.unsqueeze(0).squeeze(0)",
        "torch.cat([{0}.flatten(1), {0}.flatten(1)], 1)", "torch.cat([{0}], 1)",
        "torch.cat([{0}, torch.zeros_like({0})], 1)", "{0} + torch.zeros_like({0})", "{0}.ravel().view({0}.shape)",
        "torch.ravel({0}).view({0}.shape)", "{0}.broadcast_to({0}.shape)", "torch.broadcast_to({0}, {0}.shape)",
        "{0}.unfold(1, 1, 1)[..., 0]", "{0}.unfold(-1, 2, 1).flatten(1)",
    )),
    ((2,), (
        "{0}.t().t()", "{0}.T.T", "torch.t({0}).t()", "{0}.tile((1, 2))", "torch.tile({0}, (1, 2))", "{0}.repeat(1, 2)",
        "{0}.unsqueeze(2).expand(-1, -1, 2)", "{0}[:, :, None]", "torch.cat([{0}, torch.zeros({0}.shape[0], 2)], 1)",
        "torch.cat([{0}, {0}.new_zeros({0}.shape[0], 1)], 1)", "F.pad({0}, (1, 0))", "F.pad({0}, (0, 2))",
        "{0}.gather(1, torch.zeros({0}.shape[0], 2).long())", "{0}.mT.mT",
    )),
    ((3, 4, 5), (
        "{0}.transpose(1, 2)", "torch.transpose({0}, 1, 2)", "{0}.swapaxes(1, 2)", "torch.swapaxes({0}, 1, 2)",
        "{0}.movedim(1, 2)", "torch.movedim({0}, -1, 1)", "{0}.select(1, 0)", "torch.select({0}, 1, -1)", "{0}[:, 0]",
        "{0}[:, -1]", "{0}[..., 0]", "{0}.unbind(1)[0]", "torch.unbind({0}, 1)[-1]", "{0}.squeeze(1)",
        "torch.squeeze({0}, 2)",
        "{0}.squeeze(-1)", "{0}.flatten(1, 2)", "torch.flatten({0}, 1, 2)", "{0}.flatten(start_dim=2)", "{0}.mT",
        "{0}[:, :, 1:]", "{0}[:, :, :-1]", "{0}.tril()", "torch.tril({0}, -1)", "{0}.triu(1)", "torch.triu({0})",
        "{0}.swapdims(1, 2)", "torch.swapdims({0}, 2, 1)", "{0}.moveaxis(1, -1)", "torch.moveaxis({0}, 1, 2)",
        "{0}.diagonal(dim1=1, dim2=2)", "torch.diagonal({0}, 0, -1, 1)",
    )),
    ((3,), (
        "{0}.permute(0, 2, 1)", "torch.permute({0}, (0, 2, 1))", "{0}.tile((1, 1, 2))", "F.pad({0}, (1, 0))",
        "{0}.repeat(1, 2, 1)",
        "F.pad({0}, (0, 1), 'reflect')", "F.pad({0}, (2, 1))", "F.interpolate({0}, scale_factor=2)",
        "F.interpolate({0}, size=6, mode='nearest')", "F.upsample({0}, scale_factor=2)",
        "F.interpolate({0}, scale_factor=2, mode='linear')", "{0}.expand(-1, -1, -1)",
        "F.pad({0}, (1, 1), mode='replicate')",
        "{0}.unsqueeze(2).expand(-1, -1, 2, -1)",
        "{0}.gather(1, (tokens[:, :1] % 2).view(-1, 1, 1).expand(-1, 1, {0}.size(2)))",
        "torch.gather({0}, 1, (tokens[:, :1] % 2).view(-1, 1, 1).expand(-1, 1, {0}.shape[2]))",
        "{0}.permute(1, 0, 2).reshape({0}.shape[1], -1).view({0}.shape[1], {0}.shape[0], -1).permute(1, 0, 2)",
    )),
    ((4,), (
        "{0}.permute(0, 2, 3, 1)", "torch.permute({0}, (0, 1, 3, 2))", "F.pad({0}, (1, 0, 0, 0))",
        "F.pad({0}, (0, 0, 1, 0))",
        "F.pad({0}, (0, 1, 0, 1))", "F.pad({0}, (1, 1, 1, 1), mode='reflect')", "F.pad({0}, (1, 1, 1, 1), 'circular')",
        "F.pad({0}, [1, 0, 1, 0], 'constant', 0)", "F.pad({0}, (-1, 0, 0, 0))", "F.pad({0}, (0, 0, 0, 0, 1, 0))",
        "F.interpolate({0}, scale_factor=2, mode='nearest')", "F.interpolate({0}, size=(4, 4))",
        "F.interpolate({0}, scale_factor=2, mode='bilinear', align_corners=False)",
        "F.interpolate({0}, scale_factor=2.0, mode='nearest-exact')", "F.interpolate({0}, {0}.shape[2:])",
        "F.unfold({0}, 2, padding=(1, 0))", "F.unfold({0}, (1, 2), stride=2)",
        "F.interpolate({0}, size=(2, 1), mode='area')",
        "F.pixel_shuffle({0}, 2)", "torch.pixel_shuffle({0}, 2)", "F.pixel_unshuffle({0}, 2)",
        "torch.pixel_unshuffle({0}, 2)",
        "F.channel_shuffle({0}, 2)", "torch.channel_shuffle({0}, 2)", "torch.native_channel_shuffle({0}, 2)",
        "F.upsample_nearest({0}, scale_factor=2)", "F.upsample_bilinear({0}, scale_factor=2)",
        "{0}.reshape(-1, <C>, {0}.shape[2] * {0}.shape[3])",
        "{0}.view({0}.shape[0], <C>, -1)", "torch.cat([{0}[:, :, ::2], {0}[:, :, ::2]], 1)",
        "{0}.reshape(-1, {0}.shape[2], {0}.shape[3]).view({0}.shape)", "{0}.flatten(0, 1).unflatten(0, (-1, <C>))",
        "F.max_pool2d(F.pad({0}, (1, 0, 1, 0), value=float('-inf')), 2)",
    )),
]  # fmt: skip
LAYOUTS = [say(each, *dims) for dims, spellings in _LAYOUTS for each in spellings]
_MODULES: list[tuple[str, tuple[int, ...]]] = [
    ("nn.ZeroPad2d((1, 0, 2, 0))", (4,)), ("nn.ZeroPad2d(1)", (4,)), ("nn.ConstantPad2d((0, 1, 1, 0), 0.0)", (4,)),
    ("nn.ReflectionPad2d(1)", (4,)), ("nn.ReplicationPad2d((1, 0, 1, 0))", (4,)), ("nn.CircularPad2d(1)", (4,)),
    ("nn.ZeroPad1d((1, 0))", (3,)), ("nn.ConstantPad1d(1, 0.0)", (3,)), ("nn.ReflectionPad1d(1)", (3,)),
    ("nn.ReplicationPad1d((2, 0))", (3,)), ("nn.CircularPad1d((1, 1))", (3,)), ("nn.Upsample(scale_factor=2)", (3, 4)),
    ("nn.Upsample(size=(4, 4), mode='nearest')", (4,)), ("nn.UpsamplingNearest2d(scale_factor=2)", (4,)),
    ("nn.PixelShuffle(2)", (4,)), ("nn.PixelUnshuffle(2)", (4,)), ("nn.ChannelShuffle(2)", (4,)), ("nn.Unfold(2)", (4,)),
    ("nn.Flatten()", ANY),
    ("nn.ZeroPad3d((1, 0, 0, 1, 0, 0))", (5,)), ("nn.ConstantPad3d((0, 1, 0, 0, 1, 0), 0.0)", (5,)),
    ("nn.ReflectionPad3d((1, 0, 0, 0, 0, 0))", (5,)), ("nn.ReplicationPad3d((1, 0, 0, 1, 0, 0))", (5,)),
    ("nn.CircularPad3d((0, 1, 1, 0, 0, 0))", (5,)), ("nn.Flatten(1, 2)", (3, 4)), ("nn.Unflatten(1, (1, <C>))", ANY),
]  # fmt: skip
LAYOUTS += [module(constructor, *dims) for constructor, dims in _MODULES]


@drawn(*ANY, faces=8)
def parts(w: Writer, x: Value) -> Piece | None:
    """Several values at once, as they are unpacked."""
    size, dim = int(x.shape[1]), 1
    if size < 2 or size > 4:
        return None
    codes = [
        f"{{0}}.chunk({size}, {dim})",
        f"torch.split({{0}}, 1, {dim})",
        f"{{0}}.split([{', '.join('1' * size)}], dim={dim})",
    ]
    sizes = ", ".join("1" * size)
    codes += [f"{{0}}.split_with_sizes([{sizes}], {dim})", f"torch.split_with_sizes({{0}}, [{sizes}], {dim})"]
    if x.tensor.dim() > 2:
        codes += [f"{{0}}.unbind({dim})", f"torch.unbind({{0}}, {dim})"]
    return Piece(w.pick(*codes), (x.name,), results=size)


LAYOUTS += [parts, parts, parts]

# What leaves the numbers as they are, and what only seems to.

SAME = [
    module(each)
    for each in (
        "nn.Dropout(0.5)", "nn.Dropout1d(0.5)", "nn.Dropout2d(0.5)", "nn.AlphaDropout(0.5)", "nn.Identity()",
        "nn.Dropout(0.3, inplace=True)", "nn.Dropout3d(0.5)", "nn.FeatureAlphaDropout(0.5)",
    )
]  # fmt: skip
SAME += [
    say(each)
    for each in (
        "F.dropout({0}, 0.5, self.training)", "F.dropout({0}, p=0.5, training=self.training)", "{0}.float()",
        "{0}.double().float()",
        "F.dropout2d({0}, 0.5, self.training)", "F.dropout1d({0}, 0.2, training=self.training)",
        "{0}.to(torch.float32)",
        "torch.dropout({0}, 0.5, self.training)", "F.dropout3d({0}, 0.5, self.training)",
        "F.alpha_dropout({0}, 0.5, self.training)", "F.feature_alpha_dropout({0}, 0.5, self.training)",
        "torch.alpha_dropout({0}, 0.5, False)", "torch.feature_dropout({0}, 0.5, False)",
        "torch.dropout_({0}, 0.5, False)",
        "torch.feature_alpha_dropout({0}, 0.5, False)", "torch.alpha_dropout_({0}, 0.5, False)",
        "torch.feature_dropout_({0}, 0.5, False)", "torch.feature_alpha_dropout_({0}, 0.5, False)",
        "{0}.to({0}.device)", "{0}.type_as({0})", "{0}.to({0}.dtype)",
        "{0}.type(torch.float32)", "{0}.requires_grad_()", "{0}.to(torch.float64).float()", "{0}.to({0})",
        "{0}.to(dtype=torch.float32)",
    )
]  # fmt: skip
CASTS = [
    say(each, rough=True)
    for each in (
        "{0}.int().float()", "{0}.to(torch.int64).float()", "{0}.long().float()",
        "{0}.sum(-1, dtype=torch.int32).float()",
        "{0}.bool().float()", "{0}.type(torch.int32).to(torch.float32)",
        "{0}.sum(-1, keepdim=True, dtype=torch.long).float()",
        "{0}.mean(-1, keepdim=True).to(torch.int64) * 0.5",
        "torch.sum({0}, 1, keepdim=True, dtype=torch.int64).float()",
        "{0}.to(dtype=torch.int32).float()", "{0}.short().float()", "{0}.to(torch.uint8).float()",
    )
]  # fmt: skip
RANDOM = [
    say(each, random=True)
    for each in ("F.dropout({0}, 0.5)", "F.dropout({0}, p=0.25)", "torch.dropout({0}, 0.5, True)")
]

ENDINGS: list[Callable[[Writer, Value], Piece]] = [
    lambda w, x: Piece("{0}.flatten(1)", (x.name,)),
    lambda w, x: Piece("torch.flatten({0}, 1)", (x.name,)),
    lambda w, x: Piece("{0}.reshape({0}.shape[0], -1)", (x.name,)),
    lambda w, x: Piece("{0}.flatten(1)", (x.name,)),
    lambda w, x: Piece("{0}.flatten(2).mean(2)" if x.tensor.dim() > 2 else "{0}", (x.name,), factors=1),
    lambda w, x: Piece("{0}.flatten(2).sum(-1)" if x.tensor.dim() > 2 else "{0}", (x.name,)),
]

GRAMMAR = Grammar(
    groups=(
        MAPS, PRODUCTS, NORMS, ACTIVATIONS, CLIPPINGS, POOLS, ARITHMETIC, FACTORS, [constant], [fused], MASKINGS,
        [pooled_text], REDUCTIONS, LAYOUTS, SAME, CASTS, RANDOM,
    ),
    weights=(21, 3, 10, 22, 2, 12, 9, 7, 4, 2, 3, 4, 4, 14, 4, 0.7, 0.3),
    beginnings=[text], activations=ACTIVATIONS, endings=ENDINGS,
)  # fmt: skip
ROWS = list(dict.fromkeys(row for group in GRAMMAR.groups for row in group))


def written(seed: int) -> Script:
    """The forward of this seed."""
    return Writer(seed, GRAMMAR).write()


def singles(row: Row) -> Iterator[Script]:
    """A row of the grammar alone, between neurons and behind the input, at every number of dimensions it is for."""
    for face, dims, spiking in itertools.product(range(row.faces), row.dims, (True, False)):
        seed = zlib.crc32(f"{ROWS.index(row)} {face} {dims} {spiking}".encode())
        script = Writer(seed, GRAMMAR).single(row, dims, spiking)
        if script is not None:
            yield script
