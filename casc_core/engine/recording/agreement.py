"""How far the spike counts of a run are from the levels of the reference, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.recording.spike_counts import LayerTrain
from casc_core.engine.signal import memory_order
from casc_core.errors import ConfigError


@dataclass
class LayerAgreement:
    """One layer after each step, summed over its neurons and samples, `[steps]` int64; after the last, it stays so.

    A neuron of level `l` of `q` should have emitted `l * a / q` spikes after `a` wake steps.

    Attributes:
        more, fewer: neurons that are at least one whole spike above, or below.
        error: sum of `|count * q - l * a|`.
        levels: sum of the levels' magnitudes.
    """

    more: Tensor
    fewer: Tensor
    error: Tensor
    levels: int


@dataclass
class PositionAgreement:
    """A recurrent layer at the end of a run, by token position, `[length]` float64 each, summed over texts.

    Attributes:
        neurons: how many there are, in texts that reach so far. differing: of these, at least one spike off.
        last_spike: sum over texts of the last step at which any neuron of the position spiked.
        texts: how many reach so far.
    """

    neurons: Tensor
    differing: Tensor
    last_spike: Tensor
    texts: Tensor


@dataclass
class Agreement:
    """What is compared with the reference in a run, and what comes of it.

    Args:
        levels: every neuron's level in the reference, by layer.
        q: the number of levels.
        awake: for each step of the run, how many wake steps there have been (since the warm-up, once it is over).
        warm_up: steps after which spikes are counted anew.
    """

    levels: Mapping[str, Tensor]
    q: int
    awake: Sequence[int]
    warm_up: int = 0
    layers: dict[str, LayerAgreement] = field(default_factory=dict)
    positions: dict[str, PositionAgreement] = field(default_factory=dict)

    def layer(self, name: str, train: Tensor) -> None:
        """Compare a layer's train `[steps, *shape]`.

        Raises:
            ConfigError: the levels are those of another layer.
        """
        levels = self.levels[name]
        if train.shape[1:] != levels.shape:
            raise ConfigError(
                f"layer {name!r} of shape {list(train.shape[1:])} cannot be compared with levels of another, "
                f"{list(levels.shape)}"
            )
        order = memory_order(train) or tuple(range(train.dim()))
        if order[0] == 0:
            train, levels = train.permute(order), levels.permute([dim - 1 for dim in order[1:]])
        steps = max(len(train), min(len(self.awake), _last_change(self.awake)))
        awake = [*self.awake[:steps], *[self.awake[-1]] * (steps - len(self.awake))]
        more, fewer, error = agreement(train.flatten(1), levels.reshape(-1), self.q, awake, self.warm_up)
        self.layers[name] = LayerAgreement(more, fewer, error, int(levels.abs().sum(dtype=torch.int64)))

    def by_position(self, emitted: LayerTrain, spiking: Tensor) -> None:
        """Compare a recurrent layer's train, position by position.

        `spiking` `[steps, B, L]` (or `[steps, L, B]`, as the train has them): how many neurons of a position spike.
        """
        train, lengths, levels = emitted.train, emitted.lengths, self.levels[emitted.layer]
        if emitted.position_axis == 0:
            train, spiking, levels = train.transpose(1, 2), spiking.transpose(1, 2), levels.transpose(0, 1)
        texts, length, hidden = levels.shape
        counted = train[self.warm_up if len(train) > self.warm_up else 0 :]
        fast = counted.is_contiguous() and counted.dtype == torch.int8 and kernels.ready(counted)
        count = kernels.sum_middle(counted, 0) if fast else counted.sum(0, dtype=torch.int32)
        whole = _whole(train, levels, self.q, self.awake[-1])
        off = (count.to(whole) * self.q - levels.to(whole) * self.awake[-1]).abs() >= self.q
        step = torch.arange(1, len(train) + 1, device=train.device).reshape(-1, 1, 1)
        last = ((spiking != 0) * step).amax(0) if len(train) else torch.zeros(texts, length, device=train.device)
        reached = torch.full((length,), float(texts), dtype=torch.float64)
        if lengths is not None:
            reached = (lengths.cpu()[:, None] > torch.arange(length)).sum(0).double()
        self.positions[emitted.layer] = PositionAgreement(
            reached * hidden, off.sum((0, 2)).double().cpu(), last.sum(0).double().cpu(), reached
        )


def _last_change(awake: Sequence[int]) -> int:
    """How many steps there are until the number of wake steps is what it is at the end."""
    steps = len(awake)
    while steps > 1 and awake[steps - 2] == awake[-1]:
        steps -= 1
    return steps


def _whole(train: Tensor, levels: Tensor, q: int, awake: int) -> torch.dtype:
    """The cheapest type that holds `count * q - level * awake`, whatever is in a train and in levels of these types."""
    reach = (torch.iinfo(train.dtype).max + 1) * len(train) * q + (torch.iinfo(levels.dtype).max + 1) * awake
    return torch.int32 if reach < kernels.INT32_UNITS else torch.int64


def agreement(
    train: Tensor, levels: Tensor, q: int, awake: Sequence[int], warm_up: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Neurons with more and with fewer spikes than their level asks for after each step, and the sum of errors.

    Args:
        train: `[arriving, n]`; nothing spikes afterwards. levels: `[n]`.
        q, awake, warm_up: as `Agreement` takes them; `len(awake)` steps are looked at.

    >>> train = torch.tensor([[1, 0], [1, 0]], dtype=torch.int8)
    >>> more, fewer, error = agreement(train, torch.tensor([1, 1], dtype=torch.int16), 2, [1, 2, 2])
    >>> more.tolist(), fewer.tolist(), error.tolist()
    ([0, 1, 1], [0, 1, 1], [2, 4, 4])
    """
    if 0 < warm_up < len(awake):
        before = agreement(train[:warm_up], levels, q, awake[:warm_up])
        after = agreement(train[warm_up:], levels, q, awake[warm_up:])
        more, fewer, error = (torch.cat(parts) for parts in zip(before, after, strict=True))
        return more, fewer, error
    small = train.dtype == torch.int8 and levels.dtype in (torch.int8, torch.int16)
    if small and kernels.ready(train, levels):
        return kernels.agreement(train, levels, q, awake)
    more, fewer, error = torch.zeros((3, len(awake)), dtype=torch.int64, device=train.device)
    whole = _whole(train, levels, q, max(awake))
    count, wanted = torch.zeros_like(levels, dtype=whole), levels.to(whole)
    for step, wake in enumerate(awake):
        if step < len(train):
            count += train[step]
        off = count * q - wanted * wake
        more[step], fewer[step], error[step] = (off >= q).sum(), (off <= -q).sum(), off.abs().sum(dtype=torch.int64)
    return more.cpu(), fewer.cpu(), error.cpu()
