"""The abstract run against an oracle that runs samples apart, together and beside other ones."""

from __future__ import annotations

import random
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import casc_core
from casc_core import CQReLU
from casc_core.engine.batching.batch_parts import Inputs, Parts, _resized
from casc_core.engine.batching.following import follow
from casc_core.engine.batching.places import Axis
from casc_core.engine.ops import Op
from casc_core.engine.program import Ref, Step
from casc_core.engine.recording.recorder import Recorder
from casc_core.spiking_model import SpikingModel

WIDTH = 4


def dims(h):
    return list(range(h.dim()))


# Each takes a random generator and the tensor at hand, and gives a function of (module, h, x, lengths), `x` being
# `[B, 3, WIDTH]` and `lengths` `[B]`.
STEPS = []


def step(make):
    STEPS.append(make)
    return make


@step
def activation(rng, h):
    return lambda m, h, x, n: m.act(h)


@step
def linear(rng, h):
    return lambda m, h, x, n: m.fc(h)


@step
def transposed(rng, h):
    a, b = rng.choice(dims(h)), rng.choice(dims(h))
    return lambda m, h, x, n: h.transpose(a, b)


@step
def permuted(rng, h):
    order = rng.sample(dims(h), h.dim())
    return lambda m, h, x, n: h.permute(order)


@step
def triangle(rng, h):
    name, diagonal = rng.choice(("tril", "triu")), rng.choice((-1, 0, 1))
    return lambda m, h, x, n: getattr(h, name)(diagonal)


@step
def windows(rng, h):
    dim, step = rng.choice(dims(h)), rng.choice((1, 2))
    size = rng.randint(1, h.shape[dim])
    return lambda m, h, x, n: h.unfold(dim, size, step).transpose(dim, -1)


@step
def diagonal(rng, h):
    (a, b), to = rng.sample(dims(h), 2), rng.choice((0, -1))
    return lambda m, h, x, n: h.diagonal(dim1=a, dim2=b).unsqueeze(to)


@step
def larger(rng, h):
    name, dim = rng.choice(("maximum", "minimum")), rng.choice(dims(h))
    if rng.random() < 0.5:
        return lambda m, h, x, n: getattr(h, name[:3])(other=h.flip(dim)[..., :1])
    return lambda m, h, x, n: getattr(h, name)(h.flip(dim)[..., :1])


@step
def moved(rng, h):
    a, b = rng.choice(dims(h)), rng.choice(dims(h))
    return lambda m, h, x, n: h.movedim(a, b)


@step
def folded(rng, h):
    return lambda m, h, x, n: h.reshape(-1, h.shape[-1])


@step
def unfolded(rng, h):
    if rng.random() < 0.5:
        return lambda m, h, x, n: h.reshape(x.shape[0], -1, h.shape[-1])
    return lambda m, h, x, n: h.reshape(-1, x.shape[0], h.shape[-1])


@step
def reshaped(rng, h):
    sizes = rng.choice([(-1, WIDTH), (2, -1), (-1, 2), (3, -1, WIDTH), (-1, 3, WIDTH)])
    return lambda m, h, x, n: h.reshape(sizes)


@step
def flattened(rng, h):
    a = rng.choice(dims(h))
    b = rng.choice(dims(h)[a:])
    return lambda m, h, x, n: h.flatten(a, b)


@step
def unflattened(rng, h):
    d, sizes = rng.choice(dims(h)), rng.choice([(2, -1), (-1, 2), (1, -1), (-1, 3)])
    return lambda m, h, x, n: h.unflatten(d, sizes)


@step
def squeezed(rng, h):
    d = rng.choice(dims(h))
    return rng.choice([lambda m, h, x, n: h.squeeze(), lambda m, h, x, n: h.squeeze(d)])


@step
def unsqueezed(rng, h):
    d = rng.randrange(-h.dim() - 1, h.dim() + 1)
    return lambda m, h, x, n: h.unsqueeze(d)


@step
def expanded(rng, h):
    return lambda m, h, x, n: h.unsqueeze(0).expand(2, *[-1] * h.dim())


