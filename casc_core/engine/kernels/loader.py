"""Loading the compiled library, choosing its instructions, and calling it on several threads."""

from __future__ import annotations

import ctypes
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from ctypes import c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from casc_core.errors import CascError, ConfigError

# Of the library, which setup.py names and compiles; without a C compiler there is none.
VERSION = 35
LIBRARY = Path(__file__).with_name("libcasc_kernels.so")
INSTRUCTIONS = ("plain", "neon", "avx2", "avx512")
KERNELS = (
    "rows", "scan", "levels", "recurrence", "sum_middle", "tally", "convolution", "agreement", "round", "gated", "driven",
    "lstm", "gru", "lstm_gradient", "gru_gradient", "dense", "currents", "maxima",
)  # fmt: skip
TYPES = {torch.float32: 0, torch.float64: 1}
MIXED = 2
OUT_OF_RANGE = -2
_UNFIT = -3
_NO_MEMORY = -1
# Chunks of work for each thread: texts differ in length, so equal chunks take unequal time.
_CHUNKS = 4
# Below this many entries to write, threads cost more than they save.
_WORTH_THREADS = 50_000
# How many times as long as a call whose threads came late the next ones go without: trying again costs a twentieth.
_ALONE = 20
_LARGE = 4 * 2**20
_LOADED_BY = os.getpid()

_ARGUMENTS: dict[str, list[Any]] = {
    "version": [],
    "has": [c_int64],
    "count_rows": [c_int64, c_void_p, c_int64, c_void_p],
    "large_pages": [c_void_p, c_int64],
    "work": [c_void_p],
    "parallel": [c_void_p, c_void_p, c_int64],
}


