"""Random forwards, converted and held against the user's own network in float64.

As a program: `python tests/support/random_graphs.py --help`.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from engines import ENGINES, engine
from graph_grammar import ROWS, singles, written
from graph_oracle import Compared, FaultError, Graph, Input, RefusedError, UnusableError, built, check
from graph_writer import Script
from torch import fx, nn

from casc_core.conversion.tracing.number_arguments import functions

# Forwards tried to make one smaller.
TRIES = 400


class _Reader(fx.Tracer):
    """Every layer is one operation."""

    def __init__(self) -> None:
        super().__init__(autowrap_modules=(), param_shapes_constant=True)
        self._autowrap_search += [torch, nn.functional]
        self._autowrap_function_ids |= functions()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not list(m.children()) or type(m).__module__.startswith("casc_")


def spelled(graph: Graph) -> Counter[Any]:
    """What a forward calls: functions, names of methods, types of modules. By `torch.fx` alone, not as it is converted."""
    model = built(graph.source)
    calls: Counter[Any] = Counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes = _Reader().trace(model).nodes
    except (TypeError, fx.proxy.TraceError):  # a size that is no number yet, where a number must stand
        return calls
    for node in nodes:
        if node.op == "call_module":
            calls[type(model.get_submodule(str(node.target)))] += 1
        elif node.op in ("call_function", "call_method"):
            calls[node.target] += 1
    return calls


def smaller(script: Script) -> Iterator[Script]:
    """The same forward with one thing less."""
    if script.options:
        yield replace(script, options={})
    for index in reversed(range(len(script.statements))):
        statement = script.statements[index]
        rest = script.statements[:index] + script.statements[index + 1 :]
        if len(statement.targets) == 1:
            (target,) = statement.targets
            names = [each.name for each in script.inputs if each.kind == "real"]
            for operand in dict.fromkeys((*statement.piece.operands, *names)):
                yield _renamed(replace(script, statements=rest), target, operand)
            if index:
                begun = Input(f"given_{target}", "real", script.shapes[target])
                yield _renamed(replace(script, statements=rest, inputs=(begun, *script.inputs)), target, begun.name)
        if script.result not in statement.targets:
            yield replace(script, result=statement.targets[0]).needed()
        for layers in _simpler(statement.piece.layers):
            piece = replace(statement.piece, layers=layers)
            changed = (*script.statements[:index], replace(statement, piece=piece), *script.statements[index + 1 :])
            yield replace(script, statements=changed)
    for each in script.inputs:
        if each.kind == "real" and max(each.shape[1:]) > 1:
            for dim in range(1, len(each.shape)):
                shape = (*each.shape[:dim], max(1, each.shape[dim] // 2), *each.shape[dim + 1 :])
                new = tuple(replace(i, shape=shape) if i is each else i for i in script.inputs)
                yield replace(script, inputs=new)
    if script.q not in (2, 4):
        yield replace(script, q=4)


def _simpler(layers: dict[str, str]) -> Iterator[dict[str, str]]:
    for name, code in layers.items():
        plain = re.sub(r"(CQReLU\(\d+), (?:torch.tensor\(\[[^]]*\]\)|[\d.]+)", r"\1, 1.0", code)
        if plain != code:
            yield layers | {name: plain}
        for option in re.findall(r", \w+=(?:\([^()]*\)|[^,()]+)", code):
            if not option.startswith((", eps", ", q=", ", batch_first")):
                yield layers | {name: code.replace(option, "", 1)}


def _renamed(script: Script, old: str, new: str) -> Script:
    statements = tuple(
        replace(each, piece=replace(each.piece, operands=tuple(new if o == old else o for o in each.piece.operands)))
        for each in script.statements
    )
    return replace(script, statements=statements, result=new if script.result == old else script.result).needed()


def fault_of(script: Script) -> FaultError | None:
    """What is wrong with it, if anything is."""
    found = try_out(script)
    return found if isinstance(found, FaultError) else None


def shrunk(script: Script, kind: str) -> Script:
    """The smallest forward found with a fault of this kind."""
    tries, again = 0, True
    while again and tries < TRIES:
        again = False
        for candidate in smaller(script):
            tries += 1
            fault = fault_of(candidate)
            if fault is not None and fault.kind == kind and len(candidate.graph().source) <= len(script.graph().source):
                script, again = candidate, True
                break
            if tries >= TRIES:
                break
    return script


@dataclass
class Tally:
    """What a run has seen."""

    graphs: int = 0
    exact: int = 0
    layers: int = 0
    neurons: int = 0
    steps: int = 0
    unusable: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    calls: Counter[Any] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        for name in ("graphs", "exact", "layers", "neurons", "steps", "unusable"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("refused", "faults", "calls"):
            getattr(self, name).update(getattr(other, name))

    def __str__(self) -> str:
        lines = [
            f"{self.graphs:,} graphs: {self.exact:,} equal ({self.layers:,} layers, {self.neurons:,} neurons, "
            f"{self.steps:,} steps), {sum(self.refused.values()):,} refused, {sum(self.faults.values()):,} at fault"
        ]
        for title, counts in (("refused", self.refused), ("at fault", self.faults)):
            lines += [f"{title}:", *(f"  {count:6,}  {what}" for what, count in counts.most_common())] if counts else []
        return "\n".join(lines)


def _without_names(message: str) -> str:
    """A message by kind: no names of modules, no numbers."""
    return re.sub(r"'[^']*'|\b\w*\d+\w*\b", "*", message.splitlines()[0])[:160]


def try_out(script: Script) -> Compared | FaultError | RefusedError | UnusableError:
    """What a check finds; every tenth network is saved and loaded too, every seventh runs without compiled kernels."""
    way = (None, "float") if script.seed % 7 == 3 else ENGINES[0]
    try:
        with engine(way), tempfile.TemporaryDirectory() as folder:
            return check(script.graph(), Path(folder) / "network" if script.seed % 10 == 0 else None)
    except (FaultError, RefusedError, UnusableError) as found:
        return found


def run(scripts: Iterable[Script], seconds: float, small: int) -> Tally:
    """Try out one script after the other and print each fault, the first of each kind made small."""
    began, shown, tally = time.monotonic(), time.monotonic(), Tally()
    for script in scripts:
        now = time.monotonic()
        if now - began > seconds:
            break
        if now - shown > 60:
            shown = now
            print(f"# {now - began:.0f} s: {str(tally).splitlines()[0]}", flush=True)
        found = try_out(script)
        if isinstance(found, UnusableError):
            tally.unusable += 1
            continue
        tally.graphs += 1
        tally.calls += spelled(script.graph())
        if isinstance(found, Compared):
            tally.exact += 1
            tally.layers, tally.neurons = tally.layers + found.layers, tally.neurons + found.neurons
            tally.steps += found.steps
        elif isinstance(found, RefusedError):
            tally.refused[_without_names(str(found))] += 1
        else:
            kind = f"{found.kind}: {_without_names(str(found))}" if " in " in found.kind else found.kind
            tally.faults[kind] += 1
            print(f"\n# seed {script.seed}: {found}", flush=True)
            if tally.faults[kind] <= small:
                least = shrunk(script, found.kind)
                print(f"# {fault_of(least)}\n{least.graph()}", flush=True)
    return tally


def _process(first: int, by: int, seconds: float, small: int, counted: int | None) -> Tally:
    torch.set_num_threads(1)
    seeds = iter(range(first, first + by * counted, by)) if counted is not None else _from(first, by)
    return run(map(written, seeds), seconds, small)


def _from(first: int, by: int) -> Iterator[int]:
    while True:
        yield first
        first += by


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first graph")
    parser.add_argument("--graphs", type=int, default=None, help="stop after so many")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--small", type=int, default=3, help="of each kind of fault so many are made as small as they go"
    )
    parser.add_argument("--rows", action="store_true", help="each row of the grammar alone, in place of random graphs")
    parser.add_argument("--calls", action="store_true", help="list how often each operation was spelled")
    given = parser.parse_args()
    each = None if given.graphs is None else -(-given.graphs // given.processes)
    jobs = [(given.seed + index, given.processes, given.seconds, given.small, each) for index in range(given.processes)]
    total = Tally()
    if given.rows:
        total = run((script for row in ROWS for script in singles(row)), given.seconds, given.small)
    elif given.processes == 1:
        total = _process(*jobs[0])
    else:
        with get_context("spawn").Pool(given.processes) as pool:
            for tally in pool.starmap(_process, jobs):
                total.add(tally)
    print(total)
    if given.calls:
        names = {getattr(call, "__name__", str(call)): count for call, count in total.calls.items()}
        print("\n".join(f"{count:7,}  {name}" for name, count in sorted(names.items(), key=lambda each: -each[1])))
    return 1 if total.faults else 0


if __name__ == "__main__":
    sys.exit(main())