@step
def repeated(rng, h):
    times = [rng.choice([1, 1, 2]) for _ in dims(h)]
    return rng.choice([lambda m, h, x, n: h.repeat(*times), lambda m, h, x, n: h.tile(times)])


@step
def reduced(rng, h):
    d, keep, how = rng.choice(dims(h)), rng.random() < 0.5, rng.choice(["sum", "mean", "amax"])
    return lambda m, h, x, n: getattr(h, how)(d, keepdim=keep)


@step
def reduced_over_several(rng, h):
    chosen, keep = tuple(rng.sample(dims(h), rng.randint(1, h.dim()))), rng.random() < 0.7
    return lambda m, h, x, n: h.sum(chosen, keepdim=keep)


@step
def rolled(rng, h):
    by, d = rng.choice([1, 2, -1, 4]), rng.choice(dims(h))
    if rng.random() < 0.2:
        return lambda m, h, x, n: h + torch.roll(h, by)
    return lambda m, h, x, n: h + torch.roll(h, by, d)


@step
def flipped(rng, h):
    d = rng.choice(dims(h))
    return rng.choice([lambda m, h, x, n: h.flip(d), lambda m, h, x, n: torch.flip(h, [d])])


@step
def sliced(rng, h):
    d = rng.choice(dims(h))
    part = rng.choice([slice(1, None), slice(None, -1), slice(None, None, 2), slice(0, 4), slice(None, 3)])
    index = tuple(part if each == d else slice(None) for each in dims(h))
    return lambda m, h, x, n: h[index]


@step
def sliced_by_the_batch(rng, h):
    return rng.choice([lambda m, h, x, n: h[: x.shape[0]], lambda m, h, x, n: h[-x.shape[0] :]])


@step
def picked(rng, h):
    d, at = rng.choice(dims(h)), rng.choice([0, -1])
    return lambda m, h, x, n: h.select(d, at)


@step
def narrowed(rng, h):
    d = rng.choice(dims(h))
    return rng.choice([lambda m, h, x, n: h.narrow(d, 0, 2), lambda m, h, x, n: h.narrow(d, 0, x.shape[0])])


@step
def chunked(rng, h):
    d, at = rng.choice(dims(h)), rng.choice([0, 1])
    return rng.choice([lambda m, h, x, n: h.chunk(2, d)[at], lambda m, h, x, n: h.split(2, d)[at]])


@step
def unbound(rng, h):
    d = rng.choice(dims(h))
    return lambda m, h, x, n: h.unbind(d)[0]


@step
def joined(rng, h):
    d, other = rng.choice(dims(h)), rng.choice([lambda h: h, lambda h: h.flip(0), lambda h: h.roll(1, -1)])
    return lambda m, h, x, n: torch.cat([h, other(h)], d)


@step
def joined_with_the_input(rng, h):
    d = rng.choice(dims(h))
    return lambda m, h, x, n: torch.cat([h, x], d)


@step
def stacked(rng, h):
    d = rng.randrange(h.dim() + 1)
    return lambda m, h, x, n: torch.stack([h, h.flip(-1)], d)


@step
def token(rng, h):
    d = rng.choice([0, 1])
    return lambda m, h, x, n: torch.cat([h, torch.ones_like(x[:, :1])], d)


@step
def padded(rng, h):
    around = [rng.choice([0, 0, 1]) for _ in range(2 * rng.randint(1, h.dim()))]
    return lambda m, h, x, n: F.pad(h, around)


@step
def position(rng, h):
    return lambda m, h, x, n: h + m.place


@step
def masked(rng, h):
    how = rng.choice(
        [
            lambda h, x: x > 0, lambda h, x: (x > 0).any(-1, keepdim=True), lambda h, x: (x > 0.5).any(),
            lambda h, x: (x > 0).any(0, keepdim=True), lambda h, x: x.sum((1, 2), keepdim=True) > 0,
            lambda h, x: (x.flip(0) > 0), lambda h, x: torch.arange(h.shape[0]).reshape(-1, *[1] * (h.dim() - 1)) % 2 == 0,
        ]
    )  # fmt: skip
    if rng.random() < 0.5:
        return lambda m, h, x, n: h * how(h, x)
    return lambda m, h, x, n: h.masked_fill(how(h, x), 0.0)


