"""Exact spiking networks on a GPU beside the float32 networks that they came from, and the same in SpikingJelly.

    python benchmarks/gpu.py [--batch 128] [--T 32] [--repeats 7] [--only images|texts] [--out FOLDER]

ResNet20 on images of 32x32, q = 8, random weights with real batch statistics; and the recurrent classifier of texts in the
paper's shape for AG News (300 units, 40 tokens), q = 2 and 8. Before anything is timed, the logits on the GPU are held
against those on the CPU, bit for bit. Each entry is timed by CUDA events, in turns, and the fastest counts; the peers
simulate IF neurons whose input comes at every step, and are not exact. Writes gpu.json and prints the tables.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import casc_lab  # noqa: F401  # before torch: it says how torch's threads wait

# isort: split
import peers
import torch
from measure import machine, require
from networks import Scale, TorchRNN, random_classifier, random_texts
from torch import Tensor, nn

import casc_core
from casc_core.reporting.tables import markdown_table
from casc_core.storage.files import require_writable
from casc_core.storage.json_files import write_json

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

from image_recipes.models import build

LEVELS = 8
TEXT_LEVELS = (2, 8)
WARM_UP = 2
"""Turns that do not count."""
Inputs = tuple[Tensor, ...]
Entries = dict[str, Callable[..., Any]]
"""What is timed, by name; the first is what the others are relative to."""


def main() -> int:
    """Check, time and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=128, help="images")
    parser.add_argument("--T", type=int, default=32, help="time steps of the peers")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("images", "texts"), default=None)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no GPU here", file=sys.stderr)
        return 1
    require_writable(args.out)
    facts = {**machine(), "gpu": torch.cuda.get_device_name(), "batch": args.batch, "T": args.T}
    print(f"{facts['gpu']}, torch {facts['torch']}", flush=True)
    tables: dict[str, list[dict[str, Any]]] = {}
    if args.only != "texts":
        torch.manual_seed(0)
        images = (torch.randn(args.batch, 3, 32, 32),)
        title = f"ResNet20, q={LEVELS}, batch {args.batch}"
        tables[title] = timed(resnet20_entries(images, args.T) | spikingjelly(args.T), images, args.repeats)
        print_table(title, tables[title])
    if args.only != "images":
        scale = Scale()
        texts = random_texts(scale.batch, scale.length)
        title = f"recurrent, batch {scale.batch}"
        tables[title] = timed(text_entries(texts, scale), texts, args.repeats)
        print_table(title, tables[title])
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "gpu.json", {**facts, "tables": tables})
    return 0


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Milliseconds, relative to the first entry too, and the memory at its peak."""
    first = rows[0]["ms"]
    cells = [[row["entry"], f"{row['ms']:.2f}", f"{row['ms'] / first:.1f}", f"{row['GiB']:.2f}"] for row in rows]
    print(f"\n{title}\n\n{markdown_table([['', 'ms', 'x ANN', 'GiB'], *cells])}", flush=True)


def resnet20() -> nn.Module:
    """ResNet20 with levels, and with the batch statistics of random images."""
    torch.manual_seed(0)
    model = casc_core.prepare(build("resnet20", 10), adapter="cnn", q=LEVELS).train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(32, 3, 32, 32))
    return model.eval()


def resnet20_entries(images: Inputs, steps: int) -> Entries:
    """The network in float32, and in spikes with both kinds of numerics."""
    model = resnet20()
    entries: Entries = {"the ANN, float32": copy.deepcopy(model).cuda().to(memory_format=torch.channels_last)}
    for name, numerics in (("as trained", casc_core.Exact()), ("16-bit weights", casc_core.Exact(16))):
        entries |= spiking(casc_core.convert(model, numerics=numerics), name, images, steps)
    return entries


def text_entries(texts: Inputs, scale: Scale) -> Entries:
    """The classifier with `torch.nn.RNN` in float32, and in spikes with a few and with more levels."""
    networks = {q: random_classifier(scale, q, scale.hidden) for q in TEXT_LEVELS}
    ann: Any = networks[TEXT_LEVELS[0]].ann
    entries: Entries = {"torch.nn.RNN, float32": TorchRNN(ann.config, "relu").eval().cuda()}
    for q, snn in networks.items():
        entries |= spiking(snn, f"q={q}", texts, None)
    return entries


def spiking(snn: casc_core.SpikingModel, name: str, inputs: Inputs, steps: int | None) -> Entries:
    """Calls of a network on the GPU, whose logits are the CPU's; a simulation too, if it is to be of so many `steps`."""
    on_cpu = snn(*inputs)
    snn = snn.to("cuda")
    require(torch.equal(snn(*on_gpu(inputs)).cpu(), on_cpu), f"{name}: the GPU's logits are not the CPU's")
    entries: Entries = {f"casc, {name}, until silent": snn, f"casc, {name}, `reference`": snn.reference}
    if steps is not None:
        entries[f"casc, {name}, `simulate(T={steps})`"] = lambda *x: snn.simulate(*x, T=steps)
    return entries


def on_gpu(inputs: Inputs) -> Inputs:
    """The inputs, moved."""
    return tuple(each.cuda() for each in inputs)


def spikingjelly(steps: int) -> Entries:
    """ResNet20 in SpikingJelly, all steps at once, with the kernels that it chooses itself."""
    try:
        from spikingjelly.activation_based import functional, layer, neuron
    except ImportError as error:
        print(f"{peers.SPIKINGJELLY} is left out: {error}", file=sys.stderr)
        return {}
    torch.manual_seed(0)
    network = build("resnet20", 10)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.ReLU):
            network.set_submodule(name, neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode="m"))
        elif hasattr(layer, type(module).__name__) and not list(module.children()):
            module.__class__ = getattr(layer, type(module).__name__)
            module._step_mode = "s"  # type: ignore[assignment]  # torch annotates modules and tensors alone
    functional.set_step_mode(network, "m")
    network.eval().cuda()
    kernels = functional.neuron_implementation("if", torch.device("cuda"))["implementation"]

    def call(x: Tensor) -> Tensor:
        functional.reset_net(network)
        mean: Tensor = network(x.expand(steps, *x.shape)).mean(0)
        return mean

    return {f"{peers.SPIKINGJELLY}{peers.version('spikingjelly')}, IF ({kernels}), T={steps}": call}


@torch.no_grad()
def timed(entries: Entries, inputs: Inputs, repeats: int) -> list[dict[str, Any]]:
    """The fastest of `repeats` calls of each entry, interleaved, in milliseconds, and the memory at its peak."""
    rows: dict[str, dict[str, Any]] = {}
    inputs = on_gpu(inputs)
    for turn in range(WARM_UP + repeats):
        for name, call in entries.items():
            torch.cuda.reset_peak_memory_stats()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            call(*inputs)
            end.record()
            torch.cuda.synchronize()
            if turn >= WARM_UP:
                row = rows.setdefault(name, {"entry": name, "ms": float("inf"), "GiB": 0.0})
                row["ms"] = min(row["ms"], begin.elapsed_time(end))
                row["GiB"] = max(row["GiB"], torch.cuda.max_memory_allocated() / 2**30)
    return list(rows.values())


if __name__ == "__main__":
    sys.exit(main())
