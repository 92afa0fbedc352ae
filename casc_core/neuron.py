"""The spiking neurons, as pure functions of arrays.

A neuron is a frozen configuration with one pure step; its state is a tuple passed in and returned. The code follows the
Python array API standard, so it runs on NumPy, torch and any other array library that does. The engine has compiled
versions of IF and CIF, equal to these bit for bit; any other neuron runs by the step that is written here.

A population has one threshold for each step of its count, all the same, or (`LevelThresholds`) a threshold of its own for
each level of a range, which may reach below zero.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, NamedTuple

import array_api_compat

from casc_core.errors import ConfigError
from casc_core.storage.kinds import Kinds

Array = Any


class NeuronState(NamedTuple):
    """State of a population.

    Attributes:
        v, count: membrane potential and running spike total, arrays of one shape.
        memory: what else a neuron remembers, if it does.
    """

    v: Array
    count: Array
    memory: Any = None


@dataclass(frozen=True, eq=False)
class LevelThresholds:
    """One threshold for each level of a population's count, which stays in the range `[lowest, highest]`.

    With `S` the running sum of a neuron's input and `N` its count, it may spike +1 where `S >= tau[N + 1]`, and takes a
    spike back where `S < tau[N]`. Once the input has ended, CIF settles at the number of levels above the lowest that are
    reached, `N = lowest + #{k: tau[k] <= S}`, in at most `highest - lowest` further steps: below that count the next
    threshold is reached, so it spikes up; above it the last one is not, so it spikes down. Only the final sum matters.
    Thresholds `k * theta` from 0 on are the plain neuron of the threshold `theta`.

    The membrane potential is `v = S - tau[N]`, with `tau[lowest] = 0`: a spike resets it by the step from threshold to
    threshold.

    Args:
        values: `[highest - lowest]`: `tau[lowest + 1], ..., tau[highest]`, none below the one before.
        lowest: the least count, 0 or below: every neuron begins with a count of 0.
        scale: what all of them are multiplied by: a positive number, or an array that broadcasts against the population.

    Raises:
        ConfigError: the range does not hold 0, or there is no level.

    >>> import numpy as np
    >>> thresholds = LevelThresholds(np.asarray([-1.5, -0.5, 0.5, 1.5]), lowest=-2)
    >>> CIF().run(np.asarray([2.0, 0.0, -5.0, 0.0, 0.0, 0.0]), [2] * 6, thresholds)[0]
    array([ 1.,  1., -1., -1., -1., -1.])
    """

    values: Array
    lowest: int = 0
    scale: Array = 1.0

    def __post_init__(self) -> None:
        if not self.values.shape[0] or not self.lowest <= 0 <= self.highest:
            raise ConfigError(
                f"counts begin with 0, which must lie between the lowest and the highest level; got {self.lowest} and "
                f"{self.highest}"
            )

    @property
    def highest(self) -> int:
        """The largest count."""
        return self.lowest + int(self.values.shape[0])

    def at(self, count: Array) -> Array:
        """`tau[count]` of each neuron; 0 for the lowest count."""
        xp = array_api_compat.array_namespace(self.values)
        index = xp.astype(xp.reshape(count, (-1,)), xp.int64) - self.lowest
        values = xp.take(self.values, xp.clip(index - 1, 0, self.highest - self.lowest - 1))
        return xp.reshape(xp.where(index > 0, values, xp.zeros_like(values)), count.shape) * self.scale


Threshold = Array | LevelThresholds
"""Of a population: a number, or an array that broadcasts against it; or one for each level."""


def next_step(threshold: Threshold, count: Array) -> Array:
    """How far the threshold of the next level is from that of this count."""
    if isinstance(threshold, LevelThresholds):
        return threshold.at(count + 1) - threshold.at(count)
    return threshold


def reset(threshold: Threshold, count: Array, spikes: Array) -> Array:
    """What a neuron's potential loses by these spikes, its count having been `count`."""
    if isinstance(threshold, LevelThresholds):
        return threshold.at(count + spikes) - threshold.at(count)
    return spikes * threshold


def count_range(threshold: Threshold, cap: int) -> tuple[int, int]:
    """The least and the largest count that a neuron may have."""
    return (threshold.lowest, min(threshold.highest, cap)) if isinstance(threshold, LevelThresholds) else (0, cap)