def structure(name: str, *fields: tuple[Any, str]) -> type[ctypes.Structure]:
    """A C structure from groups of a type and the names of its fields."""
    pairs = [(field, kind) for kind, names in fields for field in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": pairs})


_Shared = structure(
    "Shared", (c_int64, "isa kernel type"), (c_void_p, "task"), (c_int64, "items chunks next most least")
)
# What `using` asks for in this thread: nothing, or one choice.
_forced: ContextVar[tuple[str | None, ...]] = ContextVar("forced", default=())


@cache
def _functions() -> dict[str, Callable[..., int]]:
    """The library's functions by name; none where the installation has no library, or one that does not fit."""
    if not LIBRARY.exists():
        if enabled():
            warnings.warn(
                "casc has no compiled kernels here: torch does their work, in the same bits, several times slower. Install "
                "casc again where there is a C compiler; CASC_KERNELS=none says that this is meant",
                stacklevel=2,
            )
        return {}
    try:
        library = ctypes.CDLL(str(LIBRARY))
        functions = {name: getattr(library, f"casc_{name}") for name in _ARGUMENTS}
    except (OSError, AttributeError):  # of another processor, or another version
        functions = {}
    for name, function in functions.items():
        function.restype, function.argtypes = c_int64, _ARGUMENTS[name]
    if not functions or functions["version"]() != VERSION:
        warnings.warn(f"{LIBRARY} does not fit this version of casc or this machine; install casc again", stacklevel=2)
        return {}
    return functions


def all_instructions() -> list[str | None]:
    """Every choice that `using` takes on this machine, the fastest last."""
    functions = _functions()
    return [None, *(name for number, name in enumerate(INSTRUCTIONS) if functions and functions["has"](number))]


def enabled() -> bool:
    """Whether kernels of any kind are wanted."""
    forced = _forced.get()
    return forced[0] is not None if forced else os.environ.get("CASC_KERNELS") != "none"


@cache
def _usual() -> str | None:
    """The best instructions that the processor has, or those that CASC_KERNELS names ("none": no kernel at all).

    Raises:
        ConfigError: it names none that there are.
    """
    choices, wanted = all_instructions(), os.environ.get("CASC_KERNELS", "")
    if wanted and wanted not in (*INSTRUCTIONS, "none"):
        raise ConfigError(f"CASC_KERNELS must be none, {', '.join(INSTRUCTIONS)} or unset; it is {wanted!r}")
    if wanted in INSTRUCTIONS and wanted not in choices:
        raise ConfigError(f"CASC_KERNELS is {wanted!r}, but the kernels here have {choices[1:]}")
    return choices[-1] if not wanted else None if wanted == "none" else wanted


def instructions() -> str | None:
    """The instructions in use: "plain", "neon", "avx2", "avx512"; None where torch does the kernels' work."""
    forced = _forced.get()
    return forced[0] if forced else _usual()


@contextmanager
def using(choice: str | None) -> Iterator[None]:
    """Use these instructions in this thread, or with None no compiled kernel; results are the same bit for bit.

    Raises:
        ValueError: this machine does not have them.
    """
    if choice not in all_instructions():
        raise ValueError(f"instructions {choice!r} are not to be had here; these are: {all_instructions()}")
    before = _forced.set((choice,))
    try:
        yield
    finally:
        _forced.reset(before)


def ready(*tensors: Tensor | None) -> bool:
    """Whether kernels can be used on these tensors."""
    return instructions() is not None and all(t is None or t.device.type == "cpu" for t in tensors)


def isa() -> int:
    """The number of the instructions in use."""
    chosen = instructions()
    assert chosen is not None
    return INSTRUCTIONS.index(chosen)


def call(name: str, *arguments: Any) -> int:
    """A function of the library."""
    return _functions()[name](*arguments)


def run(kernel: str, task: ctypes.Structure, items: int, work: int, kind: int = 0) -> int:
    """A kernel over the items of a task: the largest of its results, or OUT_OF_RANGE if it was that anywhere.

    Args:
        work: entries to write; torch's number of threads is used where there are many.
        kind: of numbers, one of TYPES.
    """
    threads = torch.get_num_threads() if work >= _WORTH_THREADS and not forked() and _team.is_worth_it() else 1
    chunks = min(items, threads * _CHUNKS) if threads > 1 else 1
    shared = _Shared(isa(), KERNELS.index(kernel), kind, ctypes.addressof(task), items, chunks)
    pointer = ctypes.addressof(shared)
    if chunks <= 1:
        call("work", pointer)
    else:
        _team.work(pointer, threads)
    if shared.least == _NO_MEMORY:
        raise MemoryError("no memory for a thread's own working space")
    require(shared.least != _UNFIT, f"the sizes of a task of {kernel!r}")
    return int(shared.least if shared.least < 0 else shared.most)


def forked() -> bool:
    """Whether this process was forked from one that had loaded this module: OpenMP's threads, torch's and ours, stayed
    behind, and it would wait for them for ever."""
    return os.getpid() != _LOADED_BY


@cache
def _openmp() -> int | None:
    """GOMP_parallel of the OpenMP that torch has loaded, if it is one with that function.

    Its threads wait for work by spinning for a while; threads of our own would compete with them for the processor.
    """
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, c_void_p).value
    except (AttributeError, OSError, TypeError):
        return None


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """A process's own threads, which a fork does not inherit."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="casc")


class _Team:
    """Several threads at a task, unless they have just cost more than they saved.

    Where another process holds a core, the thread on it comes late, and OpenMP waits for it, spinning. Once that took
    longer than the calling thread's own work, which it could as well have done alone, it works alone for a while.
    """

    def __init__(self) -> None:
        self.alone_until = 0.0

    def is_worth_it(self) -> bool:
        """Whether the others are asked again."""
        return time.monotonic() >= self.alone_until

    def work(self, shared: int, threads: int) -> None:
        """All of a task, whose address this is."""
        began = time.monotonic()
        if _openmp() is not None:
            late = bool(call("parallel", _openmp(), shared, threads))
        else:
            others = [_pool(os.getpid()).submit(call, "work", shared) for _ in range(threads - 1)]
            call("work", shared)
            done = time.monotonic()
            for other in others:
                if not other.cancel():  # else it has not even begun, and there is nothing left to do
                    other.result()
            late = time.monotonic() - done > done - began
        if late:
            ended = time.monotonic()
            self.alone_until = ended + _ALONE * (ended - began)


_team = _Team()


def checked(tensor: Tensor, what: str, dtype: torch.dtype, shape: Sequence[int], packed: bool = True) -> Tensor:
    """`tensor`, if a kernel may read it as this: on the CPU, of this type and shape, and, if `packed`, without gaps.

    Raises:
        ValueError: it may not; the kernel would read past its end.
    """
    if tensor.device.type != "cpu" or tensor.dtype != dtype or tensor.shape != tuple(shape):
        raise ValueError(
            f"{what} must be {dtype} of shape {list(shape)} on the CPU; got {tensor.dtype} of shape "
            f"{list(tensor.shape)} on {tensor.device}"
        )
    if packed and not tensor.is_contiguous():
        raise ValueError(f"{what} must lie in memory without gaps; its strides are {tensor.stride()}")
    return tensor


def require(fits: bool, what: str) -> None:
    """Raise `ValueError`, saying what must be, unless it fits."""
    if not fits:
        raise ValueError(f"a compiled kernel is called with what does not fit: {what}")


def address(tensor: Tensor | None) -> int | None:
    """Where its memory begins."""
    return None if tensor is None else tensor.data_ptr()


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """`torch.empty` on the CPU, whatever torch's default device, of large pages where it is large."""
    result = torch.empty(shape, dtype=dtype, device="cpu")
    if result.nbytes >= _LARGE:
        call("large_pages", result.data_ptr(), result.nbytes)
    return result


def with_capacity(capacity: int, longest: int, attempt: Callable[[int], tuple[Tensor, int]]) -> tuple[Tensor, int]:
    """`attempt` with room for more and more steps, until those it needed fit.

    Args:
        longest: steps by which all neurons have provably settled.

    Raises:
        CascError: they have not.
    """
    while True:
        result, needed = attempt(capacity)
        if needed <= capacity:
            return result, needed
        if capacity >= longest:
            raise CascError(
                f"a compiled kernel spikes after step {longest}, by which all neurons have settled: a fault of casc; "
                "CASC_KERNELS=none in the environment does without"
            )
        capacity = min(capacity + max(2, capacity // 2), longest)
