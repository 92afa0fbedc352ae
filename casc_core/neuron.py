"""The spiking neurons, as pure functions of arrays.

A neuron is a frozen configuration with one pure step; its state is a tuple passed in and returned. The code follows the
Python array API standard, so it runs on NumPy, torch and any other array library that does. `casc_core.scan` holds the
fused versions, equal to these bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import array_api_compat

Array = Any


class NeuronState(NamedTuple):
    """State of a population: membrane potential `v` and running spike total `count`, arrays of one shape."""

    v: Array
    count: Array


class Neuron(ABC):
    """A spiking neuron with soft reset: integrates its input current and emits -1, 0 or +1 at each step."""

    @abstractmethod
    def fire(self, state: NeuronState, cap: int, threshold: Array) -> tuple[Array, Array | None]:
        """Which neurons emit +1 and which emit -1 (None: never), given the state after integration."""

    def initial(self, current: Array) -> NeuronState:
        """The state at rest for a population that receives `current`: zero potential, no spikes."""
        xp = array_api_compat.array_namespace(current)
        return NeuronState(xp.zeros_like(current), xp.zeros_like(current))

    def step(self, state: NeuronState, current: Array, cap: int, threshold: Array = 1.0) -> tuple[Array, NeuronState]:
        """One time step: `(state, current, cap) -> (spikes, state)`.

        Args:
            state: the population's state.
            current: input current of this step, same shape.
            cap: how many wake steps have begun; awake it never binds, asleep it holds the total at the wake length.
            threshold: a number, or an array that broadcasts against `current`.

        Returns:
            spikes in {-1, 0, 1}, of the dtype of `current`, and the new state.
        """
        xp = array_api_compat.array_namespace(current)
        charged = NeuronState(state.v + current, state.count)
        up, down = self.fire(charged, cap, threshold)
        spikes = xp.astype(up, current.dtype)
        if down is not None:
            spikes = spikes - xp.astype(down, current.dtype)
        return spikes, NeuronState(charged.v - spikes * threshold, state.count + spikes)

    def run(self, currents: Array, caps: Sequence[int], threshold: Array = 1.0) -> tuple[Array, NeuronState]:
        """All steps of `currents` `[T, ...]`, with `caps[t]` the cap of step t. Returns spikes `[T, ...]` and the state.

        >>> import numpy as np
        >>> spikes, state = CIF().run(np.asarray([1.5, 0.7, -1.4, 0.0]), caps=[1, 2, 2, 2])
        >>> spikes
        array([ 1.,  1., -1., -1.])
        """
        xp = array_api_compat.array_namespace(currents)
        if currents.shape[0] != len(caps):
            raise ValueError(f"one cap for each of {currents.shape[0]} steps; got {len(caps)}")
        state = self.initial(xp.zeros(currents.shape[1:], dtype=currents.dtype, device=currents.device))
        spikes = []
        for t, cap in enumerate(caps):
            fired, state = self.step(state, currents[t, ...], cap, threshold)
            spikes.append(fired)
        return (xp.stack(spikes) if spikes else currents), state


@dataclass(frozen=True)
class IF(Neuron):
    """Integrate-and-fire with soft reset.

    `v += I_t`; `s_t = 1` if `v >= threshold` and `N < cap_t`, else 0; `N += s_t`; `v -= threshold * s_t`
    (the paper's Eqs. 2 and 3). It cannot take a spike back.

    >>> import numpy as np
    >>> IF().run(np.asarray([1.5, -2.0, 0.7]), caps=[1, 2, 3])[0]
    array([1., 0., 0.])
    """

    def fire(self, state: NeuronState, cap: int, threshold: Array) -> tuple[Array, None]:
        return (state.v >= threshold) & (state.count < cap), None


@dataclass(frozen=True)
class CIF(Neuron):
    """The consistent IF neuron: it takes a spike back when its potential falls below zero.

    `v += I_t`; `s_t = +1` if `v >= threshold` and `N < cap_t`; `-1` if `v < 0` and `N > 0`; else 0; `N += s_t`;
    `v -= threshold * s_t` (the paper's Eq. 11). Once its input has ended it settles at
    `N = clip(floor(sum_t I_t / threshold), 0, cap)` within `cap` further steps.

    >>> import numpy as np
    >>> CIF().run(np.asarray([1.5, -2.0, 0.7]), caps=[1, 2, 3])[0]
    array([ 1., -1.,  0.])
    """

    def fire(self, state: NeuronState, cap: int, threshold: Array) -> tuple[Array, Array]:
        return (state.v >= threshold) & (state.count < cap), (state.v < 0) & (state.count > 0)


NEURONS: dict[str, type[Neuron]] = {"IF": IF, "CIF": CIF}
