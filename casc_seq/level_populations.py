"""Populations with one threshold for each level: what level a running total reaches, and how the count follows it.

A neuron whose count is N spikes +1 where its total reaches the threshold of level N + 1, and -1 where it does not reach
that of level N. So its count goes towards the level that the total has reached, by one each step, and stays there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from casc_core.engine.run import Run, SpikingRun
from casc_core.errors import ConfigError
from casc_core.neuron import CIF, IF


def logit_thresholds(levels: int) -> Tensor:
    """Totals at which `floor(q sigmoid(x) + 1/2)` steps, in levels: `q logit((k - 1/2) / q)`, k = 1..q.

    >>> logit_thresholds(2)
    tensor([-2.1972,  2.1972], dtype=torch.float64)
    """
    return levels * torch.logit((torch.arange(1, levels + 1, dtype=torch.float64) - 0.5) / levels)


def atanh_thresholds(levels: int) -> Tensor:
    """Totals at which `floor(q tanh(x) + 1/2)` steps, in levels: `q atanh((k - 1/2) / q)`, k = -q+1..q.

    >>> atanh_thresholds(1)
    tensor([-0.5493,  0.5493], dtype=torch.float64)
    """
    return levels * torch.atanh((torch.arange(1 - levels, levels + 1, dtype=torch.float64) - 0.5) / levels)


def table_of(levels: int, reach: int) -> Tensor:
    """`floor(q tanh(c / q) + 1/2)` of each cell from `-reach` to `reach`, float64.

    >>> table_of(2, 4)
    tensor([-2., -2., -2., -1.,  0.,  1.,  2.,  2.,  2.], dtype=torch.float64)
    """
    cells = torch.arange(-reach, reach + 1, dtype=torch.float64)
    return (levels * torch.tanh(cells / levels) + 0.5).floor()


def reached(totals: Tensor, thresholds: Tensor, lowest: int) -> Tensor:
    """The level that each total reaches, int16: the lowest, and one more for each threshold that is no larger than it."""
    levels = torch.bucketize(totals.contiguous(), thresholds.to(totals), right=True, out_int32=True)
    return (levels + lowest).to(torch.int16)


def nearest_level(totals: Tensor, highest: int, unit: int = 1) -> Tensor:
    """Totals in levels, rounded to the nearest within `-highest .. highest`, int16: `floor(total / unit + 1/2)`."""
    if totals.is_floating_point():
        rounded = (totals / unit + 0.5).floor()
    else:
        rounded = torch.div(2 * totals + unit, 2 * unit, rounding_mode="floor")
    return rounded.clamp(-highest, highest).to(torch.int16)


def hold(totals: Tensor, steps: int) -> Tensor:
    """Running totals over more steps: they stay what they were; of no steps, zero."""
    missing = steps - len(totals)
    if missing <= 0:
        return totals
    last = totals[-1:] if len(totals) else totals.new_zeros((1, *totals.shape[1:]))
    return torch.cat([totals, last.expand(missing, *last.shape[1:])])


def settle(run: Run, wanted: Tensor) -> Tensor:
    """The counts of a population, `[steps, ...]` int16, that follow the levels that its totals have reached at each step.

    In levels they are there at once. In spikes it takes one step for each level, and goes on until they are there or the
    run ends.

    Raises:
        ConfigError: the run's neurons are neither IF nor CIF.
    """
    if not isinstance(run, SpikingRun):
        return wanted
    if type(run.neuron) not in (IF, CIF) or run.neuron.initial_potential:
        raise ConfigError(
            f"{run.neuron} has no form with one threshold for each level, as gates need: use CIF() or IF()"
        )
    back = -1 if isinstance(run.neuron, CIF) else 0
    count = torch.zeros_like(wanted[0])
    counts: list[Tensor] = []
    while run.steps is None or len(counts) < run.steps:
        there = len(counts) >= len(wanted)
        move = (wanted[-1 if there else len(counts)] - count).clamp_(back, 1)
        if there and not move.any():
            break
        count = count + move
        counts.append(count)
    while len(counts) > 1 and torch.equal(counts[-1], counts[-2]):
        counts.pop()
    return torch.stack(counts)
