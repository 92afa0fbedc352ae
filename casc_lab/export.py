"""`casc export`: a trained network as integers with golden traces, as ONNX, as NIR."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from casc_core.errors import ConfigError, DataError
from casc_core.export.integers.folder import DESCRIPTION
from casc_core.neuron import IF
from casc_core.reporting.tables import text_table
from casc_core.schedule import Continuous
from casc_core.spiking_model import SpikingModel
from casc_core.storage.files import read_whole, write_whole
from casc_lab.cli import Command
from casc_lab.compare.command import network_options, request_of
from casc_lab.compare.load_network import load_network

SAMPLES = 4
CURRENTS = ".safetensors"
"""What the name of the file ends with that is beside a NIR graph."""


def _options(line: argparse.ArgumentParser) -> None:
    network_options(line.add_argument)
    line.set_defaults(limit=SAMPLES, device="cpu")
    line.add_argument("--out", type=Path, help="folder to write integers to; an earlier export there is replaced")
    line.add_argument("--onnx", type=Path, metavar="FILE", help="write the quantised network as an ONNX model")
    line.add_argument(
        "--nir", type=Path, metavar="FILE",
        help=f"write the baseline (IF neurons, continuous input) as a NIR graph, and the currents of the samples, which it "
        f"begins with, to FILE{CURRENTS}",
    )  # fmt: skip
    line.add_argument("--T", type=int, help="time steps of the traces; unset: until silent")
    line.add_argument("--hex", action="store_true", help="every tensor also for Verilog's $readmemh")


def _export(args: argparse.Namespace) -> int:
    if args.out is None and args.onnx is None and args.nir is None:
        raise ConfigError("nothing is to be written: give --out FOLDER, --onnx FILE or --nir FILE")
    for option in ("T", "hex"):
        if args.out is None and getattr(args, option):
            raise ConfigError(f"--{option} is for the integers that --out writes")
    found = load_network(request_of(args))
    batch = next(iter(found.batches()), None)
    if batch is None:
        raise DataError(f"{found.source}: there are no samples")
    inputs = batch[: len(found.snn.settings.arguments)]
    as_json: dict[str, Any] = {}
    said = [f"{found.title}: {found.source}"]
    for target, write in ((args.out, _integers), (args.onnx, _onnx), (args.nir, _nir)):
        if target is not None:
            more, line = write(target, found.snn, inputs, args)
            as_json |= more
            said.append(line)
    print(json.dumps(as_json) if args.json else "\n\n".join(said))
    return 0


Written = tuple[dict[str, Any], str]
"""What is said of something that has been written: as JSON, and in words."""


def _integers(folder: Path, snn: SpikingModel, inputs: tuple[Any, ...], args: argparse.Namespace) -> Written:
    snn.export(folder, inputs, T=args.T, hex=args.hex)
    written = json.loads(read_whole(folder / DESCRIPTION))
    about = {"folder": str(folder), **{name: written[name] for name in ("T", "samples", "layers")}}
    return about, f"{summary(written)}\n\n{_size(folder):,.1f} MiB in {folder}"


def _onnx(file: Path, snn: SpikingModel, inputs: tuple[Any, ...], args: argparse.Namespace) -> Written:
    model = snn.export_onnx(file, *inputs)
    about = {"file": str(file), "inputs": model.inputs, "outputs": model.outputs}
    return {"onnx": about}, f"the quantised network in {file}: {_sizes(model.inputs)} to {_sizes(model.outputs)}"


def _nir(file: Path, snn: SpikingModel, inputs: tuple[Any, ...], args: argparse.Namespace) -> Written:
    """The baseline, which is what NIR can say, and what its graph is given."""
    written = snn.under(IF(), Continuous()).export_nir(file, *inputs)
    currents = file.with_name(file.name + CURRENTS)
    scale = torch.tensor(written.scale, dtype=torch.float64)
    write_whole(currents, save({"current": written.current.contiguous(), "scale": scale}))
    about = {"file": str(file), "currents": str(currents), "scale": written.scale, "neurons": written.neurons}
    said = f"the baseline in {file}, the currents of {len(written.current)} samples in {currents}"
    return {"nir": about}, f"{said}; NIR has no consistent neurons, so it is not exact"


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
        lines.append(f"potentials beyond 32 bits: {', '.join(wide)}; --weight-bits 8 or --hardware makes them narrower")
    return "\n".join(lines)


def _size(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def _sizes(shapes: Any) -> str:
    """Inputs or outputs with their sizes.

    >>> _sizes({"input": ("batch", 3)})
    'input [batch, 3]'
    """
    return ", ".join(f"{name} [{', '.join(map(str, sizes))}]" for name, sizes in shapes.items())


command = Command(
    "write a network as integers with golden traces, as ONNX, or as NIR",
    "With --out, writes each layer's integers, bit widths and order as JSON and safetensors, and what every neuron did on "
    "some samples of the test set: inputs, drives, spikes, potentials and readouts at each step. With --onnx, writes the "
    "quantised network, whose logits are the same bits; with --nir, the baseline, for other simulators. Exit status 0: "
    "written; 2: a mistake.",
    _options,
    _export,
)
