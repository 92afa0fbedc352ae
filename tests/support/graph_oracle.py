"""A random forward held against the user's own network, evaluated by PyTorch in float64: nothing may differ.

The oracle knows nothing of lowering. It runs the prepared network itself, its weights dyadic so that float64 does not
round, and only looks at (and stands in for) the activations:

- in levels, an activation is its definition: `clip(floor(q x / theta), 0, q)`, or `floor(q f(x) + 1/2)` of a tanh f;
- in spikes, one forward is run for each step t, in which every activation gives `theta N_t / w`, w the wake steps so far.
  All else is affine or a maximum, so what an activation reads is then its input current summed over all steps so far, over
  w: its neurons fire by their definition, and what the network returns is the readout after step t.
"""

from __future__ import annotations

import copy
import linecache
import math
import re
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import casc_core
import casc_core.engine.spiking_run
import casc_seq
from casc_core import CQReLU, Rounded
from casc_core.engine.recording.recorder import Recorder
from casc_core.errors import CascError, ExactnessError
from casc_core.schedule import LARGEST_STEPS

# Two numbers of levels that are nearer than this are equal: true ones lie on a power-of-two grid that is far coarser, and
# float64 rounds far finer.
EDGE = 1e-9
# A neuron of a rough graph may be one level off where its current lies this near to an edge, in levels.
ROUGH_EDGE = 2.0**-6


# What is rounded, by name, and its lower end.
SQUASHING: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "sigmoid": (lambda x: 1 / (1 + torch.exp(-x)), 0),
    "tanh": (torch.tanh, -1),
    "hardsigmoid": (lambda x: ((x + 3) / 6).clamp(0, 1), 0),
    "hardtanh": (lambda x: x.clamp(-1, 1), -1),
    "softsign": (lambda x: x / (1 + x.abs()), -1),
}


@dataclass(frozen=True)
class Input:
    """One argument of the forward: `kind` is "real", "tokens", "lengths" (of texts so long), "state" or "mask"."""

    name: str
    kind: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Graph:
    """A model as source code, and all that is needed to run it.

    Attributes:
        source: defines `class Model(nn.Module)`.
        seed: of its weights and inputs.
        options: of `prepare`.
        rough: it holds numbers off every power-of-two grid, so that snapping moves them.
        random: no two runs of the forward agree, so it must be refused.
        idle: some of it is computed and never read.
    """

    source: str
    inputs: tuple[Input, ...]
    q: int
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    rough: bool = False
    random: bool = False
    idle: bool = False

    def __str__(self) -> str:
        shown = ", ".join(f"{each!r}" for each in self.inputs)
        more = "".join(f", {name}=True" for name in ("rough", "random", "idle") if getattr(self, name))
        return f'SOURCE = """\n{self.source}"""\nGraph(SOURCE, ({shown},), {self.q}, {self.seed}, {self.options}{more})'


class FaultError(AssertionError):
    """What was found wrong: of which kind, and the details."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


class RefusedError(Exception):
    """The library refused the forward."""


class UnusableError(Exception):
    """PyTorch itself does not run the forward."""


@dataclass
class Compared:
    """How much a check compared."""

    layers: int = 0
    neurons: int = 0
    steps: int = 0


class Residual(nn.Module):
    """A block as users write them: a body beside a shortcut, then an activation called as a function."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.body(x))


def built(source: str) -> nn.Module:
    """The model of this source, whose lines are found by whoever looks for them."""
    file = str(Path(tempfile.gettempdir()) / f"graph_{zlib.crc32(source.encode()):08x}.py")
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space = dict(NAMES)
    exec(compile(source, file, "exec"), space)
    model: nn.Module = space["Model"]()
    return model.eval()


NAMES: dict[str, Any] = {
    "torch": torch, "nn": nn, "F": F, "casc_core": casc_core, "casc_seq": casc_seq, "Residual": Residual,
}  # fmt: skip
"""What the source of a graph may name."""


def settle(model: nn.Module, seed: int) -> nn.Module:
    """Dyadic weights, each from the seed and its own name, so that the others do not matter."""
    with torch.no_grad():
        for path, module in model.named_modules():
            own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
            for name, tensor in own:
                if tensor.is_floating_point() and name != "threshold" and not name.endswith("_fixed"):
                    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{path}.{name}".encode()))
                    tensor.copy_(_values(name, tensor, getattr(module, "eps", 0.0625), generator))
    return model


