"""The spiking neurons, as pure functions of arrays.

A neuron is a frozen configuration with one pure step; its state is a tuple passed in and returned. The code follows the
Python array API standard, so it runs on NumPy, torch and any other array library that does. The engine holds fused
versions, equal to these bit for bit.
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
    """State of a population: membrane potential `v` and running spike total `count`, arrays of one shape."""

    v: Array
    count: Array


@dataclass(frozen=True, repr=False)
class Neuron(ABC):
    """A spiking neuron with soft reset: integrates its input current and emits whole spikes, of either sign, each step.

    Args:
        initial_potential: membrane potential before the first step, in thresholds.

    Raises:
        ConfigError: it is no finite number.
    """

    kinds: ClassVar[Kinds[Neuron]] = Kinds("neuron")
    """The neurons there are, by the name that networks are saved with."""
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
    def share(self) -> int:
        """The most spikes for each wake step begun."""
        return 1

    @property
    def restarts_after(self) -> int | None:
        """The step after which populations, and what counts their spikes, begin anew; None: they never do."""
        return None

    def __repr__(self) -> str:
        given = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in given)})"

    @abstractmethod
    def fire(self, state: NeuronState, cap: int, threshold: Array) -> tuple[Array, Array | None]:
        """How many spikes +1 and how many -1 (None: never) each neuron emits, given the state after integration."""

    def initial(self, current: Array, threshold: Array = 1.0) -> NeuronState:
        """The state at rest for a population that receives `current`: its initial potential, no spikes."""
        xp = array_api_compat.array_namespace(current)
        nothing = xp.zeros_like(current)
        return NeuronState(nothing + self.initial_potential * threshold if self.initial_potential else nothing, nothing)

    def restarted(self, state: NeuronState, start: NeuronState) -> NeuronState:
        """The state with which a population begins anew, from the one it had come to; `start`: that at rest."""
        return start

    def step(self, state: NeuronState, current: Array, cap: int, threshold: Array = 1.0) -> tuple[Array, NeuronState]:
        """One time step: `(state, current, cap) -> (spikes, state)`.

        Args:
            state: the population's state.
            current: input current of this step, same shape.
            cap: how many wake steps have begun; awake it never binds, asleep it holds the total at the wake length.
            threshold: a number, or an array that broadcasts against `current`.

        Returns:
            spikes, whole numbers of the dtype of `current`, and the new state.
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
        start = state = self.initial(
            xp.zeros(currents.shape[1:], dtype=currents.dtype, device=currents.device), threshold
        )
        spikes = []
        for t, cap in enumerate(caps):
            if t == self.restarts_after:
                state = self.restarted(state, start)
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

    def fire(self, state: NeuronState, cap: int, threshold: Array) -> tuple[Array, None]:
        return (state.v >= threshold) & (state.count < cap), None


@dataclass(frozen=True, repr=False)
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


@dataclass(frozen=True, repr=False)
class SNM(Neuron):
    """The signed neuron with memory (Wang et al. 2022, "Signed Neuron with Memory", IJCAI).

    `v += I_t`; `s_t = +1` if `v >= threshold`; `-1` if `v <= -threshold` and `N > 0`; else 0; `N += s_t`;
    `v -= threshold * s_t`. It takes a spike back like CIF, but only once a whole threshold is missing, so it may settle
    one spike too high.

    >>> import numpy as np
    >>> SNM().run(np.asarray([1.5, -1.25, -1.0]), caps=[1, 2, 3])[0]
    array([ 1.,  0., -1.])
    """

    def fire(self, state: NeuronState, cap: int, threshold: Array) -> tuple[Array, Array]:
        return (state.v >= threshold) & (state.count < cap), (state.v <= -threshold) & (state.count > 0)


@dataclass(frozen=True, repr=False)
class Burst(Neuron):
    """IF that may emit several spikes in one step (Li and Zeng 2022, "Efficient and Accurate Conversion of Spiking Neural
    Network with Burst Spikes", IJCAI).

    `v += I_t`; `s_t = clip(floor(v / threshold), 0, gamma)`; `N += s_t`; `v -= threshold * s_t`. What is left in the
    membrane leaves it sooner. As published, a neuron may emit up to gamma spikes a step on average, which is no match for a
    clipped activation; `clipped` holds the total within one for each step.

    Args:
        gamma: the most spikes in one step; the paper's choice is 5.
        clipped: `N` never exceeds the wake steps begun.

    Raises:
        ConfigError: gamma is not an integer of at least 1 (and at most 127, since a train is kept in bytes).

    >>> import numpy as np
    >>> Burst(gamma=2).run(np.asarray([3.5, 0.0, -1.0]), caps=[1, 2, 3])[0]
    array([2., 1., 0.])
    """

    gamma: int = 5
    clipped: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.gamma, bool) or not isinstance(self.gamma, int) or not 1 <= self.gamma <= 127:
            raise ConfigError(f"Burst: gamma must be an integer from 1 to 127; got {self.gamma!r}")
        if not isinstance(self.clipped, bool):
            raise ConfigError(f"Burst: clipped must be True or False; got {self.clipped!r}")

    @property
    def peak(self) -> int:
        return self.gamma

    @property
    def share(self) -> int:
        return 1 if self.clipped else self.gamma

    def fire(self, state: NeuronState, cap: int, threshold: Array) -> tuple[Array, None]:
        xp = array_api_compat.array_namespace(state.v)
        up = xp.zeros_like(state.v)
        for spikes in range(1, self.gamma + 1):
            ready = (state.v >= spikes * threshold) & (state.count + spikes <= self.share * cap)
            up = up + xp.astype(ready, state.v.dtype)
        return up, None


@dataclass(frozen=True, repr=False)
class SRP(Neuron):
    """IF in two stages (Hao et al. 2023, "Reducing ANN-SNN Conversion Error through Residual Membrane Potential", AAAI).

    For `tau` steps it is IF, from `v = threshold / 2`. A neuron whose residual potential `v` is then below zero has
    emitted spikes that it should not have: it stays silent from there on. All others begin anew, from `threshold / 2`, and
    the readout counts the second stage alone.

    Args:
        tau: steps of the first stage; the paper's choice for CIFAR-100 is 4, for ImageNet more.

    Raises:
        ConfigError: tau is not an integer of at least 1.

    >>> import numpy as np
    >>> SRP(tau=2).run(np.asarray([[1.0, 0.5], [-2.0, 0.5], [1.0, 0.5], [1.0, 0.5]]), caps=[1, 2, 3, 4])[0]
    array([[1., 1.],
           [0., 0.],
           [0., 1.],
           [0., 0.]])
    """

    initial_potential: float = field(default=0.5, kw_only=True)
    tau: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.tau, bool) or not isinstance(self.tau, int) or not 1 <= self.tau <= 2**31:
            raise ConfigError(f"SRP: tau must be an integer of at least 1; got {self.tau!r}")

    @property
    def restarts_after(self) -> int:
        return self.tau

    def fire(self, state: NeuronState, cap: int, threshold: Array) -> tuple[Array, None]:
        return (state.v >= threshold) & (state.count < cap), None

    def restarted(self, state: NeuronState, start: NeuronState) -> NeuronState:
        xp = array_api_compat.array_namespace(state.v)
        # A count that no cap exceeds keeps a neuron silent.
        return NeuronState(start.v, xp.where(state.v < 0, xp.full_like(state.v, SILENCED), start.count))


SILENCED = 2.0**24
"""More spikes than any cap allows."""
NEURONS: dict[str, type[Neuron]] = {kind.__name__: kind for kind in (IF, CIF, SNM, Burst, SRP)}
