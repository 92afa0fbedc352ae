"""Saved networks, damaged and forged: each must be refused by an error of ours, or be a network that runs.

    python tests/casc_core/conversion/test_load_fuzz.py --seconds 1200 --seed 1

runs for so long, under a limit of memory, and prints how many were refused, and how many gave the same or other answers.
What is damaged without a new checksum may not give other answers; what is forged, its checksum made anew, may: it is
another network. Neither may raise anything else, hang, or ask for gigabytes.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import casc_core
import casc_seq
from casc_core import CascError, CQReLU, StorageError, WakeSleep
from casc_core.engine.functions import DTYPES, FUNCTIONS
from casc_core.engine.ops import Op
from casc_core.engine.saved import DESCRIPTION, TENSORS
from casc_core.storage.checksum import BLANK, is_whole, with_checksum

SECONDS = 20
"""What a network of these may take to load, run and be refused; the true ones take a hundredth of a second."""


class Texts(nn.Module):
    """Tokens, lengths, masks, and a recurrence in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 4, padding_idx=0)
        self.rnn = casc_seq.RNN(4, 5, q=2, batch_first=True, bidirectional=True)
        self.hidden, self.act, self.fc = nn.Linear(10, 6), CQReLU(2), nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        lengths = (tokens != 0).sum(1)
        states, _ = self.rnn(self.embedding(tokens), lengths=lengths)
        mask = (torch.arange(tokens.shape[1], device=tokens.device)[None, :] < lengths[:, None]).unsqueeze(-1)
        largest = states.masked_fill(~mask, float("-inf")).amax(1)
        mean = (states * mask.to(torch.float32)).sum(1) / lengths.unsqueeze(1)
        logits: Tensor = self.fc(self.act(self.hidden(mean + largest)))
        return logits


class Images(nn.Module):
    """Convolutions, pools, padding, and what rearranges images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm, self.act1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), CQReLU(2)
        self.conv2, self.act2 = nn.Conv2d(4, 4, 3, padding=1, groups=2), CQReLU(2)
        self.max, self.average, self.fc = nn.MaxPool2d(2, 2, 1), nn.AvgPool2d(2, padding=1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.norm(self.conv1(F.pad(x, (1, 0, 0, 1)))))
        x = self.max(x + self.act2(self.conv2(x)))
        x = torch.cat([F.interpolate(x, scale_factor=2), F.interpolate(x, scale_factor=2).flip(2)], 1)
        x = self.average(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1]).mean(1)
        logits: Tensor = self.fc(x)
        return logits


@dataclass(frozen=True)
class Saved:
    """A saved network, what it is asked, and what it answers."""

    text: bytes
    tensors: bytes
    inputs: tuple[Tensor, ...]
    answers: Tensor


def networks() -> dict[str, Saved]:
    """Small networks that between them have most operations."""
    torch.manual_seed(0)
    tokens, images = torch.tensor([[3, 4, 5, 0], [1, 2, 0, 0], [7, 8, 9, 11]]), torch.rand(2, 2, 7, 7)
    kinds = {"texts": (Texts(), tokens, None), "images": (Images(), images, WakeSleep(2, 1, 1))}
    made = {}
    for name, (model, inputs, schedule) in kinds.items():
        snn = casc_core.convert(model.eval(), schedule=schedule)
        with tempfile.TemporaryDirectory() as folder:
            snn.save(f"{folder}/n")
            text, tensors = ((Path(folder) / "n" / file).read_bytes() for file in (DESCRIPTION, TENSORS))
        made[name] = Saved(text, tensors, (inputs,), snn(inputs))
    return made


# Damage: the checksum stays as it was.


def flipped(saved: Saved, bit: int) -> tuple[bytes, bytes]:
    """Both files, one bit of the two changed."""
    data = bytearray(saved.text + saved.tensors)
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data[: len(saved.text)]), bytes(data[len(saved.text) :])


def damaged(saved: Saved, rng: random.Random) -> tuple[bytes, bytes]:
    """A bit flipped; or a part cut out, doubled or overwritten."""
    if rng.random() < 0.6:
        return flipped(saved, rng.randrange(8 * (len(saved.text) + len(saved.tensors))))
    files = [saved.text, saved.tensors]
    which = rng.randrange(2)
    data = files[which]
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 3, 40, 4000)))
    middle = rng.choice((b"", data[start:end] * 2, bytes(rng.randrange(256) for _ in range(end - start))))
    files[which] = data[:start] + middle + data[end:]
    return files[0], files[1]


# Forgeries: the checksum is made anew.

HOSTILE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 127, 128, 1000, 20_000, 2**31 - 1, 2**31, 2**53, 10**12, 2**63 - 1, -(2**63),
    10**40, 0.5, -0.5, 1e-300, 1e300, -2.75, float("nan"), float("inf"), "", "x", "os.system", "__class__", "shape", "sys",
    "../../etc", "\x00", "é" * 50, [], {}, [[]], [1, 2], [0] * 100, {"ref": "x"}, {"ref": "tokens"}, {"dtype": "sys"},
    {"dtype": "int64"}, {"device": "meta"}, {"device": "cpu"}, {"device": "cuda:99"}, {"slice": [None, None, None]},
    {"slice": [0, 10**12, 1]}, {"tuple": [10**12]}, {"tuple": [20_000, 20_000]}, {"ellipsis": True}, {"float": "inf"},
    {"dict": {"out": {"ref": "v0"}}}, {"tuple": []}, {"unknown": 1}, {"ref": "v0", "tuple": []},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a JSON value."""
    if path:
        yield path
    if isinstance(value, (dict, list)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def hostile(rng: random.Random, description: Any, old: Any) -> Any:
    """Something that should not stand where `old` does."""
    if isinstance(old, str) and rng.random() < 0.5:
        return rng.choice((*FUNCTIONS, *Op.kinds, *DTYPES, *(f"v{number}" for number in range(20))))
    if isinstance(old, bool):
        return not old
    if isinstance(old, (int, float)) and rng.random() < 0.6:
        return rng.choice((old + 1, old - 1, -old, old * 2, old * 1000, old / 2, old + 0.5, 2**16, 2**20, 10**9))
    if rng.random() < 0.2:
        return copy.deepcopy(at(description, rng.choice(list(places(description)))))
    return rng.choice(HOSTILE)


def forged_json(saved: Saved, rng: random.Random) -> tuple[bytes, bytes]:
    """Fields changed, removed, added, doubled, or nested; the text itself may be malformed."""
    description = json.loads(saved.text)
    description["sha256"] = BLANK
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        path = rng.choice([path for path in places(description) if path != ("sha256",)])
        parent, key = at(description, path[:-1]), path[-1]
        what = rng.random()
        if what < 0.75:
            parent[key] = hostile(rng, description, parent[key])
        elif what < 0.85:
            del parent[key]
        elif isinstance(parent, dict):
            parent[rng.choice(("extra", "out", "kind", "name", "tensors"))] = hostile(rng, description, None)
        else:
            parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(rng.choice(parent)))
    text = json.dumps(description, indent=1)
    what = rng.random()
    if what < 0.03:
        depth = rng.choice((30, 1_000, 100_000))
        text = text.replace("[", "[" * depth, 1).replace("]", "]" * depth, 1)
    elif what < 0.06:
        text = text.replace(' "q":', ' "q": 3, "q":', 1)
    elif what < 0.08:
        text = text.replace(' "q": ', ' "q": ' + "9" * rng.choice((19, 5_000)), 1)
    return resealed(text.encode("utf-8", "surrogatepass"), saved.tensors)


