"""What only a fresh process can tell: peak memory, and the time from its start to a first result.

Run with a folder, what to run, a batch size and a limit in bytes, it is the child process that `memory` starts.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

# torch is imported by the functions that need it: the start-up of a process is one of the things measured here.
if TYPE_CHECKING:
    from images import Images
    from networks import Classifiers, Scale
    from torch import Tensor, nn

SELF = Path("/proc/self")
NETWORK, TENSORS = "network.json", "network.safetensors"

FIRST_RESULT = """
import torch, casc_core
from casc_seq.classifier import ClassifierConfig, TextClassifier
model = TextClassifier(ClassifierConfig(vocabulary_size=100, classes=4, embedding_size=16, hidden_size=16)).eval()
snn = casc_core.convert(model, adapter="rnn")
snn(torch.randint(2, 100, (8, 10)))
"""
PROGRAMS = {
    "python alone": "",
    "import torch": "import torch",
    "import casc_core": "import casc_core",
    "convert a small classifier and call it": FIRST_RESULT,
}
SAY_CPU_TIME = "\nimport time; print(time.process_time(), flush=True)"


def startup(scale: Scale) -> dict[str, Any]:
    """Seconds from the start of a process until it has run a program; the programs take turns."""
    wall: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    cpu: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(scale.startup_repeats):
        for name, program in PROGRAMS.items():
            started = time.perf_counter()
            with subprocess.Popen(
                [sys.executable, "-c", program + SAY_CPU_TIME], stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                line = process.stdout.readline()
                wall[name].append(time.perf_counter() - started)
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, program)
            cpu[name].append(float(line))
    unit = min(wall["import torch"]), min(cpu["import torch"])
    return {
        "rows": [
            {
                "program": name, "wall_s": wall[name], "cpu_s": cpu[name],
                "wall_ratio": min(wall[name]) / unit[0], "cpu_ratio": min(cpu[name]) / unit[1],
            }
            for name in PROGRAMS
        ]
    }  # fmt: skip


def memory(classifiers: Classifiers, images: Images, scale: Scale) -> dict[str, Any]:
    """Peak memory of one run of the trained classifiers and of VGG16, each in a process of its own."""
    whats = ["ann", "silent", *(str(T) for T in scale.memory_steps)]
    rows = []
    for q in scale.memory_q:
        with tempfile.TemporaryDirectory() as folder:
            hand_over_classifier(Path(folder), classifiers, q, max(scale.memory_batches))
            for batch in scale.memory_batches:
                rows.append(_row(folder, f"q={q}, texts of {scale.length} tokens", batch, whats))
    with tempfile.TemporaryDirectory() as folder:
        hand_over_vgg16(Path(folder), images, scale)
        name = f"VGG16, q={scale.image_q}, images of {scale.image_size}x{scale.image_size}"
        rows.append(_row(folder, name, scale.memory_images, whats))
    return {
        "rows": rows,
        "limit_bytes": memory_limit(),
        "method": "VmHWM, reset after set-up" if _resettable() else "ru_maxrss",
    }


def _row(folder: str, name: str, batch: int, whats: list[str]) -> dict[str, Any]:
    print(f"  {name}, {batch:,} at once", file=sys.stderr, flush=True)
    return {"network": name, "batch": batch, "bytes": {what: _run_child(folder, what, batch) for what in whats}}


def hand_over_classifier(folder: Path, classifiers: Classifiers, q: int, batch: int) -> None:
    """Leave a classifier and its texts where a child process finds them."""
    import dataclasses

    model = classifiers.trained(q).model
    tokens, lengths = classifiers.full(batch)
    hand_over(folder, model, {"classifier": dataclasses.asdict(model.config)}, (tokens, lengths))


def hand_over_vgg16(folder: Path, images: Images, scale: Scale) -> None:
    """Leave VGG16 and a batch for it; its weights are fresh, its batch norms have seen images."""
    import torch
    from images import vgg16, with_statistics

    sizes = {"width": scale.vgg_width, "classes": 10, "q": scale.image_q}
    torch.manual_seed(0)
    seen = [images.batch(scale.memory_images, start * scale.memory_images) for start in range(4)]
    hand_over(folder, with_statistics(vgg16(**sizes), seen), {"vgg16": sizes}, (images.batch(scale.memory_images),))


def hand_over(folder: Path, model: nn.Module, description: dict[str, Any], inputs: tuple[Tensor, ...]) -> None:
    """Leave a network, how to build it, and its inputs where a child process finds them."""
    from safetensors.torch import save_file

    (folder / NETWORK).write_text(json.dumps(description))
    tensors = {f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors | {f"input.{index}": tensor for index, tensor in enumerate(inputs)}, folder / TENSORS)


def _run_child(folder: str, what: str, batch: int) -> int | None:
    """What a child process measured; None if there was not memory enough."""
    command = [sys.executable, __file__, folder, what, str(batch), str(memory_limit())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == -signal.SIGKILL:  # by the system, which ran out of memory
        return None
    done.check_returncode()
    taken: int | None = json.loads(done.stdout)
    return taken


def memory_limit() -> int:
    """Bytes a child may allocate: most of what is free, so that the whole machine does not come to a halt."""
    try:
        pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a system that does not tell
        return 0
    return int(0.8 * pages * size)


def main() -> None:
    """Measure in this process; prints `null` where the memory does not suffice."""
    folder, what, batch, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    if limit:
        import resource  # not on every system

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        taken = child(folder, what, batch)
    except MemoryError:
        print("null")
    except RuntimeError as error:
        if "allocate memory" not in str(error):  # torch has no type for it
            raise
        print("null")
    else:
        print(taken)


def child(folder: Path, what: str, batch: int) -> int:
    """Bytes by which one run raises the peak of this process over what it held when all was set up."""
    import torch
    from safetensors.torch import load_file

    import casc_core

    torch.set_num_threads(1)
    tensors = load_file(folder / TENSORS)
    names = sorted(name for name in tensors if name.startswith("input."))
    inputs = [tensors.pop(name)[:batch].clone() for name in names]
    model, adapter = handed_over(json.loads((folder / NETWORK).read_text()))
    model.eval().load_state_dict({name.removeprefix("model."): tensor for name, tensor in tensors.items()})
    del tensors
    run: Callable[..., object] = model
    if what != "ann":
        snn = casc_core.convert(model, adapter=adapter)
        run = snn if what == "silent" else (lambda *given: snn.simulate(*given, T=int(what)))
    with torch.no_grad():
        run(*(part[:2] for part in inputs))  # what is set up once, at the first call, is set up now
        return peak_of(lambda: run(*inputs))


def handed_over(description: dict[str, Any]) -> tuple[nn.Module, str]:
    """The network that a description is of, its weights still fresh, and the adapter for it."""
    if "vgg16" in description:
        from images import vgg16

        return vgg16(**description["vgg16"]), "cnn"
    from casc_seq.classifier import ClassifierConfig, TextClassifier

    return TextClassifier(ClassifierConfig(**description["classifier"])), "rnn"


def peak_of(work: Callable[[], object]) -> int:
    """Bytes by which `work` raises the peak of resident memory over what is resident before it."""
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)  # memory freed but kept would hide what the work takes
    if _resettable():
        before = _resident("VmRSS")
        (SELF / "clear_refs").write_text("5")
        work()
        return _resident("VmHWM") - before
    import resource

    # Set-up may have had a higher peak than the work: then this understates it.
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - before


def _resettable() -> bool:
    """Whether the system lets a process reset its peak.

    It matters: `ru_maxrss` is handed down from the parent process, and keeps the peak of the set-up.
    """
    try:
        (SELF / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident(what: str) -> int:
    for line in (SELF / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) * 1024
    raise OSError(f"{SELF}/status has no {what}")


if __name__ == "__main__":
    main()
