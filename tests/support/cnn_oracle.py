"""An independent simulation of small spiking CNNs in NumPy: time outermost, every layer a step of its own.

It shares no code with the library and follows the definitions word for word. Numbers lie on a coarse power-of-two grid, so
that float64 computes everything here without rounding; with `exactly`, in fractions, whatever the divisors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from oracle import grid_array

exactly = np.vectorize(Fraction, otypes=[object])


def convolve(x: np.ndarray, w: np.ndarray, stride: int = 1, padding: int = 0, groups: int = 1) -> np.ndarray:
    """`[N, C, H, W]` and `[O, C/groups, k, k]`: a sum over the taps."""
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    kernel, each_in, each_out = w.shape[2], w.shape[1], w.shape[0] // groups
    height, width = ((size - kernel) // stride + 1 for size in x.shape[2:])
    out = np.zeros((len(x), w.shape[0], height, width), dtype=x.dtype) + 0 * w.flat[0]
    for group in range(groups):
        own, its = x[:, group * each_in : (group + 1) * each_in], slice(group * each_out, (group + 1) * each_out)
        for i in range(kernel):
            for j in range(kernel):
                read = own[:, :, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
                out[:, its] += np.einsum("ncyx,oc->noyx", read, w[its, :, i, j])
    return out


def over_windows(
    x: np.ndarray, kernel: int, stride: int, padding: int, reduce: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """`reduce` of what each window holds of the input, `[N, C, k, k]` or less at the borders, to `[N, C]`."""
    spans = [
        [
            (max(0, at - padding), min(size, at - padding + kernel))
            for at in range(0, size + 2 * padding - kernel + 1, stride)
        ]
        for size in x.shape[2:]
    ]
    rows = [np.stack([reduce(x[:, :, a:b, c:d]) for c, d in spans[1]], -1) for a, b in spans[0]]
    return np.stack(rows, -2)


def largest(window: np.ndarray) -> np.ndarray:
    return window.max((2, 3))


def average(window: np.ndarray) -> np.ndarray:
    return window.sum((2, 3)) / (window.shape[2] * window.shape[3])


def total_of(window: np.ndarray) -> np.ndarray:
    return window.sum((2, 3))


@dataclass
class Population:
    """IF, or with `negative` CIF neurons."""

    threshold: np.ndarray
    negative: bool
    v: np.ndarray | float = 0.0
    count: np.ndarray | float = 0.0

    def step(self, current: np.ndarray, cap: int) -> np.ndarray:
        """What flows on: spikes, each worth the threshold."""
        threshold = self.threshold.reshape(-1, *[1] * (current.ndim - 2))
        self.v = self.v + current
        up = (self.v >= threshold) & (self.count < cap)
        down = (self.v < 0) & (self.count > 0) & self.negative & ~up
        spikes = up.astype(np.int64) - down.astype(np.int64)
        self.v = self.v - threshold * spikes
        self.count = self.count + spikes
        self.spikes = spikes
        return threshold * spikes


@dataclass
class RunningMaximum:
    """`pool(S_t) - pool(S_{t-1})`, S the running total of its input."""

    pool: Callable[[np.ndarray], np.ndarray]
    total: np.ndarray | float = 0.0
    before: np.ndarray | float = 0.0

    def step(self, x: np.ndarray) -> np.ndarray:
        self.total = self.total + x
        now = self.pool(self.total)
        change, self.before = now - self.before, now
        return change


@dataclass
class Norm:
    """Batch normalisation with fixed statistics; the factor is a power of two."""

    mean: np.ndarray
    factor: np.ndarray
    offset: np.ndarray

    @staticmethod
    def random(rng: np.random.Generator, channels: int) -> Norm:
        factor = 2.0 ** rng.integers(-1, 2, channels) * rng.choice((1, 1, 1, -1), channels)
        return Norm(grid_array(rng, channels, scale=0.3), factor, grid_array(rng, channels, scale=0.5))

    def step(self, x: np.ndarray, wake: bool) -> np.ndarray:
        """The spikes' part is only multiplied; the constant part flows while awake."""
        shift = (self.offset - self.factor * self.mean) * wake
        return x * self.factor.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)


@dataclass
class Run:
    """What a simulation leaves: the populations' spike totals, the readout after each step `[T, N, 3]`, the last step `[N]`
    at which anything spiked, and, where the pools are maxima, how many synapses the spikes passed at each step on their
    way to each population and to the readout `[T, 5]`."""

    counts: list[np.ndarray]
    readouts: np.ndarray
    last: np.ndarray
    operations: np.ndarray


def synapses(traffic: np.ndarray, w: np.ndarray, padding: int = 0, groups: int = 1) -> int:
    """How many weights of a convolution some spikes meet, so many of them at each place."""
    return int(convolve(traffic, np.ones(w.shape, dtype=np.int64), padding=padding, groups=groups).sum())