@step
def divided(rng, h):
    by = rng.choice(
        [
            lambda h, x, n: n.reshape(-1, 1, 1), lambda h, x, n: n.max(), lambda h, x, n: x.shape[0],
            lambda h, x, n: x.shape[1], lambda h, x, n: n.unsqueeze(1), lambda h, x, n: n,
            lambda h, x, n: n.sum().clamp(min=1),
        ]
    )  # fmt: skip
    return lambda m, h, x, n: h / by(h, x, n)


@step
def last(rng, h):
    return rng.choice(
        [
            lambda m, h, x, n: h[torch.arange(h.shape[0]), n - 1], lambda m, h, x, n: h[:, n - 1],
            lambda m, h, x, n: h[n - 1],
            lambda m, h, x, n: h[torch.arange(x.shape[0]), -1], lambda m, h, x, n: h[torch.arange(x.shape[0]).flip(0), 0],
            lambda m, h, x, n: h[:, torch.arange(x.shape[0])], lambda m, h, x, n: h[torch.arange(x.shape[0])],
            lambda m, h, x, n: h[:, [0, 1]], lambda m, h, x, n: h[[0, 1]],
        ]
    )  # fmt: skip


@step
def gathered(rng, h):
    d = rng.choice([0, 1])
    return rng.choice(
        [
            lambda m, h, x, n: h.gather(d, (n - 1).reshape(-1, 1, 1).expand(-1, 1, h.shape[-1])),
            lambda m, h, x, n: h.gather(d, (x > 0).long()),
            lambda m, h, x, n: h.index_select(d, torch.arange(x.shape[0]) % 2),
            lambda m, h, x, n: h.index_select(d, torch.arange(2)),
        ]
    )


@step
def sorted_mask(rng, h):
    d = rng.choice([0, 1, 2])
    return lambda m, h, x, n: h * (x.sort(d).values > 0) * (x.cumsum(d) > 0) * (x.argmax(d, keepdim=True) > 0)


