"""The neurons of other methods, in the style of `casc_core.neuron`; they run in the engine's plain loop."""

from __future__ import annotations

from dataclasses import dataclass, field

import array_api_compat

from casc_core.errors import ConfigError
from casc_core.neuron import Array, Neuron, NeuronState

SILENCED = 2.0**24
"""More spikes than any cap allows."""


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
    def rate(self) -> int:
        return 1 if self.clipped else self.gamma

    def fire(self, state: NeuronState, cap: int, threshold: Array) -> tuple[Array, None]:
        xp = array_api_compat.array_namespace(state.v)
        up = xp.zeros_like(state.v)
        for spikes in range(1, self.gamma + 1):
            ready = (state.v >= spikes * threshold) & (state.count + spikes <= self.rate * cap)
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
    def warm_up(self) -> int:
        return self.tau

    def fire(self, state: NeuronState, cap: int, threshold: Array) -> tuple[Array, None]:
        return (state.v >= threshold) & (state.count < cap), None

    def initial(self, current: Array, threshold: Array = 1.0, potential: Array | None = None) -> NeuronState:
        start = super().initial(current, threshold, potential)
        return start._replace(memory=start.v)  # from which the second stage begins too

    def step(self, state: NeuronState, current: Array, cap: int, threshold: Array = 1.0) -> tuple[Array, NeuronState]:
        if cap == self.tau + 1:  # a step of its own under continuous input, with which it runs alone
            xp = array_api_compat.array_namespace(current)
            # A count that no cap exceeds keeps a neuron silent.
            count = xp.where(state.v < 0, xp.full_like(state.v, SILENCED), xp.zeros_like(state.v))
            state = state._replace(v=state.memory, count=count)
        return super().step(state, current, cap, threshold)
