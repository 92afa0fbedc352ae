"""`casc compare` and `casc verify`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from casc_core.evidence.energy import EnergyTable
from casc_core.evidence.equivalence import EquivalenceReport, combine_reports
from casc_core.evidence.verify import verify
from casc_core.numerics import Exact, Numerics
from casc_core.reporting.series import median_and_largest
from casc_core.rivals.methods import FOUR, RIVALS, chosen, methods_for
from casc_core.storage.files import require_writable, write_whole
from casc_core.storage.json_files import write_json
from casc_lab.cli import NOT_EXACT, Command
from casc_lab.command import check_steps, limit_threads
from casc_lab.compare.comparison import compare
from casc_lab.compare.load_network import load_network
from casc_lab.compare.network_and_data import NetworkAndData, Request
from casc_lab.compare.page import page
from casc_lab.compare.terminal_summary import terminal_summary
from casc_lab.progress import Progress

HARDWARE_BITS = 8
NETWORK = (
    "output folder of a recipe, or module:function: (model, batches[, calibration_batches][, measures of outputs])"
)


def network_options(add: Any) -> None:
    """The options that say which network and which data."""
    add("network", help=NETWORK)
    add("--data", help="where the recipe's data is now, if it has been moved")
    add("--adapter", help="family of your own network: cnn, rnn, ...; unset: chosen by its modules")
    add("--q", type=int, help="levels of a network with plain ReLU, which is then calibrated")
    add("--weight-bits", type=int, help="bits of a converted weight; unset: as in the recipe, or as trained")
    add("--hardware", action="store_true", help="biases and thresholds on the grid of the weights; 8 bits unless said")
    add("--limit", type=int, help="use the first LIMIT samples only")
    add("--device", default="auto", help="cpu, cuda, or auto: a GPU if there is one")
    add("--threads", type=int, help="CPU threads")
    add("--json", action="store_true", help="print JSON instead of tables")
    add("--quiet", action="store_true", help="print no progress")


def _compare_options(line: argparse.ArgumentParser) -> None:
    add = line.add_argument
    network_options(add)
    add("--T", type=int, default=32, help="time steps to simulate")
    names = ", ".join(FOUR | RIVALS)
    add(
        "--methods",
        type=lambda text: text.split(","),
        help=f"comma-separated, of {names}; ours (baseline+CIF+WSC) is always included; unset: all that apply",
    )
    add("--out", type=Path, help="folder for report.html and comparison.json; unset: the network's, or casc_comparison")
    table = EnergyTable()
    add("--mac-pj", type=float, default=table.mac, help="energy of a multiply-accumulate, pJ")
    add("--ac-pj", type=float, default=table.ac, help="energy of an accumulate, pJ")
    add("--energy-source", help="the source of those two figures, for the report")


def _verify_options(line: argparse.ArgumentParser) -> None:
    network_options(line.add_argument)
    line.add_argument("--T", type=int, help="time steps to simulate; unset: until silent")


def request_of(args: argparse.Namespace) -> Request:
    """What the command line says of the network and the data."""
    limit_threads(args.threads)
    check_steps(args.T)
    return Request(args.network, args.data, args.adapter, args.q, _numerics(args), args.limit, args.device)


def _numerics(args: argparse.Namespace) -> Numerics | None:
    """What the command line says of the arithmetic."""
    if args.hardware:
        return Exact(HARDWARE_BITS if args.weight_bits is None else args.weight_bits, bias_on_weight_grid=True)
    return None if args.weight_bits is None else Exact(args.weight_bits)


def _with_progress(found: NetworkAndData, quiet: bool) -> tuple[NetworkAndData, Progress]:
    """The same with batches that say how far it has come."""
    progress = Progress(shown=not quiet)

    def batches_with_progress() -> Iterator[Any]:
        for batch in found.batches():
            yield batch
            progress.advance()

    return replace(found, batches=batches_with_progress), progress


def _table(args: argparse.Namespace) -> EnergyTable:
    usual = EnergyTable()
    if (args.mac_pj, args.ac_pj) == (usual.mac, usual.ac):
        return usual
    return EnergyTable(args.mac_pj, args.ac_pj, "as given", args.energy_source or "the command line")


def _compare(args: argparse.Namespace) -> int:
    request = request_of(args)
    folder = Path(args.network)
    out = args.out or (folder if folder.is_dir() else Path("casc_comparison"))
    table = _table(args)
    found = load_network(request)
    require_writable(out)
    methods = chosen(methods_for(found.snn, args.T, found.trained is None), args.methods)
    followed, progress = _with_progress(found, args.quiet)

    def announce(name: str) -> None:
        progress.rename(name)
        if not progress.is_bar:
            print(f"  {name}", file=sys.stderr)

    with progress:
        result = compare(followed, args.T, methods, table, _command(args), announce)
    write_json(out / "comparison.json", result)
    write_whole(out / "report.html", page(result))
    if args.json:
        print(json.dumps(result))
    else:
        print(f"{terminal_summary(result)}\n\nreport.html and comparison.json are in {out}")
    return 0 if result["equivalence"]["exact"] else NOT_EXACT


def _command(args: argparse.Namespace) -> str:
    words = ["casc", "compare", args.network, "--T", str(args.T)]
    for name in ("data", "adapter", "q", "weight_bits", "limit", "energy_source"):
        value = getattr(args, name)
        if value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--hardware"] * args.hardware
    if args.methods is not None:
        words += ["--methods", ",".join(args.methods)]
    usual = EnergyTable()
    for name, value, default in (("mac-pj", args.mac_pj, usual.mac), ("ac-pj", args.ac_pj, usual.ac)):
        if value != default:
            words += [f"--{name}", f"{value:g}"]
    return shlex.join(words)


def _verify(args: argparse.Namespace) -> int:
    found = load_network(request_of(args))
    followed, progress = _with_progress(found, args.quiet)
    with progress:
        report = combine_reports(list(_reports(followed, followed.batches(), args.T)))
    if args.json:
        print(json.dumps(_as_json(found, report)))
    else:
        print(f"{found.title}: {found.source}\n{report}")
        if found.calibration_said is not None:
            print(found.calibration_said.splitlines()[-1])
    return 0 if report.exact else NOT_EXACT


def _reports(found: NetworkAndData, batches: Iterable[Any], T: int | None) -> Iterator[EquivalenceReport]:
    takes = len(found.snn.settings.arguments)
    for batch in batches:
        yield verify(found.snn, *batch[:takes], T=T, measures=found.measures)


def _as_json(found: NetworkAndData, report: EquivalenceReport) -> dict[str, Any]:
    return {
        "title": found.title,
        "data": found.source,
        "exact": report.exact,
        "spikes_exact": report.spikes_exact,
        "samples": len(report.silent_at),
        "T": report.T,
        "logits_equal": report.logits_equal,
        "max_logit_difference": report.max_logit_difference,
        "prediction_mismatches": report.prediction_mismatches,
        "calibration": None if found.calibration_said is None else found.calibration_said.splitlines()[-1],
        "ann_predictions_moved": report.ann_predictions_moved,
        "ann_max_logit_difference": report.ann_max_logit_difference,
        "silent_at": _silence(report.silent_at),
        "outputs": [dataclasses.asdict(output) for output in report.outputs.values()],
        "layers": [
            {
                "name": layer.name,
                "neurons": layer.neurons,
                "differing": layer.mismatches,
                "largest": layer.largest,
                "silent_at": _silence(layer.silent_at),
            }
            for layer in report.layers.values()
        ],
        "note": report.note,
        "lowering": None if report.lowering is None else dataclasses.asdict(report.lowering),
        "grid": None if report.grid is None else dataclasses.asdict(report.grid),
        "float32": None if report.float32 is None else dataclasses.asdict(report.float32),
    }


def _silence(silent_at: Tensor) -> dict[str, int]:
    return dict(zip(("median", "max"), median_and_largest(silent_at), strict=True))


command = Command(
    "run every conversion method on a trained network, and write a report",
    "Runs the methods over T steps on one trained network and its test set, and writes report.html (one file, readable "
    "offline) and comparison.json. Exit status 0: the network is exact; 1: it is not; 2: a mistake.",
    _compare_options,
    _compare,
)
verification = Command(
    "compare a converted network with its quantised ANN, neuron by neuron",
    "Simulates the test set in spikes and compares every count of every neuron, and every logit, with the quantised ANN; "
    "and that, before its numbers are put on a grid, with the network that was converted, in float64. "
    "Exit status 0: all are equal; 1: some differ; 2: a mistake.",
    _verify_options,
    _verify,
)
