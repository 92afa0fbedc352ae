"""Several processes, started by `torchrun`, as one: who is who, each one's share, and what they tell one another.

Everything here also works in a single process, where it does nothing.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import torch
import torch.distributed as dist
from torch import Tensor, nn

from casc_core.errors import CascError, ConfigError

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

Item = TypeVar("Item")


@dataclass(frozen=True)
class Share:
    """One process's part of the work: number `rank` of `world`.

    Args:
        rank: number of the process, from 0.
        world: how many there are.

    Raises:
        ConfigError: `rank` is not in `0 .. world - 1`.

    >>> Share(1, 3).of(range(8))
    range(1, 8, 3)
    """

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"a process has a number from 0 to {self.world - 1}; got {self.rank}")

    @overload
    def of(self, items: Tensor) -> Tensor: ...
    @overload
    def of(self, items: Sequence[Item]) -> Sequence[Item]: ...
    def of(self, items: Tensor | Sequence[Item]) -> Tensor | Sequence[Item]:
        """Every `world`-th of `items`: the shares of all processes together are all of them, each once."""
        return items[self.rank :: self.world]

    def of_batch(self, items: Tensor) -> tuple[Tensor, int]:
        """This process's part of the samples of a batch, and how many of them count.

        Where a batch has fewer samples than there are processes, one without a part gets a sample that does not count.

        >>> Share(1, 2).of_batch(torch.tensor([4, 5, 6])), Share(1, 2).of_batch(torch.tensor([4]))
        ((tensor([5]), 1), (tensor([4]), 0))
        """
        mine = self.of(items)
        return (mine, len(mine)) if len(mine) else (items[:1], 0)


ALL = Share()
"""The share of a process that is alone."""


def launched() -> tuple[Share, int] | None:
    """This process's share and its number on its machine, as `torchrun` tells them; None: not started by it.

    Raises:
        ConfigError: some of the variables are set and others are not, or they are not numbers.
    """
    here = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    if not any(name in here for name in VARIABLES[:3]):
        return None
    missing = [name for name in VARIABLES if name not in here]
    if missing:
        raise ConfigError(
            f"{', '.join(here)} {'is' if len(here) == 1 else 'are'} set but not {', '.join(missing)}: start with torchrun, "
            "which sets all of them, or unset them to run one process"
        )
    try:
        rank, world, local = (int(here[name]) for name in VARIABLES[:3])
    except ValueError as error:
        found = ", ".join(f"{name}={here[name]!r}" for name in VARIABLES[:3])
        raise ConfigError(f"expected numbers; got {found}: start with torchrun, or unset them") from error
    return Share(rank, world), local


def choose_device(asked: str, local: int | None = None) -> torch.device:
    """The device to run on.

    Args:
        asked: "auto" (a GPU if there is one), or a device of torch, such as "cpu", "cuda", "cuda:1".
        local: number of this process on its machine, if there are several: it takes the GPU of that number.

    Raises:
        ConfigError: no such device.

    >>> choose_device("cpu", local=3)
    device(type='cpu')
    """
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ConfigError(f"no device is called {asked!r}; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ConfigError(f"runs on 'cpu' and 'cuda'; got {asked!r}")
    count = torch.cuda.device_count()
    if count == 0:
        raise ConfigError(f"device {asked!r} asks for a GPU, but torch sees none; use --device cpu")
    number = (device.index or 0) if local is None else local
    if number >= count:
        raise ConfigError(
            f"there is no GPU number {number}, only {count} on this machine; start as many processes as it has GPUs "
            "(torchrun --nproc-per-node), or use --device cpu"
        )
    return torch.device("cuda", number)


def device_of(model: nn.Module) -> torch.device:
    """Where a model's parameters are; the CPU if it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