@dataclass(frozen=True, repr=False)
class Neuron(ABC):
    """A spiking neuron with soft reset: integrates its input current and emits whole spikes, of either sign, each step.

    A neuron of your own is a frozen dataclass whose `fire` says when it spikes. If it may spike more than once a step, or
    more often than there are wake steps, `peak` and `rate` must say so: sums are proven exact for no more. One that needs
    more than its potential and its count has a `step` and an `initial` of its own, and keeps the rest in
    `NeuronState.memory`. With a `warm_up`, its first steps are left out of the readout.

    >>> @dataclass(frozen=True, repr=False)
    ... class Late(Neuron):
    ...     def fire(self, state, cap, threshold):
    ...         return (state.v >= 2 * threshold) & (state.count < cap), None
    >>> import numpy as np
    >>> Late().run(np.asarray([1.5, 0.75, 0.75]), caps=[1, 2, 3])[0]
    array([0., 1., 1.])

    Args:
        initial_potential: membrane potential before the first step, in thresholds.

    Raises:
        ConfigError: it is no finite number.
    """

    kinds: ClassVar[Kinds[Neuron]] = Kinds("neuron")
    """The neurons there are, by the name that networks are saved with."""
    takes_levels: ClassVar[bool] = False
    """Whether its `fire` knows `LevelThresholds`; else it is for populations of one threshold alone."""
    kind: ClassVar[str] = ""
    initial_potential: float = field(default=0.0, kw_only=True)

    def __init_subclass__(cls, saved_as: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = Neuron.kinds.add(cls, saved_as)

    def __post_init__(self) -> None:
        value = self.initial_potential
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
            raise ConfigError(f"initial_potential, in thresholds, must be a finite number; got {value!r}")

    @property
    def peak(self) -> int:
        """The most spikes in one step."""
        return 1

    @property
    def rate(self) -> int:
        """The most spikes for each wake step begun: `count` never exceeds `rate * cap`."""
        return 1

    @property
    def warm_up(self) -> int:
        """Steps that count no more once they are over: then readout and running maxima begin with nothing."""
        return 0

    def __repr__(self) -> str:
        given = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in given)})"

    @abstractmethod
    def fire(self, state: NeuronState, cap: int, threshold: Any) -> tuple[Array, Array | None]:
        """How many spikes +1 and how many -1 (None: never) each neuron emits, given the state after integration."""

    def initial(self, current: Array, threshold: Threshold = 1.0, potential: Array | None = None) -> NeuronState:
        """The state at rest for a population that receives `current`: no spikes, and a membrane potential.

        Args:
            potential: this one, which broadcasts against `current`; None: the neuron's `initial_potential`.
        """
        xp = array_api_compat.array_namespace(current)
        nothing = xp.zeros_like(current)
        if potential is None and self.initial_potential:
            potential = self.initial_potential * next_step(threshold, nothing)
        v = nothing if potential is None else nothing + potential
        return NeuronState(v - threshold.at(nothing) if isinstance(threshold, LevelThresholds) else v, nothing)

    def step(
        self, state: NeuronState, current: Array, cap: int, threshold: Threshold = 1.0
    ) -> tuple[Array, NeuronState]:
        """One time step: `(state, current, cap) -> (spikes, state)`.

        Args:
            state: the population's state.
            current: input current of this step, same shape.
            cap: how many wake steps have begun; awake it never binds, asleep it holds the total at the wake length.
            threshold: a number, or an array that broadcasts against `current`; or `LevelThresholds`.

        Returns:
            spikes, whole numbers of the dtype of `current`, and the new state.
        """
        xp = array_api_compat.array_namespace(current)
        charged = state._replace(v=state.v + current)
        up, down = self.fire(charged, cap, threshold)
        spikes = xp.astype(up, current.dtype)
        if down is not None:
            spikes = spikes - xp.astype(down, current.dtype)
        v = charged.v - reset(threshold, state.count, spikes)
        return spikes, NeuronState(v, state.count + spikes, state.memory)

    def run(self, currents: Array, caps: Sequence[int], threshold: Threshold = 1.0) -> tuple[Array, NeuronState]:
        """All steps of `currents` `[T, ...]`, with `caps[t]` the cap of step t. Returns spikes `[T, ...]` and the state.

        >>> import numpy as np
        >>> spikes, state = CIF().run(np.asarray([1.5, 0.7, -1.4, 0.0]), caps=[1, 2, 2, 2])
        >>> spikes
        array([ 1.,  1., -1., -1.])
        """
        xp = array_api_compat.array_namespace(currents)
        if currents.shape[0] != len(caps):
            raise ValueError(f"one cap for each of {currents.shape[0]} steps; got {len(caps)}")
        state = self.initial(xp.zeros(currents.shape[1:], dtype=currents.dtype, device=currents.device), threshold)
        spikes = []
        for t, cap in enumerate(caps):
            fired, state = self.step(state, currents[t, ...], cap, threshold)
            spikes.append(fired)
        return (xp.stack(spikes) if spikes else currents), state


@dataclass(frozen=True, repr=False)
class IF(Neuron):
    """Integrate-and-fire with soft reset.

    `v += I_t`; `s_t = 1` if `v >= threshold` and `N < cap_t`, else 0; `N += s_t`; `v -= threshold * s_t`
    (the paper's Eqs. 2 and 3). It cannot take a spike back.

    >>> import numpy as np
    >>> IF().run(np.asarray([1.5, -2.0, 0.7]), caps=[1, 2, 3])[0]
    array([1., 0., 0.])
    """

    takes_levels = True

    def fire(self, state: NeuronState, cap: int, threshold: Threshold) -> tuple[Array, None]:
        _, highest = count_range(threshold, cap)
        return (state.v >= next_step(threshold, state.count)) & (state.count < highest), None


@dataclass(frozen=True, repr=False)
class CIF(Neuron):
    """The consistent IF neuron: it takes a spike back when its potential falls below zero.

    `v += I_t`; `s_t = +1` if `v >= threshold` and `N < cap_t`; `-1` if `v < 0` and `N > 0`; else 0; `N += s_t`;
    `v -= threshold * s_t` (the paper's Eq. 11). Once its input has ended it settles at
    `N = clip(floor(sum_t I_t / threshold), 0, cap)` within `cap` further steps. That is the plain case of
    `LevelThresholds`.

    >>> import numpy as np
    >>> CIF().run(np.asarray([1.5, -2.0, 0.7]), caps=[1, 2, 3])[0]
    array([ 1., -1.,  0.])
    """

    takes_levels = True

    def fire(self, state: NeuronState, cap: int, threshold: Threshold) -> tuple[Array, Array]:
        lowest, highest = count_range(threshold, cap)
        up = (state.v >= next_step(threshold, state.count)) & (state.count < highest)
        return up, (state.v < 0) & (state.count > lowest)