@dataclass
class Network:
    """A small residual network.

    conv, norm, act, pool; conv, norm, act, conv, norm beside a shortcut, act; conv, max-pool, act; pool, linear.

    Attributes:
        pools: kind, kernel, stride and padding of the first and the last pool.
        groups: of the block's first convolution.
        norm_last: the normalisation comes after the addition.
        shortcut: weights of a 1x1 shortcut; None: the identity.
        thresholds: of the four activations, one number or one for each channel.
    """

    convolutions: list[np.ndarray]
    biases: list[np.ndarray]
    norms: list[Norm]
    shortcut: np.ndarray | None
    w_out: np.ndarray
    b_out: np.ndarray
    pools: tuple[tuple[str, int, int, int], tuple[str, int, int, int]]
    groups: int
    norm_last: bool
    thresholds: list[np.ndarray]

    @staticmethod
    def random(
        rng: np.random.Generator, pools: tuple, groups: int = 1, norm_last: bool = False, projected: bool = False,
        per_channel: bool = False, size: int = 6, channels: int = 4,
    ) -> Network:  # fmt: skip
        def weights(outputs: int, inputs: int, kernel: int) -> np.ndarray:
            return grid_array(
                rng, outputs, inputs, kernel, kernel, scale=2.5 / (inputs * kernel * kernel) ** 0.5, bits=5
            )

        many = channels if per_channel else 1
        thresholds = [2.0 ** rng.integers(-1, 2, many) for _ in range(4)]
        sizes = [size]
        for _, kernel, stride, padding in (pools[0], ("max", 2, 1, 0), pools[1]):
            sizes.append((sizes[-1] + 2 * padding - kernel) // stride + 1)
        return Network(
            [weights(channels, 2, 3), weights(channels, channels // groups, 3), weights(channels, channels, 3),
             weights(channels, channels, 1)],
            [grid_array(rng, channels, scale=0.3) for _ in range(4)],
            [Norm.random(rng, channels) for _ in range(3)],
            weights(channels, channels, 1) if projected else None,
            grid_array(rng, 3, channels * sizes[-1] ** 2), grid_array(rng, 3), pools, groups, norm_last, thresholds,
        )  # fmt: skip

    def in_fractions(self) -> Network:
        """The same numbers, never rounded."""
        norms = [Norm(exactly(n.mean), exactly(n.factor), exactly(n.offset)) for n in self.norms]
        return Network(
            [exactly(w) for w in self.convolutions], [exactly(b) for b in self.biases], norms,
            None if self.shortcut is None else exactly(self.shortcut), exactly(self.w_out), exactly(self.b_out), self.pools,
            self.groups, self.norm_last, [exactly(threshold) for threshold in self.thresholds],
        )  # fmt: skip

    def simulate(self, image: np.ndarray, awake: Sequence[bool], negative: bool) -> Run:
        """Of `[N, 2, H, W]`, one step after the other."""
        acts = [Population(threshold, negative) for threshold in self.thresholds]
        maxima = [RunningMaximum(lambda x, p=p: over_windows(x, *p[1:], largest)) for p in self.pools]
        between = RunningMaximum(lambda x: over_windows(x, 2, 1, 0, largest))
        readouts, operations, last = [], [], np.zeros(len(image), dtype=np.int64)
        cap, total = 0, 0 * self.b_out
        for t, wake in enumerate(awake, start=1):
            cap += wake

            def pooled(which: int, x: np.ndarray) -> np.ndarray:
                if self.pools[which][0] == "max":
                    return maxima[which].step(x)
                return over_windows(x, *self.pools[which][1:], average)

            def traffic(which: int, x: np.ndarray, pooled: np.ndarray) -> np.ndarray:
                if self.pools[which][0] == "max":
                    return (pooled != 0) * 1
                return over_windows((x != 0) * 1, *self.pools[which][1:], total_of)

            def convolved(which: int, x: np.ndarray, padding: int, groups: int = 1, awake: bool = wake) -> np.ndarray:
                current = convolve(x, self.convolutions[which], padding=padding, groups=groups)
                return current + awake * self.biases[which].reshape(-1, 1, 1)

            x = acts[0].step(self.norms[0].step(convolved(0, image * wake, 1), wake), cap)
            fired, x = x, pooled(0, x)
            arriving = traffic(0, fired, x)
            y = acts[1].step(self.norms[1].step(convolved(1, x, 1, self.groups), wake), cap)
            made = [
                0, synapses(arriving, self.convolutions[1], 1, self.groups), synapses((y != 0) * 1, self.convolutions[2], 1)
            ]  # fmt: skip
            y = convolved(2, y, 1)
            short = x if self.shortcut is None else convolve(x, self.shortcut)
            made[2] += int(arriving.sum()) if self.shortcut is None else synapses(arriving, self.shortcut)
            y = self.norms[2].step(y + short, wake) if self.norm_last else self.norms[2].step(y, wake) + short
            y = acts[2].step(y, cap)
            made.append(synapses((y != 0) * 1, self.convolutions[3]))
            y = acts[3].step(between.step(convolved(3, y, 0)), cap)
            fired, y = y, pooled(1, y)
            arriving = traffic(1, fired, y)
            y = y.reshape(len(image), -1)
            total = total + y @ self.w_out.T + wake * self.b_out
            made.append(int(arriving.sum()) * len(self.w_out))
            readouts.append(total / cap)
            operations.append(made)
            for act in acts:
                last[act.spikes.reshape(len(image), -1).any(1)] = t
        return Run([act.count for act in acts], np.stack(readouts), last, np.array(operations))
