"""When the network is awake: which steps receive the input and the biases."""

from __future__ import annotations

from dataclasses import dataclass

from casc_core.errors import ConfigError

# Room for as many wake steps as a neuron counts, and for layer after layer to settle behind them.
LARGEST_STEPS = 2**17


def check_steps(T: int | None) -> None:
    """Raise `ConfigError` unless `T` is None or a number of steps, between 1 and `LARGEST_STEPS`."""
    if T is None:
        return
    if isinstance(T, bool) or not isinstance(T, int) or T < 1:
        raise ConfigError(f"T, the number of time steps, must be an integer of at least 1; got {T!r}")
    if T > LARGEST_STEPS:
        raise ConfigError(f"T, the number of time steps, must be at most {LARGEST_STEPS:,}; got {T!r}")


@dataclass(frozen=True)
class Continuous:
    """Every step receives the input and the biases: the baseline of conversion methods.

    Nothing falls silent under it, so a simulation needs a number of steps `T`.

    >>> Continuous().awake(3)
    [True, True, True]
    """

    def resolved(self, q: int) -> Continuous:
        """The schedule for a network trained with `q` levels: itself."""
        return self

    @property
    def last_wake(self) -> None:
        """The last wake step: none, it never ends."""
        return None

    @property
    def levels(self) -> None:
        """The number of levels it computes with: none, it depends on how long it runs."""
        return None

    def awake(self, steps: int) -> list[bool]:
        """Whether each of the first `steps` steps is awake."""
        return [True] * steps


@dataclass(frozen=True)
class WakeSleep:
    """Wake for some steps, then sleep: no input and no bias, only spikes travel (the paper's Section 4.3).

    Args:
        wake: wake steps of a cycle; None: q, the levels the network was trained with.
        sleep: sleep steps between two cycles; None: as many as `wake`. After the last cycle the network goes on
            sleeping until it is silent, or until the `T` asked for.
        cycles: how often it wakes. The SNN computes with `wake * cycles` levels.

    Raises:
        ConfigError: a count out of range.

    >>> WakeSleep(wake=2, sleep=1, cycles=2).awake(7)
    [True, True, False, True, True, False, False]
    >>> WakeSleep().resolved(q=4)
    WakeSleep(wake=4, sleep=4, cycles=1)
    """

    wake: int | None = None
    sleep: int | None = None
    cycles: int = 1

    def __post_init__(self) -> None:
        for name, value, least in (("wake", self.wake, 1), ("sleep", self.sleep, 0), ("cycles", self.cycles, 1)):
            if value is None and name != "cycles":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"WakeSleep: {name} must be an integer of at least {least}; got {value!r}")
            if value > LARGEST_STEPS:
                raise ConfigError(f"WakeSleep: {name} is {value:,}; more than {LARGEST_STEPS:,} steps cannot be run")
        if self.wake is not None and self.sleep is not None and self.last_wake > LARGEST_STEPS:
            raise ConfigError(
                f"WakeSleep: it would wake until step {self.last_wake:,}; more than {LARGEST_STEPS:,} steps cannot be run: "
                f"choose fewer cycles or shorter ones (wake={self.wake}, sleep={self.sleep}, cycles={self.cycles})"
            )

    def resolved(self, q: int) -> WakeSleep:
        """The schedule for a network trained with `q` levels: its open lengths filled in."""
        wake = q if self.wake is None else self.wake
        return WakeSleep(wake, wake if self.sleep is None else self.sleep, self.cycles)

    def _lengths(self) -> tuple[int, int]:
        if self.wake is None or self.sleep is None:
            raise ConfigError("WakeSleep: its lengths depend on q; call resolved(q) first")
        return self.wake, self.sleep

    @property
    def last_wake(self) -> int:
        """The last wake step, counted from 1."""
        wake, sleep = self._lengths()
        return (wake + sleep) * (self.cycles - 1) + wake

    @property
    def levels(self) -> int:
        """All wake steps together: the number of levels the SNN computes with."""
        return self._lengths()[0] * self.cycles

    def awake(self, steps: int) -> list[bool]:
        """Whether each of the first `steps` steps is awake."""
        wake, sleep = self._lengths()
        return [step < self.last_wake and step % (wake + sleep) < wake for step in range(steps)]


Schedule = Continuous | WakeSleep