FACTORS = torch.tensor([2.0, 0.5, -1.0, 1.0, 0.75, 3.0, -0.5, 1.5])


def _values(name: str, tensor: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    def drawn(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, tensor.shape, generator=generator)

    if name.endswith("_var"):  # so that 1 / sqrt(var + eps) is a power of two
        return 4.0 ** drawn(-1, 1) - eps
    if name.endswith("factor") or (eps != 0.0625 and name == "weight"):
        return FACTORS[drawn(0, len(FACTORS) - 1)]
    if name.endswith("_mean"):
        return drawn(-4, 4) / 8
    if "bias" in name:
        return drawn(-3, 8) / 8
    return drawn(-8, 8) / 8


def arguments(graph: Graph) -> tuple[Tensor, ...]:
    """The inputs of a graph."""
    made = []
    for each in graph.inputs:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{graph.seed}:{each.name}".encode()))
        if each.kind == "lengths":
            batch, longest = each.shape
            made.append(torch.randint(1, longest + 1, (batch,), generator=generator))
        elif each.kind == "tokens":
            made.append(torch.randint(0, 11, each.shape, generator=generator))
        elif each.kind == "mask":
            made.append(torch.rand(each.shape, generator=generator) < 0.7)
        elif each.kind == "state":
            made.append(torch.randint(0, 9, each.shape, generator=generator) / 8)
        else:
            made.append(torch.randint(-384, 513, each.shape, generator=generator) / 256)
    return tuple(made)


class _InDouble(TorchFunctionMode):
    """Every float32 that the forward asks for is a float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def widened(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        if func is torch.Tensor.float:
            func = torch.Tensor.double
        return func(*map(widened, args), **{name: widened(value) for name, value in (kwargs or {}).items()})


def near(x: Tensor) -> Tensor:
    """`x`, but an integer where it is one but for float64's own rounding."""
    whole = x.round()
    return torch.where((x - whole).abs() < EDGE, whole, x)


@dataclass(frozen=True)
class Rounding:
    """An activation: `worth` times a whole number from `lowest` to q, over q.

    Attributes:
        exactly: that number before it is rounded down, of q times what the activation reads.
    """

    exactly: Callable[[Tensor], Tensor]
    worth: Any
    lowest: int = 0


def clipped(theta: Any, half: bool) -> Rounding:
    """That of a CQReLU."""
    return Rounding(lambda total: total / theta + 0.5 * half, theta)


class Levels:
    """Activations in levels: held against the counts that were found, which then go on to the next layer.

    So each layer is judged by itself, and the first that differs is the one at fault.
    """

    def __init__(self, q: int, found: dict[str, Tensor], rough: bool, idle: bool) -> None:
        self.q, self.found, self.rough, self.idle = q, found, rough, idle
        self.seen: set[str] = set()

    def fire(self, layer: str, place: tuple[Any, ...], x: Tensor, rounding: Rounding, real: Any) -> Tensor:
        levels = near(rounding.exactly(self.q * x))
        expected = levels.floor().clamp(rounding.lowest, self.q) * real
        if layer not in self.found:
            if self.idle:  # nothing reads it
                return rounding.worth * expected / self.q
            raise FaultError("a layer is missing", f"{layer!r} is not among {list(self.found)}")
        self.seen.add(layer)
        found = self.found[layer][place].double()
        if found.shape != expected.shape:
            raise FaultError("levels have another shape", f"{layer!r}: {list(found.shape)} for {list(expected.shape)}")
        wrong = found != expected
        if self.rough:
            edge = torch.where(found > expected, expected + 1, expected)
            wrong &= ((levels - edge).abs() > ROUGH_EDGE) | ((found - expected).abs() > 1)
        if bool(wrong.any()):
            at = tuple(wrong.nonzero()[0].tolist())
            raise FaultError(
                "levels differ at edges"
                if bool(((levels - levels.round()).abs()[wrong] < ROUGH_EDGE).all())
                else "levels differ",
                f"{layer!r}: {int(wrong.sum())} of {wrong.numel()}, first at {at}: {found[at]:g} for {expected[at]:g} "
                f"({levels[at]:.6f} levels)",
            )
        return rounding.worth * found / self.q


class Steps:
    """Activations in spikes, one step for each forward: CIF neurons under wake-sleep of q wake steps."""

    def __init__(self, q: int, layers: Iterable[str]) -> None:
        self.q, self.layers, self.step, self.awake = q, layers, 0, 0
        self.counts: dict[tuple[str, str], Tensor] = {}
        self.spiked = False

    def begin(self) -> None:
        self.step, self.spiked = self.step + 1, False
        self.awake = min(self.step, self.q)

    def fire(self, layer: str, place: tuple[Any, ...], x: Tensor, rounding: Rounding, real: Any) -> Tensor:
        key = layer, str(place)
        count = self.counts.get(key, torch.zeros_like(x))
        potential = near(rounding.exactly(self.awake * x)) - count
        up = (potential >= 1) & (count < (self.awake if rounding.lowest == 0 else self.q))
        down = (potential < 0) & (count > rounding.lowest) & ~up
        spikes = (up.double() - down.double()) * real
        self.spiked |= layer in self.layers and bool(spikes.any())
        self.counts[key] = count + spikes
        return rounding.worth * self.counts[key] / self.awake


class Oracle:
    """The user's prepared network in float64, its activations replaced."""

    def __init__(self, ann: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.ann = copy.deepcopy(ann).double().eval()
        self.inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
        self.uses: Counter[str] = Counter()
        self.neurons: Any = None
        for name, module in self.ann.named_modules():
            if isinstance(module, CQReLU):
                module.register_forward_hook(self._activation(name))
            elif isinstance(module, Rounded):
                module.register_forward_hook(self._rounded(name))
            elif isinstance(module, casc_seq.RNN):
                module.register_forward_hook(self._recurrence(name), with_kwargs=True)

    @torch.no_grad()
    def __call__(self, neurons: Any) -> Tensor:
        """What the network returns with these neurons."""
        self.neurons = neurons
        self.uses.clear()
        with in_double():
            result: Tensor = self.ann(*(x.clone() for x in self.inputs))
        return result

    def _layer(self, name: str) -> str:
        self.uses[name] += 1
        return name if self.uses[name] == 1 else f"{name}#{self.uses[name]}"

    def _activation(self, name: str) -> Callable[..., Tensor]:
        def hook(module: CQReLU, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            (x,) = args
            theta: Any = module.threshold
            if isinstance(theta, Tensor):
                theta = theta.detach()
                theta = theta.reshape(-1, *[1] * (x.dim() - 2)) if theta.dim() else float(theta)
            result: Tensor = self.neurons.fire(self._layer(name), (), x, clipped(theta, module.half_step), 1.0)
            return result

        return hook

    def _rounded(self, name: str) -> Callable[..., Tensor]:
        def hook(module: Rounded, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            q, theta = module.q, module.threshold
            function, end = SQUASHING[module.function]
            lowest = end * q
            if module.ends is not None:
                low, high = (end / theta for end in module.ends)
                function, lowest = lambda x: x.clamp(low, high), math.floor(q * low + 0.5)
            rounding = Rounding(lambda total: q * function(total / q / theta) + 0.5, theta, lowest)
            result: Tensor = self.neurons.fire(self._layer(name), (), args[0], rounding, 1.0)
            return result

        return hook

    def _recurrence(self, name: str) -> Callable[..., tuple[Tensor, Tensor]]:
        def hook(rnn: casc_seq.RNN, args: Any, kwargs: Any, output: Any) -> tuple[Tensor, Tensor]:
            given = dict(zip(("input", "hx", "lengths"), args, strict=False)) | kwargs
            return self._recur(name, rnn, given["input"], given.get("hx"), given.get("lengths"))

        return hook

    def _recur(
        self, name: str, rnn: casc_seq.RNN, x: Tensor, hx: Tensor | None, lengths: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Position by position, each with neurons of its own; what follows a text's end is not read and does not spike."""
        x = x if rnn.batch_first else x.transpose(0, 1)
        batch, length = x.shape[:2]
        real = torch.ones(batch, length, 1)
        if lengths is not None:
            real = (torch.arange(length) < lengths[:, None]).double()[..., None]
        rounding = clipped(rnn.threshold, rnn.half_step)
        final: list[Tensor] = []
        outputs: list[Tensor] = []
        for row, (layer, direction, suffix) in enumerate(rnn.cells()):
            if direction == 0 and layer > 0:
                x, outputs = torch.cat(outputs, -1), []
            unique = self._layer(name if rnn.num_layers * rnn.directions == 1 else f"{name}.{suffix}")
            w_x, w_h, bias = rnn.cell_parameters(suffix)
            state = torch.zeros(batch, rnn.hidden_size) if hx is None else hx[row]
            states = [state] * length
            for i in reversed(range(length)) if direction else range(length):
                place = (slice(None), i) if rnn.batch_first else (i,)
                current = F.linear(x[:, i], w_x, bias) + F.linear(state, w_h)
                states[i] = self.neurons.fire(unique, place, current, rounding, real[:, i])
                state = torch.where(real[:, i] > 0, states[i], state)
            outputs.append(torch.stack(states, 1))
            final.append(state)
        output = torch.cat(outputs, -1)
        return output if rnn.batch_first else output.transpose(0, 1), torch.stack(final)


@contextmanager
def in_double() -> Iterator[None]:
    """All that is computed is float64, whatever the code asks for."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _InDouble():
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def at_each_step() -> Iterator[None]:
    """Maps in a row are computed at each step, and not for several steps at a time."""
    before, casc_core.engine.spiking_run.BINS_AWAKE = casc_core.engine.spiking_run.BINS_AWAKE, LARGEST_STEPS
    try:
        yield
    finally:
        casc_core.engine.spiking_run.BINS_AWAKE = before


@contextmanager
def _named(stage: str) -> Iterator[None]:
    """Any exception but a fault becomes one: nothing may go wrong here."""
    try:
        yield
    except FaultError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise FaultError(f"{type(error).__name__} in {stage}", first[:300]) from error


def check(graph: Graph, stored_at: Path | None = None) -> Compared:
    """Convert the graph and compare everything that can be.

    Args:
        stored_at: the network is also saved there and loaded again.

    Raises:
        FaultError: something is wrong. RefusedError: the library refused it, as it may. UnusableError: it is no forward.
    """
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            return _checked(graph, stored_at)
        except FaultError as fault:
            if graph.rough and isinstance(fault.__cause__, ExactnessError):  # its numbers take all the bits there are
                raise RefusedError(str(fault.__cause__)) from fault
            raise


def _checked(graph: Graph, stored_at: Path | None) -> Compared:
    model, inputs = settle(built(graph.source), graph.seed), arguments(graph)
    try:
        model(*(x.clone() for x in inputs))  # a forward may change its inputs in place
    except Exception as error:
        raise UnusableError(str(error)) from error
    try:
        ann = casc_core.prepare(model, q=graph.q, **graph.options).eval()
    except CascError as error:
        raise RefusedError(str(error)) from error
    except Exception as error:
        raise FaultError(f"{type(error).__name__} in prepare", str(error)[:300]) from error
    with _named("convert"):
        snn = casc_core.convert(ann)
    if graph.random:
        raise FaultError("what is random is converted")
    with _named("the reference"):
        logits, counts = snn.reference_counts(inputs, {})
    oracle = Oracle(ann, inputs)
    levels = Levels(graph.q, counts, graph.rough, graph.idle)
    with _named("the oracle"):
        expected = oracle(levels)
    if set(counts) != levels.seen:
        raise FaultError("a layer too many", f"{sorted(counts)} for {sorted(levels.seen)}")
    _same_logits("logits differ", logits, expected, graph.rough)
    recorder = Recorder(keep_counts=True)
    with _named("the simulation"):
        simulation = snn.simulate_recorded(inputs, {}, None, recorder)
        called, reference = snn(*inputs), snn.reference(*inputs)
    for name, found in recorder.counts.items():
        if not torch.equal(found.double(), counts[name].double()):
            raise FaultError("spike counts are not the levels", name)
    for what, found in (("the last readout", simulation.logits[-1]), ("a call", called), ("the reference", reference)):
        if not torch.equal(found, logits):
            raise FaultError(f"{what} is not the reference", f"by {float((found - logits).abs().max()):g}")
    if any(op.kind == "Bin" for op in snn.operations()):  # the oracle knows of no bins
        with _named("a simulation without bins"), at_each_step():
            _step_by_step(oracle, graph, snn.simulate(*inputs))
    else:
        _step_by_step(oracle, graph, simulation)
    cut = 1 + graph.seed % (graph.q + 1)
    with _named("a simulation cut short"):
        short = snn.simulate(*inputs, T=cut)
    if not torch.equal(short.logits[: simulation.T], simulation.logits[:cut]):
        raise FaultError("a simulation cut short is not the beginning of the whole", f"T={cut}")
    _alone(snn, graph, inputs, logits, simulation.silent_at)
    _given_otherwise(snn, graph, inputs, logits)
    if stored_at is not None:
        with _named("saving and loading"):
            snn.save(stored_at)
            again = casc_core.load(stored_at)(*inputs)
        if not torch.equal(again, logits):
            raise FaultError("what was saved answers differently")
    given = [x.clone() for x in inputs]
    with _named("verify"):
        report = casc_core.verify(snn, *given)
    if not all(map(torch.equal, given, inputs)):
        raise FaultError("verify changes its inputs")
    if not report.exact:
        raise FaultError("verify finds it not exact", str(report))
    return Compared(len(counts), sum(each.numel() for each in counts.values()), simulation.T)


def _same_logits(kind: str, found: Tensor, expected: Tensor, rough: bool) -> None:
    """The one is the other rounded once to float32; float64 may have rounded a little before, as at a division."""
    if found.shape != expected.shape:
        raise FaultError(kind, f"shape {list(found.shape)} for {list(expected.shape)}")
    slack = (1e-2 if rough else 1e-12) * (1.0 + float(expected.abs().max()))
    if not bool((((expected - slack).float() <= found) & (found <= (expected + slack).float())).all()):
        by = float((found.double() - expected).abs().max())
        raise FaultError(kind if by > 2.0**-8 else f"{kind} a little", f"by up to {by:g}")


def _step_by_step(oracle: Oracle, graph: Graph, simulation: Any) -> None:
    if graph.rough:
        return
    steps, last = Steps(graph.q, simulation.spikes), 0
    for t in range(1, simulation.T + 2):
        steps.begin()
        with _named("the oracle's simulation"):
            readout = oracle(steps)
        last = t if steps.spiked else last
        if t <= simulation.T:
            _same_logits("readouts before silence differ", simulation.logits[t - 1], readout, False)
    if last != int(simulation.silent_at.max()):
        raise FaultError("silent at another step", f"{int(simulation.silent_at.max())} for {last}")


def _alone(snn: Any, graph: Graph, inputs: tuple[Tensor, ...], logits: Tensor, silent_at: Tensor) -> None:
    """Each sample by itself, and the batch in parts as a small memory limit makes them."""
    usual, snn.memory_limit = snn.memory_limit, 1
    with _named("a batch in parts"):
        in_parts = snn(*inputs)
    snn.memory_limit = usual
    if not torch.equal(in_parts, logits):
        raise FaultError("a batch in parts answers differently")
    for sample in range(len(logits)):
        axes = [int(each.kind == "state") for each in graph.inputs]
        with _named("a sample alone"):
            own = snn.simulate(*(x.narrow(axis, sample, 1) for x, axis in zip(inputs, axes, strict=True)))
        if not torch.equal(own.logits[-1], logits[sample : sample + 1]):
            raise FaultError("a sample alone answers differently", f"sample {sample}")
        if own.silent_at.tolist() != [int(silent_at[sample])]:
            raise FaultError(
                "silent_at of a sample depends on its batch",
                f"{silent_at.tolist()} and {own.silent_at.tolist()} for sample {sample} alone",
            )


def _given_otherwise(snn: Any, graph: Graph, inputs: tuple[Tensor, ...], logits: Tensor) -> None:
    """The same numbers as float64, by name; and with gaps between them in memory, their dimensions in another order."""
    wide = (x.double() if x.is_floating_point() else x for x in inputs)
    for what, given in (("in float64", wide), ("with gaps", map(_with_gaps, inputs))):
        named = {each.name: x for each, x in zip(graph.inputs, given, strict=True)}
        try:
            with _named(f"inputs {what}"):
                found = snn(**named)
        except FaultError as fault:
            if re.search("view size is not compatible|expected dtype", str(fault)):  # nor does torch take them
                continue
            raise
        if not torch.equal(found, logits):
            raise FaultError(f"inputs {what} are answered differently")


def _with_gaps(x: Tensor) -> Tensor:
    turned = x.permute(*reversed(range(x.dim())))
    spread = torch.stack([turned, turned], -1)[..., 0]
    return spread.permute(*reversed(range(x.dim())))
