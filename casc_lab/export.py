"""`casc export`: the integers of a trained network, and golden traces of some samples of its test set."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from casc_core.errors import DataError
from casc_core.export.integers.folder import DESCRIPTION
from casc_core.reporting.tables import text_table
from casc_core.storage.files import read_whole
from casc_lab.cli import Command
from casc_lab.compare.command import network_options, request_of
from casc_lab.compare.load_network import load_network

SAMPLES = 4


def _options(line: argparse.ArgumentParser) -> None:
    network_options(line.add_argument)
    line.set_defaults(limit=SAMPLES, device="cpu")
    line.add_argument("--out", type=Path, required=True, help="folder to write; an earlier export there is replaced")
    line.add_argument("--T", type=int, help="time steps of the traces; unset: until silent")
    line.add_argument("--hex", action="store_true", help="every tensor also for Verilog's $readmemh")


def _export(args: argparse.Namespace) -> int:
    found = load_network(request_of(args))
    batch = next(iter(found.batches()), None)
    if batch is None:
        raise DataError(f"{found.source}: there are no samples")
    found.snn.export(args.out, batch[: len(found.snn.settings.arguments)], T=args.T, hex=args.hex)
    written = json.loads(read_whole(args.out / DESCRIPTION))
    if args.json:
        print(json.dumps({"folder": str(args.out), **{name: written[name] for name in ("T", "samples", "layers")}}))
    else:
        print(f"{found.title}: {found.source}\n{summary(written)}\n\n{_size(args.out):,.1f} MiB in {args.out}")
    return 0


def summary(written: dict[str, Any]) -> str:
    """An export's populations and readouts as a table: bits of what arrives in a step, and of potentials.

    Args:
        written: its description.
    """
    rows = [
        ("layer", "neurons", "spikes", "accumulates", "current, proven", "observed", "potential, proven", "observed")
    ]
    for name, layer in written["layers"].items():
        proven, observed = layer["bits"]["proven"], layer["bits"]["observed"]
        widths = (proven["sum"], observed["sum"], proven["potential"], observed["potential"])
        counts = (layer["neurons"], layer["spikes"], sum(layer["accumulates"]))
        rows.append((name, *(f"{each:,}" for each in counts), *map(str, widths)))
    sums = ", ".join(
        f"{each['name']} {each['bits']['proven']} bits ({each['bits']['observed'] or 'rounded to float64'} observed)"
        for each in written["outputs"]
    )
    wide = [name for name, layer in written["layers"].items() if layer["bits"]["proven"]["potential"] > 32]
    lines = [text_table(rows), f"readouts: {sums}; {written['samples']} samples over {written['T']} steps"]
    if wide:
        lines.append(f"potentials beyond 32 bits: {', '.join(wide)}; --weight-bits 8 makes them narrower")
    return "\n".join(lines)


def _size(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


command = Command(
    "write the integers of a network, with golden traces, for hardware",
    "Writes each layer's integers, bit widths and order as JSON and safetensors, and what every neuron did on some samples "
    "of the test set: inputs, drives, spikes, potentials and readouts at each step. Exit status 0: written; 2: a mistake.",
    _options,
    _export,
)
