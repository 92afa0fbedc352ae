"""Training: repeatable, resumable to the bit, on one process or several, its best epoch picked by validation.

What is trained, on what and how is a `Task`; what is the same for texts and images is here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from casc_core.errors import ConfigError, StorageError
from casc_lab import distributed
from casc_lab.distributed import device_of
from casc_lab.progress import Progress
from casc_lab.seeds import mixed
from casc_lab.training.checkpoint import load_checkpoint, save_checkpoint
from casc_lab.training.task import Part, Task

PRECISIONS = ("auto", "float32", "bfloat16")


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Within the block, `model` holds its numbers channels last: convolutions are fastest so, on CPUs and on GPUs.

    >>> model = nn.Conv2d(2, 3, 3)
    >>> with channels_last(model):
    ...     model.weight.is_contiguous(memory_format=torch.channels_last)
    True
    >>> model.weight.is_contiguous()
    True
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's annotations
    try:
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as above


@dataclass(frozen=True)
class EpochResult:
    """One epoch: its training loss and accuracy (with dropout and the like) and those in validation, in percent."""

    epoch: int
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class TrainingResult:
    """What `train` did.

    Attributes:
        epochs: every epoch in turn.
        best: the epoch whose weights the model has now.
        seconds: time spent, interruptions not counted.
    """

    epochs: tuple[EpochResult, ...]
    best: EpochResult
    seconds: float


def train(
    model: nn.Module,
    task: Task[Any],
    *,
    checkpoint: Path | None = None,
    save: Callable[[Path, str, dict[str, Any], dict[str, Tensor]], None] = save_checkpoint,
    save_seconds: float = 30.0,
    save_steps: int | None = None,
    progress: bool = True,
    precision: str = "auto",
    sync_batch_norm: bool = False,
    averaging: float | None = None,
) -> TrainingResult:
    """Train `model` in place; it ends with the weights of its best epoch, in evaluation mode.

    The same task, initial weights and numbers of threads and of processes give the same weights on one machine. With
    `checkpoint`, a training that was killed at any moment goes on where it was when called again with the same task,
    and ends with the weights it would have had; one that had ended is not repeated. Under `torchrun`, each process
    takes its share of each batch, and all end with the same weights.

    Args:
        model: a module on the device to train on.
        task: what it learns.
        checkpoint: file for the state of the training, written whole or not at all.
        save: what writes it.
        save_seconds: how often, at least; after each epoch in any case.
        save_steps: also each time that this many steps have been made.
        progress: show on stderr how far it has come.
        precision: "float32", "bfloat16" (mixed), or "auto": bfloat16 on a GPU that has it, else float32.
        sync_batch_norm: on several GPUs, standardise over the whole batch instead of each process's share.
        averaging: validate and keep an exponential average of the weights over the steps, in which each step leaves this
            share of it and less in the first ones (Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by
            Averaging"); None: the weights themselves.

    Raises:
        ConfigError: an unknown precision, `averaging` is not in (0, 1), or the loss is no longer a finite number; the
            message says what to change.
        StorageError: the checkpoint cannot be written, is damaged, or belongs to another training.
    """
    device = device_of(model)
    number_type = _number_type(precision, device)
    if averaging is not None and not 0.0 < averaging < 1.0:
        raise ConfigError(f"averaging must lie in (0, 1); got {averaging!r}")
    distributed.broadcast_state(model)
    with distributed.synchronised_batch_norm(model, sync_batch_norm), _seeded(task.seed, device):
        run = _Run(model, task, number_type, averaging)
        if checkpoint is not None:
            saved = distributed.from_main(lambda: load_checkpoint(checkpoint, task.owner))
            if saved is not None:
                try:
                    run.restore(*saved)
                except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                    reason = " ".join(str(error).split())
                    raise StorageError(
                        f"{checkpoint} is not the state of this training ({reason:.300}); delete it to start anew"
                    ) from error
        run.go_on(checkpoint, save, save_seconds, save_steps, progress and distributed.is_main())
    model.eval()
    return run.result()


class _Run:
    """A training and all of its state: what `state` leaves out, `restore` cannot bring back."""

    def __init__(
        self, model: nn.Module, task: Task[Any], number_type: torch.dtype, averaging: float | None = None
    ) -> None:
        self.model, self.task, self.number_type, self.device = model, task, number_type, device_of(model)
        self.averaging = averaging
        self.average: dict[str, Tensor] = {} if averaging is None else self._weights()
        self.share = distributed.share()
        self.optimiser = task.optimiser(model)
        self.network: nn.Module | None = None
        self.epoch = self.batch = 0
        self.loss_sum, self.correct, self.seen = 0.0, 0, 0
        self.history: list[EpochResult] = []
        self.best: EpochResult | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.seconds = 0.0

    def go_on(
        self, path: Path | None, save: Callable[..., None], save_seconds: float, save_steps: int | None, progress: bool
    ) -> None:
        """Train from where the state is to the end, saving the state in `path`."""
        path = path if distributed.is_main() else None
        started = saved = time.monotonic()
        before = self.seconds
        while self.epoch < self.task.epochs:
            for _ in self._steps(progress):
                now = time.monotonic()
                self.seconds = before + now - started
                due = save_steps is not None and self.batch % save_steps == 0
                if path is not None and (due or now - saved >= save_seconds):
                    save(path, self.task.owner, *self.state())
                    saved = time.monotonic()
            self._end_epoch()
            self.seconds = before + time.monotonic() - started
            if path is not None:
                save(path, self.task.owner, *self.state())
                saved = time.monotonic()
        self.model.load_state_dict(self.best_weights)

    def _steps(self, progress: bool) -> Iterator[None]:
        """The steps left of this epoch."""
        self.network = self.network or distributed.parallel(self.model)
        self.network.train()
        epoch = self.task.epoch(self.epoch, self.batch, self.share)
        name = f"epoch {self.epoch + 1}/{self.task.epochs}"
        with Progress(epoch.steps, name, done=self.batch, shown=progress, stays=True) as shown:
            for part in epoch.parts:
                self._step(self.network, part, epoch.steps)
                shown.advance(f"loss={self.loss_sum / self.seen:.3f}")
                yield
            shown.remark("validating")

    def _step(self, network: nn.Module, part: Part[Any], steps: int) -> None:
        if self.share.world > 1:  # each process draws numbers of its own, which no checkpoint need hold
            torch.manual_seed(mixed(self.task.seed, self.epoch, self.batch, self.share.rank))
        with self._mixed_precision():
            loss, correct = self.task.loss(network, part.batch)
        counts = torch.stack(
            [loss.detach().double() * part.samples, correct.double(), loss.new_tensor(part.samples).double()]
        )
        counts[:2] = torch.where(counts[2] > 0, counts[:2], 0.0)
        loss_sum, right, seen = distributed.total(counts).tolist()
        if not math.isfinite(loss_sum):
            raise ConfigError(
                f"the loss became {loss_sum / seen} in epoch {self.epoch + 1}, batch {self.batch + 1}; {self.task.remedy}"
            )
        self.optimiser.zero_grad(set_to_none=True)
        # Gradients are averaged over the processes; so scaled, that is the gradient of the mean over the whole batch.
        (loss if self.share.world == 1 else loss * (self.share.world * part.samples / seen)).backward()
        self.task.before_step(self.model, self.optimiser, self.epoch * steps + self.batch, self.task.epochs * steps)
        self.optimiser.step()
        if self.averaging is not None:
            done = self.epoch * steps + self.batch + 1
            # What training began with counts for little: the first steps leave less of it.
            self._average_in(min(self.averaging, done / (done + 10.0)))
        self.batch += 1
        self.loss_sum, self.correct, self.seen = (
            self.loss_sum + loss_sum,
            self.correct + int(right),
            self.seen + int(seen),
        )

    def _mixed_precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.number_type == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.number_type)

    def _average_in(self, left: float) -> None:
        """Let the average have the weights as they are now, but for the share `left` of what it was."""
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value.detach(), 1.0 - left)
            else:
                self.average[name].copy_(value)

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within the block, the model has the average of its weights, if there is one."""
        if self.averaging is None:
            yield
            return
        trained = self._weights()
        self.model.load_state_dict(self.average)
        distributed.broadcast_state(self.model)
        yield
        self.model.load_state_dict(trained)

    def _end_epoch(self) -> None:
        """Validate, keep the weights if they are the best yet, and move to the next epoch."""
        distributed.broadcast_state(self.model)  # statistics of BatchNorm are each process's own
        with self._averaged():
            found = distributed.agreed(self.task.validate(self.model))
            accuracy, loss = (math.nan, math.nan) if found is None else found
            result = EpochResult(
                self.epoch + 1, self.loss_sum / self.seen, 100.0 * self.correct / self.seen, loss, accuracy
            )
            self.history.append(result)
            if found is None or self.best is None or accuracy > self.best.validation_accuracy:
                self.best, self.best_weights = result, self._weights()
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum, self.correct, self.seen = 0.0, 0, 0

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything the rest of the training depends on: `(facts, tensors)`."""
        facts = {
            "epoch": self.epoch,
            "batch": self.batch,
            "loss_sum": self.loss_sum,
            "correct": self.correct,
            "seen": self.seen,
            "history": [dataclasses.asdict(result) for result in self.history],
            "best": None if self.best is None else self.best.epoch,
            "seconds": self.seconds,
        }
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best_weights.items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        tensors["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random.cuda"] = torch.cuda.get_rng_state(self.device)
        for number, parameter in enumerate(self._optimised()):
            for name, value in self.optimiser.state.get(parameter, {}).items():
                if value is not None:
                    tensors[f"optimiser.{number}.{name}"] = value
        return facts, tensors

    def restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Bring back what `state` returned."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "average": {}, "random": {}, "optimiser": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        self.best_weights = parts["best"]
        for name, value in self.average.items():
            value.copy_(parts["average"][name])
        parameters = self._optimised()
        for name, tensor in parts["optimiser"].items():
            number, _, key = name.partition(".")
            parameter = parameters[int(number)]
            # An optimiser goes through both in the order of memory, so a moment has to lie there as its parameter does.
            state = torch.empty_like(parameter) if tensor.shape == parameter.shape else torch.empty_like(tensor)
            self.optimiser.state[parameter][key] = state.to(self.device, tensor.dtype).copy_(tensor)
        torch.set_rng_state(parts["random"]["cpu"])
        if "cuda" in parts["random"] and self.device.type == "cuda":
            torch.cuda.set_rng_state(parts["random"]["cuda"], self.device)
        self.epoch, self.batch = facts["epoch"], facts["batch"]
        self.loss_sum, self.correct, self.seen = facts["loss_sum"], facts["correct"], facts["seen"]
        self.history = [EpochResult(**result) for result in facts["history"]]
        self.best = None if facts["best"] is None else self.history[facts["best"] - 1]
        self.seconds = facts["seconds"]

    def _optimised(self) -> list[Tensor]:
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def result(self) -> TrainingResult:
        assert self.best is not None
        return TrainingResult(tuple(self.history), self.best, self.seconds)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from `seed` within the block; afterwards, the caller's go on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _number_type(precision: str, device: torch.device) -> torch.dtype:
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(map(repr, PRECISIONS))}; got {precision!r}")
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32
