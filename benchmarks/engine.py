"""How fast the engine is: casc beside its own float32 ANN, `torch.nn.RNN`, SpikingJelly and sinabs, on the CPU.

    python benchmarks/engine.py [--only recurrent,feedforward,convolution,deep,growth,memory,startup] [--data FOLDER]
                                [--images FOLDER] [--weights FILE] [--instructions avx2] [--out FOLDER]

Everything that a table compares takes turns within one process, in wall time and CPU time, with one and with two
threads; every output that is timed is first checked against the reference. Writes engine.json (every turn of every
row), engine.md (the tables) and engine.png to the output folder. With `--instructions avx2`, torch and our kernels
do as on a processor that has no more than AVX2. The peers are optional:

    pip install -e ".[peers]"
    pip install --no-deps spikingjelly==2.0.0 sinabs==3.1.3
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import convolution
import deep
import processes
import speed
import torch
from images import Images
from measure import WrongAnswerError, machine
from networks import QUICK, Classifiers, Scale
from picture import picture
from report import markdown

from casc_core import CascError, ConfigError
from casc_core.storage.files import require_writable, write_whole
from casc_core.storage.json_files import write_json

SECTIONS = ("recurrent", "feedforward", "convolution", "deep", "growth", "memory", "startup")
LIMITS = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "CASC_KERNELS": "avx2",
    },
}  # fmt: skip
"""What keeps torch, its libraries and our kernels to some instructions; each reads it when it is loaded."""


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", default=",".join(SECTIONS), help="sections to measure, with commas between (default: all)")
    add("--data", help="folder with train.csv[.gz] and test.csv[.gz] to train on (default: the embedded sample)")
    add("--images", help="folder with CIFAR-10, or images by class, to train on (default: scikit-learn's digits)")
    add("--weights", type=Path, help="of a ResNet20 trained with ReLU, whose images --images are (default: train one)")
    add("--instructions", choices=tuple(LIMITS), help="no others, though the processor may have more")
    add("--networks", type=Path, help="folder of trained networks, used again if there (default: OUT/networks)")
    add("--out", type=Path, default=Path("results/engine"), help="output folder (default: %(default)s)")
    add("--repeats", type=int, help=f"turns of each run (default: {Scale().repeats})")
    add("--threads", type=int, nargs="+", help="thread counts (default: 1 2)")
    add("--quick", action="store_true", help="tiny sizes: whether it works, not how fast it is")
    return parser.parse_args()


def main() -> None:
    """Measure section by section, writing the figures after each, so that an interruption loses little."""
    args = options()
    chosen = [name.strip() for name in args.only.split(",")]
    if unknown := sorted(set(chosen) - set(SECTIONS)):
        raise ConfigError(f"--only: there is no section {', '.join(unknown)}; choose from {', '.join(SECTIONS)}")
    if args.instructions and any(os.environ.get(name) != value for name, value in LIMITS[args.instructions].items()):
        again = subprocess.run([sys.executable, *sys.argv], env=os.environ | LIMITS[args.instructions], check=False)
        sys.exit(again.returncode)
    scale = QUICK if args.quick else Scale()
    if args.repeats is not None:
        scale = dataclasses.replace(scale, repeats=args.repeats)
    if args.threads is not None:
        scale = dataclasses.replace(scale, threads=tuple(args.threads))
    if scale.repeats < 1 or min(scale.threads) < 1:
        raise ConfigError(f"--repeats and --threads must be at least 1; got {scale.repeats} and {scale.threads}")
    torch.set_num_threads(max(scale.threads))  # for the training
    require_writable(args.out)
    results: dict[str, Any] = {"machine": machine(), "scale": dataclasses.asdict(scale), "sections": {}}
    for name, measure in measures(args, scale).items():
        if name not in chosen:
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        started = time.perf_counter()
        results["sections"][name] = measure() | {"seconds": round(time.perf_counter() - started, 1)}
        write(args.out, results)
    write_whole(args.out / "engine.png", picture(results))
    print(markdown(results))
    print(f"engine.json, engine.md and engine.png are in {args.out}", file=sys.stderr)


def measures(args: argparse.Namespace, scale: Scale) -> dict[str, Callable[[], dict[str, Any]]]:
    """What measures each section; texts, images and networks are loaded or trained by the first one that needs them."""
    folder = args.networks or args.out / "networks"

    @cache
    def classifiers() -> Classifiers:
        return Classifiers(args.data, folder, scale)

    @cache
    def images() -> Images:
        return Images(args.images, folder, scale, args.weights)

    return {
        "recurrent": lambda: speed.recurrent(classifiers(), scale),
        "feedforward": lambda: speed.feed_forward(scale),
        "convolution": lambda: convolution.convolutional(images(), scale),
        "deep": lambda: deep.deep(images(), scale),
        "growth": lambda: speed.growth(scale),
        "memory": lambda: processes.memory(classifiers(), images(), scale),
        "startup": lambda: processes.startup(scale),
    }


def write(folder: Path, results: dict[str, Any]) -> None:
    """The figures and the tables, each file whole or not at all."""
    write_json(folder / "engine.json", results)
    write_whole(folder / "engine.md", markdown(results))


if __name__ == "__main__":
    try:
        main()
    except (CascError, WrongAnswerError) as error:
        sys.exit(f"error: {error}")
