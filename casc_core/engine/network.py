"""A lowered network: its operations, the programs that call them, and how it was converted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from casc_core.engine.ops import Op
from casc_core.engine.program import Program
from casc_core.engine.run import LARGEST_TOTAL, checked_total
from casc_core.errors import ConfigError
from casc_core.neuron import Neuron
from casc_core.numerics import Numerics
from casc_core.schedule import Schedule

Programs = Mapping[frozenset[str], Program]
"""By the arguments that are given: a program for each way of calling the model."""


@dataclass(frozen=True)
class Settings:
    """How a network was converted.

    Attributes:
        adapter: name of the adapter.
        q: levels it was trained with.
        neuron, schedule, numerics: what simulates it.
        arguments: names of the arguments of the model's forward, in order.
    """

    adapter: str
    q: int
    neuron: Neuron
    schedule: Schedule
    numerics: Numerics
    arguments: tuple[str, ...]

    @property
    def levels(self) -> int:
        """Levels of `reference`: all wake steps together, or q where the network never sleeps."""
        return self.schedule.levels or self.q

    @property
    def most_spikes(self) -> int:
        """The most spikes of a neuron in any run; where the network never sleeps, as many as runs can count."""
        levels = self.schedule.levels
        return LARGEST_TOTAL if levels is None else min(levels * self.neuron.rate, LARGEST_TOTAL)


class Network(NamedTuple):
    """All that a spiking network is made of.

    Attributes:
        ops: the operations, by number.
        programs: by the arguments that are given.
        layers: names of the populations, in order.
        settings: how it was converted.
    """

    ops: list[Op]
    programs: Programs
    layers: tuple[str, ...]
    settings: Settings

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of all operations, by number and name."""
        return {f"{index}.{name}": tensor for index, op in enumerate(self.ops) for name, tensor in op.tensors().items()}

    def in_order_of_calls(self) -> Network:
        """With the operations that are called, in the order of their first calls, and results named likewise.

        Two networks that compute the same in the same order are then the same, whatever else was made on the way to them.
        """
        called = dict.fromkeys(step.op for program in self.programs.values() for step in program.steps)
        number = {old: new for new, old in enumerate(called)}
        programs = {key: program.renumbered(number).renamed() for key, program in self.programs.items()}
        return self._replace(ops=[self.ops[old] for old in called], programs=programs)


def resolved_schedule(schedule: Schedule, q: int) -> Schedule:
    """`schedule` for a network trained with `q` levels; warns where it computes with another number of them.

    Raises:
        ConfigError: it is no schedule, or has more levels than neurons can count.
    """
    if not isinstance(schedule, Schedule):
        raise ConfigError(f"schedule must be WakeSleep(...) or Continuous(), an instance; got {schedule!r}")
    resolved = schedule.resolved(q)
    checked_total(resolved.levels or q)
    if resolved.levels not in (None, q):
        warnings.warn(
            f"{resolved} computes with {resolved.levels} levels, but the model was trained with q={q}: the reference is "
            "the network with that many levels, not the one that was trained",
            stacklevel=3,
        )
    return resolved