class Program(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.steps, self.act, self.fc = steps, CQReLU(q=3), nn.Linear(WIDTH, WIDTH)
        self.register_buffer("place", torch.tensor([[0.5], [-0.25], [0.75]]))
        generator = torch.Generator().manual_seed(len(steps))
        self.fc.weight.data = torch.randint(-4, 5, (WIDTH, WIDTH), generator=generator) / 4
        self.fc.bias.data = torch.randint(-2, 4, (WIDTH,), generator=generator) / 4

    def forward(self, x, n):
        h = self.act(self.fc(x))
        for each in self.steps:
            h = each(self, h, x, n)
        return h


def drawn(seed, batch):
    """A random program that torch can run, and inputs for it."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    x = torch.randint(-4, 5, (batch, 3, WIDTH), generator=generator) / 4
    n = torch.randint(1, 4, (batch,), generator=generator)
    program = Program([])
    for _ in range(rng.randint(1, 5)):
        with torch.no_grad():
            h = program(x, n)
        make = rng.choice(STEPS)
        try:
            longer = Program([*program.steps, make(rng, h)])
            with torch.no_grad():
                h = longer(x, n)
        except (RuntimeError, IndexError, ValueError):
            continue
        if 0 < h.numel() < 2000 and h.dim():
            program = longer
    return program.eval(), x, n


def check(seed):
    """How far the abstract run of a random program goes; whatever it says is held against runs."""
    batch = random.Random(seed).choice([2, 3, 3, 4, 6])
    program, x, n = drawn(seed, batch)
    try:
        snn = casc_core.convert(program, adapter="rnn")
        whole = snn.simulate(x, n)
    except (casc_core.CascError, RuntimeError, IndexError, ValueError):
        return "refused"
    splitter = snn._splitter(snn.programs[frozenset(("x", "n"))])
    values, run = Inputs({"x": x, "n": n}), snn._spiking_run(None, None)
    found = splitter.followed(values, run)
    assert whole.silent_at.shape == (found.recorded,)
    assert found.samples == batch or found.dims["x"] == 1
    _check_owners(snn, found, values)
    if found.why_not is not None:
        return "mixed"
    output, reference = snn(x, n), snn.reference(x, n)
    proven = 0
    for limit in (2, 3, found.samples):
        count = min(limit, found.samples)
        parts = Parts(values, found, count)
        for size in set(parts.sizes):
            part = follow(splitter.program, splitter.ops, _resized(values, found.dims, size), found.dims, run, found)
            if not found.treats_as(part):
                break
        else:
            proven += 1
            assert torch.equal(parts.join([snn(**part)] for part in parts)[0], output)
            assert torch.equal(parts.join([snn.reference(**part)] for part in parts)[0], reference)
            simulations = [snn.simulate_recorded((), part, None, Recorder()) for part in parts]
            assert torch.equal(torch.cat([each.silent_at for each in simulations]), whole.silent_at)
    return "proven" if proven else "sizes differ"


def _check_owners(snn, found, values):
    """What belongs to a sample stays as it is when all others change."""
    counts = snn.reference_counts((), values)[1]
    steps = [step.result for step in splitter_steps(snn)]
    for sample in range(found.samples):
        other = {}
        for name, value in values.items():
            dim = found.dims[name]
            changed = value.flip(-1) if name == "n" else value.roll(1, 0).neg()
            if dim is not None:
                changed = changed.clone() if name == "x" else (value % 3 + 1)
                changed.select(dim, sample).copy_(value.select(dim, sample))
            else:
                changed = value
            other[name] = changed
        try:
            moved = snn.reference_counts((), other)[1]
        except (casc_core.CascError, RuntimeError, IndexError):
            continue
        for name, result in zip(snn.layers, steps, strict=True):
            where = found.layers[result]
            if where is None:
                assert torch.equal(counts[name], moved[name]), name
            if isinstance(where, Axis):
                own = [
                    each.unflatten(where.dim, (-1, found.samples, where.inner)).select(where.dim + 1, sample)
                    for each in (counts[name], moved[name])
                ]
                assert torch.equal(*own), name


def splitter_steps(snn):
    program, ops = snn.programs[frozenset(("x", "n"))], snn.operations()
    return [step for step in program.steps if ops[step.op].is_layer]


@settings(max_examples=40, derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_said_of_a_random_program_is_so(seed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(seed)


def test_every_operation_says_where_the_samples_are():
    ours = [kind for kind in Op.kinds.values() if kind.__module__.startswith(("casc_core.engine.ops.", "casc_seq."))]
    assert [kind for kind in ours if kind.forward is not Op.forward and kind.follow is Op.follow] == []


class Unsaid(Op):
    """An operation of a third party that says nothing of samples."""

    def forward(self, run, signal):
        return signal


def test_what_an_operation_does_not_say_is_not_guessed():
    snn = casc_core.convert(nn.Sequential(nn.Linear(4, 4), CQReLU(q=3), nn.Linear(4, 4), CQReLU(q=3), nn.Linear(4, 2)))
    (program,) = snn.programs.values()
    first = next(number for number, op in enumerate(snn.operations()) if op.is_layer)
    programs = {frozenset(program.inputs): _behind(program, first, len(snn.operations()))}
    other = SpikingModel(snn.network._replace(ops=[*snn.operations(), Unsaid()], programs=programs))
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * torch.arange(6)[:, None]
    assert torch.equal(other(x), snn(x))
    alone, together = snn.simulate(x).spikes, other.simulate(x).spikes
    assert torch.equal(alone["1"].silent_at, together["1"].silent_at)
    assert together["3"].silent_at.tolist() == [int(alone["3"].silent_at.max())] * 6
    other.memory_limit = 1
    with pytest.warns(UserWarning, match="Unsaid .* does not say where the samples are"):
        assert torch.equal(other(x), snn(x))


def _behind(program, op, added):
    """The program with the operation `added` called on what `op` gives."""
    steps = []
    for each in program.steps:
        if steps and steps[-1].op == added:
            each = replace(each, args=(Ref("unsaid"), *each.args[1:]))
        steps.append(each)
        if each.op == op:
            steps.append(Step(added, (Ref(each.result),), {}, "unsaid"))
    return replace(program, steps=tuple(steps))


@pytest.mark.parametrize(
    ("forward", "output"),
    [
        (lambda self, x: self.layers(x.view(-1, 4)).view(-1, 3, 2), Axis(0)),
        (lambda self, x: self.layers(x.view(-1, 4)), Axis(0, inner=3)),
        (lambda self, x: self.layers(torch.cat([x, x.neg()])), Axis(0)),
        (lambda self, x: self.layers(x).transpose(0, 1), Axis(1)),
        (lambda self, x: self.layers(x.transpose(0, 1).reshape(-1, 4)), Axis(0)),
        (lambda self, x: self.layers(x)[torch.arange(x.shape[0]), x.argmax(1)[:, 0]], Axis(0)),
        (lambda self, x: self.layers(torch.cat([torch.ones_like(x[:, :1]), x], 1)), Axis(0)),
        (lambda self, x: self.layers(F.pad(x, (0, 0, 1, 0)))[:, 0], Axis(0)),
        (lambda self, x: self.layers(x).flip(0), None),
        (lambda self, x: self.layers(x)[: x.shape[0] - 1], None),
        (lambda self, x: self.layers(x).reshape(2, -1, 2), None),
        (lambda self, x: self.layers(x) * (x.cumsum(0) > 0).any(-1, keepdim=True), None),
    ],
)
def test_where_the_samples_are_in_the_output(forward, output):
    model = type("Model", (nn.Module,), {"forward": forward})()
    model.layers = nn.Sequential(nn.Linear(4, 4), CQReLU(q=3), nn.Linear(4, 2))
    snn = casc_core.convert(model.eval(), adapter="rnn")
    x, (program,) = torch.randn(6, 3, 4), snn.programs.values()
    found = snn._splitter(program).followed(Inputs({"x": x}), snn._spiking_run(None, None))
    assert found.samples == 6
    assert (found.axis(0) if found.why_not is None else None) == output


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x, n: self.layers(F.pad(self.first(x) / n[:, None, None], (0, 0, 1, 0))),
        lambda self, x, n: self.layers((self.first(x) / n[:, None, None]).masked_fill(x > 0, 0.0)),
        lambda self, x, n: (self.first(x) / n[:, None, None]).masked_fill(x > 0, 0.0),
    ],
)
def test_what_is_added_or_filled_is_not_divided(forward):
    model = type("Model", (nn.Module,), {"forward": forward})()
    model.first = nn.Sequential(nn.Linear(4, 4), CQReLU(q=3))
    model.layers = nn.Sequential(CQReLU(q=3), nn.Linear(4, 2))
    model.first[0].weight.data = torch.eye(4) / 2
    model.first[0].bias.data.fill_(0.25)
    x, n = (
        torch.randint(-4, 5, (5, 3, 4), generator=torch.Generator().manual_seed(0)) / 4,
        torch.tensor([1, 2, 3, 1, 2]),
    )
    snn = casc_core.convert(model.eval(), adapter="rnn")
    report = casc_core.verify(snn, x, n)
    assert report.exact
    with torch.no_grad():
        torch.testing.assert_close(snn(x, n), model(x, n))


class LargerByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.fc = CQReLU(4), nn.Linear(3, 2)

    def forward(self, x, y):
        return self.fc(self.act(x.max(other=y)))


def test_the_larger_of_two_inputs_by_keyword_leaves_samples_apart():
    snn = casc_core.convert(LargerByKeyword())
    x, y = torch.rand(2, 20, 3, generator=torch.Generator().manual_seed(0)).mul(0.4)
    x[3] = y[3] = 0
    alone = [int(snn.simulate(x[i : i + 1], y[i : i + 1]).silent_at) for i in range(20)]
    assert alone[3] == 0
    assert snn.simulate(x, y).silent_at.tolist() == alone