@contextmanager
def processes(asked: str = "cpu") -> Iterator[torch.device]:
    """The device of this process; within the block, the processes that `torchrun` started can tell one another things.

    Args:
        asked: device, as `choose_device` takes it.

    Raises:
        ConfigError: no such device, or the environment is half set.

    >>> with processes("cpu") as device:
    ...     device, is_main(), share()
    (device(type='cpu'), True, Share(rank=0, world=1))
    """
    here = launched()
    if here is None:
        yield choose_device(asked)
        return
    mine, local = here
    device = choose_device(asked, local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # What lies on the CPU travels by gloo on any machine; gradients on GPUs by NCCL.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, rank=mine.rank, world_size=mine.world)
    try:
        yield device
    finally:
        # Where one fails, the others may be waiting for it: torchrun ends them.
        dist.destroy_process_group()
        # What is left of it lies in cycles of the parallel model. Its threads must not outlive the interpreter.
        gc.collect()


def share() -> Share:
    """This process's share: all of it, if it is alone."""
    return Share(dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else ALL


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks to the user."""
    return share().rank == 0


def barrier() -> None:
    """Wait until every process has come here."""
    if share().world > 1:
        dist.all_reduce(torch.zeros(1))


def say(*lines: str) -> None:
    """Tell the user, once, on stderr, so that stdout holds the results alone."""
    if is_main():
        for line in filter(None, lines):
            print(line, file=sys.stderr, flush=True)


def agreed(value: Item) -> Item:
    """What the main process passed, in every process: small plain things such as numbers, strings and dictionaries."""
    return from_main(lambda: value)


def from_main(get: Callable[[], Item]) -> Item:
    """What `get` returns in the main process, in every process; an error there is raised in all of them."""
    if share().world == 1:
        return get()
    told: list[Any] = [None, None]
    if is_main():
        try:
            told[0] = get()
        except CascError as error:
            told[1] = error
    dist.broadcast_object_list(told, src=0)
    if told[1] is not None:
        raise told[1]
    result: Item = told[0]
    return result


def total(values: Tensor) -> Tensor:
    """The sum over all processes of `values`, of the same shape in each; on their device."""
    if share().world > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def gather(parts: Sequence[Tensor]) -> Tensor:
    """The parts of all processes, joined along the first dimension in the order of their numbers, on the CPU.

    Args:
        parts: each `[n, ...]`; how many, and `n`, may differ by process and be 0, all else must agree.

    >>> gather([torch.tensor([[1, 2]]), torch.tensor([[3, 4]])])
    tensor([[1, 2],
            [3, 4]])
    """
    mine = torch.cat([part.detach().cpu() for part in parts]) if parts else None
    world = share().world
    if world == 1:
        return torch.empty(0) if mine is None else mine
    shapes: list[tuple[Any, ...] | None] = [None] * world
    dist.all_gather_object(shapes, None if mine is None else (*mine.shape, str(mine.dtype).removeprefix("torch.")))
    known = next((shape for shape in shapes if shape is not None), None)
    if known is None:
        return torch.empty(0)
    counts = [0 if shape is None else int(shape[0]) for shape in shapes]
    padded = torch.zeros((max(counts), *known[1:-1]), dtype=getattr(torch, str(known[-1])))
    if mine is not None:
        padded[: len(mine)] = mine
    sent = padded.flatten().view(torch.uint8)  # gloo knows few types of numbers
    received = [torch.empty_like(sent) for _ in range(world)]
    dist.all_gather(received, sent)
    wholes = [buffer.view(padded.dtype).reshape(padded.shape) for buffer in received]
    return torch.cat([whole[:count] for whole, count in zip(wholes, counts, strict=True)])


def gather_each(value: Item) -> list[Item]:
    """What each process passed, small plain things, in the order of their numbers."""
    world = share().world
    values: list[Any] = [value] * world
    if world > 1:
        dist.all_gather_object(values, value)
    return values


def broadcast_state(model: nn.Module) -> None:
    """Give every process the parameters and buffers that the main process's `model` has."""
    if share().world > 1:
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), src=0)


def parallel(model: nn.Module) -> nn.Module:
    """`model`, its gradients averaged over the processes in each backward pass."""
    if share().world == 1:
        return model
    device = device_of(model)
    return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


@contextmanager
def synchronised_batch_norm(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Within the block, every BatchNorm standardises over the batch of all processes; on GPUs only, where torch has it.

    Parameters and statistics are the same tensors all the time.
    """
    if not wanted or share().world == 1 or device_of(model).type != "cuda":
        yield
        return
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.modules.batchnorm._BatchNorm)
    ]
    for parent, name, child in found:
        setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
    try:
        yield
    finally:
        for parent, name, child in found:
            synchronised = getattr(parent, name)
            if child.num_batches_tracked is not None:
                child.num_batches_tracked = synchronised.num_batches_tracked
            setattr(parent, name, child.train(synchronised.training))