def forged_tensors(saved: Saved, rng: random.Random) -> tuple[bytes, bytes]:
    """The header of the numbers forged, or the numbers themselves."""
    (length,) = struct.unpack("<Q", saved.tensors[:8])
    header, numbers = json.loads(saved.tensors[8 : 8 + length]), bytearray(saved.tensors[8 + length :])
    what = rng.random()
    if what < 0.4:
        for _ in range(rng.choice((1, 8))):
            numbers[rng.randrange(len(numbers))] ^= 1 << rng.randrange(8)
    elif what < 0.5:
        start = rng.randrange(len(numbers) // 8) * 8
        numbers[start : start + 8] = struct.pack("<d", rng.choice((float("nan"), float("inf"), 1e308, 5e-324, 2.0**60)))
    elif what < 0.9:
        path = rng.choice(list(places(header)))
        parent = at(header, path[:-1])
        if rng.random() < 0.2:
            del parent[path[-1]]
        elif path[-1] == "dtype":
            parent["dtype"] = rng.choice(
                ("F64", "F32", "F16", "BF16", "I8", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X")
            )
        elif path[-1] == "shape":
            shape = parent["shape"]
            rng.shuffle(shape)
            parent["shape"] = rng.choice((shape, shape[::-1], [*shape, 1], [1, *shape], [0, *shape], [2**62, 4], []))
        else:
            parent[path[-1]] = hostile(rng, header, parent[path[-1]])
    written = json.dumps(header).encode("utf-8", "surrogatepass")
    size = len(written) if what < 0.95 else rng.choice((0, 1, 2**20, 2**40, 2**63, 2**64 - 1))
    return resealed(
        json.dumps(json.loads(saved.text) | {"sha256": BLANK}).encode(), struct.pack("<Q", size) + written + numbers
    )


def resealed(text: bytes, tensors: bytes) -> tuple[bytes, bytes]:
    """With a new checksum, where the text still has a place for one."""
    try:
        return with_checksum(text, tensors), tensors
    except ValueError:
        return text, tensors


WAYS: dict[str, Callable[[Saved, random.Random], tuple[bytes, bytes]]] = {
    "damaged": damaged, "forged json": forged_json, "forged tensors": forged_tensors,
}  # fmt: skip


class HangsError(Exception):
    """It took longer than it may."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise HangsError(f"longer than {seconds} s of the processor's time")

    # Of the processor: others may keep it busy.
    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def outcome(saved: Saved, text: bytes, tensors: bytes, folder: Path) -> str:
    """What comes of such files: "refused", "refused at the call", "the same", "other answers"; all else is a fault."""
    (folder / DESCRIPTION).write_bytes(text)
    (folder / TENSORS).write_bytes(tensors)
    with warnings.catch_warnings(), time_limit(SECONDS):
        warnings.simplefilter("ignore")
        try:
            snn = casc_core.load(folder)
        except StorageError as error:
            return _told(error, "refused")
        try:
            answers = snn(*saved.inputs)
            reference, report = snn.reference(*saved.inputs), casc_core.verify(snn, *saved.inputs)
        except CascError as error:
            return _told(error, "refused at the call")
    same = torch.equal(answers, saved.answers) and torch.equal(reference, saved.answers) and report.exact
    return "the same" if same else "other answers"


def _told(error: Exception, as_what: str) -> str:
    told = str(error)
    if "\n" in told.strip() and "  at " not in told:
        raise AssertionError(f"a message of several lines: {told}")
    if "allocate" in told:
        raise AssertionError(f"it asked for memory that is not there: {told}")
    return as_what


@pytest.fixture(scope="module")
def saved_networks() -> dict[str, Saved]:
    return networks()


@pytest.mark.parametrize("name", ["texts", "images"])
def test_no_bit_can_flip_unnoticed(saved_networks: dict[str, Saved], name: str) -> None:
    saved, rng = saved_networks[name], random.Random(0)
    for bit in rng.sample(range(8 * (len(saved.text) + len(saved.tensors))), 3_000):
        assert not is_whole(*flipped(saved, bit))
    assert is_whole(saved.text, saved.tensors)


@pytest.mark.parametrize(("way", "count"), [("damaged", 60), ("forged json", 250), ("forged tensors", 120)])
def test_a_damaged_or_forged_network_is_refused_or_runs(
    saved_networks: dict[str, Saved], way: str, count: int, tmp_path: Path
) -> None:
    rng, found = random.Random(1), Counter[str]()
    for number in range(count):
        saved = saved_networks[("texts", "images")[number % 2]]
        found[outcome(saved, *WAYS[way](saved, rng), tmp_path)] += 1
    assert found["refused"]
    if way == "damaged":
        assert found["refused"] + found["the same"] == count


@pytest.mark.parametrize("name", ["texts", "images"])
def test_the_networks_that_are_forged_are_true(saved_networks: dict[str, Saved], name: str, tmp_path: Path) -> None:
    saved = saved_networks[name]
    assert outcome(saved, saved.text, saved.tensors, tmp_path) == "the same"
    again = resealed(json.dumps(json.loads(saved.text) | {"sha256": BLANK}).encode(), saved.tensors)
    assert outcome(saved, *again, tmp_path) == "the same"


def main() -> int:
    line = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    line.add_argument("--seconds", type=float, default=60)
    line.add_argument("--seed", type=int, default=0)
    line.add_argument("--most", type=int, default=10**9, help="networks to try")
    line.add_argument("--gigabytes", type=float, default=6, help="limit of the address space; 0: none")
    line.add_argument("--keep", type=Path, default=Path("fuzz_faults"), help="folder for the files that show a fault")
    args = line.parse_args()
    torch.set_num_threads(1)
    kinds = networks()
    if args.gigabytes:
        limit = int(args.gigabytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    rng, end, counts = random.Random(args.seed), time.monotonic() + args.seconds, Counter[tuple[str, str]]()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as name:
        while time.monotonic() < end and counts.total() < args.most:
            saved, way = kinds[rng.choice(sorted(kinds))], rng.choice(sorted(WAYS))
            text, tensors = WAYS[way](saved, rng)
            before = time.process_time()
            try:
                found = outcome(saved, text, tensors, Path(name))
                if (way, found) == ("damaged", "other answers"):
                    raise AssertionError("damage that was not noticed")
            except Exception as error:  # whatever it raises is a fault
                found = f"FAULT {type(error).__name__}: {' '.join(str(error).split())[:200]}"
                place = args.keep / str(sum(counts.values()))
                place.mkdir(parents=True, exist_ok=True)
                (place / DESCRIPTION).write_bytes(text)
                (place / TENSORS).write_bytes(tensors)
                print(found, place, flush=True)
            took = time.process_time() - before
            slowest = max(slowest, took)
            if took > 1:
                print(f"{took:.2f} s: {way}, {found}", flush=True)
            counts[way, found.split(":")[0]] += 1
    for (way, found), count in sorted(counts.items()):
        print(f"{way:16} {found:24} {count:9,}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{sum(counts.values()):,} in all; the slowest took {slowest:.2f} s; peak of memory {peak:.2f} GiB")
    return int(any("FAULT" in found for _, found in counts))


if __name__ == "__main__":
    sys.exit(main())
