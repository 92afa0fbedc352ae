"""The compiled kernels for another processor, under emulation: NEON's, where there are a cross compiler and QEMU.

A call is sent to the emulated process with all memory that its arguments lead to, and what it has written comes back. So
tests of kernels run unchanged, with `using("neon")`.
"""

from __future__ import annotations

import bisect
import ctypes
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from casc_core.engine import kernels
from casc_core.engine.kernels import loader

COMPILER, EMULATOR = (shutil.which(name) for name in ("aarch64-linux-gnu-gcc", "qemu-aarch64-static"))
# What `using` takes within `emulation`, beyond what this machine has.
EMULATED = ["neon"] if COMPILER and EMULATOR and "neon" not in kernels.all_instructions() else []
_FUNCTIONS = ("work", "count_rows")
_SOURCE = loader.LIBRARY.with_name("src")
_FLAGS = ["-O1", "-std=c11", "-ffp-contract=off", "-Wall", "-Werror", "-static"]


class Memory:
    """The tensors and structures whose addresses have been asked for; they are kept, so that no address is used twice."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.blocks: dict[int, tuple[int, Any]] = {}

    def add(self, start: int, size: int, owner: Any) -> None:
        if start not in self.blocks:
            bisect.insort(self.starts, start)
        self.blocks[start] = size, owner

    def find(self, address: int) -> int:
        """Where the block begins that holds an address."""
        start = self.starts[bisect.bisect_right(self.starts, address) - 1]
        assert start <= address <= start + self.blocks[start][0], "memory whose address nobody has asked for"
        return start


def pointers(structure: Any, at: int = 0) -> Iterator[tuple[int, int]]:
    """Where in a structure there are pointers, and what they point to."""
    if isinstance(structure, ctypes.Array):
        kind = structure._type_
        fields = [(kind, index * ctypes.sizeof(kind), value) for index, value in enumerate(structure)]
    else:
        described = [(name, kind, getattr(type(structure), name).offset) for name, kind in structure._fields_]
        fields = [(kind, offset, getattr(structure, name)) for name, kind, offset in described]
    for kind, offset, value in fields:
        if kind is ctypes.c_void_p:
            if value:
                yield at + offset, value
        elif issubclass(kind, (ctypes.Structure, ctypes.Array)):
            yield from pointers(value, at + offset)


class Processor:
    """A process that the emulator runs."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.folder = tempfile.TemporaryDirectory()

    @cached_property
    def process(self) -> subprocess.Popen[bytes]:
        program = Path(self.folder.name) / "calls"
        source = Path(__file__).with_name("emulated_calls.c")
        subprocess.run([COMPILER, *_FLAGS, f"-I{_SOURCE}", source, "-o", program, "-lm"], check=True)
        return subprocess.Popen([EMULATOR, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def close(self) -> None:
        if "process" in self.__dict__:
            self.process.communicate()
        self.folder.cleanup()

    def call(self, name: str, *arguments: Any) -> int:
        """A function of the library, there."""
        given = (ctypes.c_int64 * 4)(*arguments)
        kinds = loader._ARGUMENTS[name]
        starts: list[int] = []  # block 0 holds the arguments
        sent, found = [bytes(given)], []
        waiting = [(0, 8 * i, arguments[i]) for i, kind in enumerate(kinds) if kind is ctypes.c_void_p]
        for block, at, address in waiting:
            start = self.memory.find(address)
            if start not in starts:
                starts.append(start)
                size, owner = self.memory.blocks[start]
                sent.append(ctypes.string_at(start, size))
                if isinstance(owner, (ctypes.Structure, ctypes.Array)):
                    waiting += [(len(starts), place, value) for place, value in pointers(owner)]
            found.append((block, at, starts.index(start) + 1, address - start))
        message = struct.pack("=q", len(sent)) + b"".join(struct.pack("=q", len(each)) + each for each in sent)
        message += struct.pack("=q", len(found)) + b"".join(struct.pack("=4q", *each) for each in found)
        into, out = self.process.stdin, self.process.stdout
        assert into is not None
        assert out is not None
        into.write(message + struct.pack("=q", _FUNCTIONS.index(name)))
        into.flush()
        result = out.read(8 + sum(map(len, sent)))
        assert len(result) == 8 + sum(map(len, sent)), f"the emulated process died: {self.process.wait()}"
        at = 8 + len(sent[0])
        for start, each in zip(starts, sent[1:], strict=True):
            ctypes.memmove(start, result[at : at + len(each)], len(each))
            at += len(each)
        return int(struct.unpack("=q", result[:8])[0])


class _Functions:
    """What the loader finds: its library's functions, beside those that are emulated."""

    def __init__(self, processor: Processor) -> None:
        self.processor, self.usual = processor, loader._functions

    def cache_clear(self) -> None:
        self.usual.cache_clear()

    def __call__(self) -> dict[str, Callable[..., int]]:
        usual = self.usual()
        if not usual:
            return usual
        number = loader.INSTRUCTIONS.index("neon")
        changed: dict[str, Callable[..., int]] = {"has": lambda isa: isa == number or usual["has"](isa)}
        if loader._forced.get()[:1] == ("neon",):
            changed["work"] = lambda shared: self.processor.call("work", shared)
            changed["parallel"] = lambda openmp, shared, threads: self.processor.call("work", shared)
            changed["count_rows"] = lambda *arguments: self.processor.call("count_rows", *arguments)
        return {**usual, **changed}


@contextmanager
def emulation() -> Iterator[None]:
    """Kernels for EMULATED instructions run, in one process that is compiled and started when it is first asked."""
    if not EMULATED:
        yield
        return
    memory = Memory()
    processor = Processor(memory)
    data_ptr, addressof = torch.Tensor.data_ptr, ctypes.addressof

    def noted_data_ptr(tensor: torch.Tensor) -> int:
        if tensor.device.type == "cpu":  # no kernel reads what is elsewhere
            storage = tensor.untyped_storage()
            memory.add(storage.data_ptr(), storage.nbytes(), storage)
        return data_ptr(tensor)

    def noted_addressof(structure: Any) -> int:
        memory.add(addressof(structure), ctypes.sizeof(structure), structure)
        return addressof(structure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "data_ptr", noted_data_ptr)
        patch.setattr(ctypes, "addressof", noted_addressof)
        patch.setattr(loader, "_functions", _Functions(processor))
        try:
            yield
        finally:
            processor.close()
