"""What a network's activations are on some data: watched, and counted in histograms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from casc_core.conversion.batches import output_of
from casc_core.errors import ConfigError, InputError

_BINS = 4096


@torch.no_grad()
def watched(
    model: nn.Module, names: list[str], batches: list[tuple[Any, ...]], see: Callable[[str, Tensor], None]
) -> list[Tensor]:
    """The outputs for these batches, `see` being told what each of the named modules gives."""

    def watch(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: see(name, output)

    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    try:
        return [output_of(model, batch) for batch in batches]
    finally:
        for handle in handles:
            handle.remove()


class Histogram:
    """How often which positive value occurs, its range growing as it must: `[rows, bins]` over `[0, reach]`."""

    def __init__(self, per_channel: bool) -> None:
        self.per_channel, self.reach = per_channel, 0.0
        self.counts = torch.zeros(0, _BINS, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        """Count `values` `[batch, channels, ...]`.

        Raises:
            InputError: there are none, or some are not finite. ConfigError: they have no channels, or other ones.
        """
        if not values.numel():
            raise InputError(f"an activation of shape {list(values.shape)} is empty: leave empty batches out")
        if self.per_channel and values.dim() < 2:
            raise ConfigError(f"an activation of shape {list(values.shape)} has no channels: use per_channel=False")
        rows = values.transpose(0, 1).flatten(1) if self.per_channel else values.reshape(1, -1)
        rows = rows.cpu().double()
        if not len(self.counts):
            self.counts = torch.zeros(len(rows), _BINS, dtype=torch.int64)
        if len(rows) != len(self.counts):
            raise ConfigError(
                f"an activation is called with {len(self.counts)} and with {len(rows)} channels: use per_channel=False, or "
                "a module for each place"
            )
        largest = float(rows.max())
        if not math.isfinite(largest):
            raise InputError("the network's activations are NaN or infinite: check inputs and weights")
        if self.reach == 0.0:
            self.reach = largest
        while largest > self.reach:  # two bins become one
            self.counts = torch.cat([self.counts.unflatten(1, (-1, 2)).sum(2), torch.zeros_like(self.counts)], 1)
            self.counts, self.reach = self.counts[:, :_BINS], 2 * self.reach
        if self.reach == 0.0:
            return
        index = (rows * (_BINS / self.reach)).long().clamp_(max=_BINS - 1)
        index += torch.arange(len(rows))[:, None] * _BINS
        self.counts += torch.bincount(index[rows > 0], minlength=self.counts.numel()).view_as(self.counts)

    def percentile(self, percent: float) -> Tensor:
        """The upper end of the bin that holds this percentile: `[rows]`, or one number. Where nothing was active: 1."""
        total = self.counts.sum(1)
        needed = torch.ceil(total * (percent / 100.0)).clamp_(min=1)
        bins = (self.counts.cumsum(1) < needed[:, None]).sum(1)
        ends = (bins + 1).double() * (self.reach / _BINS)
        ends = torch.where(total > 0, ends, 1.0).float()
        return ends if self.per_channel else ends[0]

    def rounding_error(self, threshold: Tensor, q: int, half_step: bool) -> Tensor:
        """The sum of the squared errors that rounding to `q` levels makes of the positive values, by row.

        Args:
            threshold: `[rows]`, or one number.
        """
        values = (torch.arange(_BINS, dtype=torch.float64) + 0.5) * (self.reach / _BINS)
        step = threshold.double().reshape(-1, 1) / q
        levels = (values / step + half_step / 2).floor_().clamp_(0.0, float(q))
        errors = ((levels * step - values).square_() * self.counts).sum(1)
        return errors if self.per_channel else errors[0]
