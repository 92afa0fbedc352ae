"""An independent simulation of spiking GRU and LSTM classifiers in NumPy: time outermost, one sample at a time.

It shares no code with the library and follows the definitions word for word: every neuron has a running sum S and a count
N, and spikes +1 where S reaches the threshold of level N + 1, -1 where it does not reach that of N. A product of two totals
arrives as its running difference. Weights must lie on a coarse power-of-two grid, so that float64 computes all sums here
without rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from oracle import grid_array, pooled


class Neurons:
    """A population: `threshold(k)` is that of level k, in `lowest + 1 .. highest`."""

    def __init__(self, size: int, lowest: int, highest: int, threshold: Callable[[int], float]) -> None:
        self.lowest, self.highest = lowest, highest
        # By count: what must be reached for one spike more, and what must not be for one less.
        reached = [threshold(k) for k in range(lowest + 1, highest + 1)]
        self.next, self.last = np.array([*reached, math.inf]), np.array([-math.inf, *reached])
        self.total, self.count = np.zeros(size), np.zeros(size, dtype=np.int64)

    def receive(self, current: np.ndarray, takes_back: bool) -> np.ndarray:
        """The spikes of a step."""
        self.total = self.total + current
        at = self.count - self.lowest
        spikes = (self.total >= self.next[at]).astype(np.int64)
        if takes_back:
            spikes -= self.total < self.last[at]
        self.count = self.count + spikes
        return spikes


def product_threshold(q: int) -> Callable[[int], float]:
    """Of a whole number rounded to multiples of q, halves to the even one: an odd level is reached beyond the half."""
    return lambda k: q * (k - 0.5) + (0.25 if k % 2 else 0.0)


def logit_threshold(q: int) -> Callable[[int], float]:
    return lambda k: -q * math.log(q / (k - 0.5) - 1.0)


def atanh_threshold(q: int) -> Callable[[int], float]:
    return lambda k: q / 2 * math.log((q + k - 0.5) / (q - k + 0.5))


@dataclass
class Running:
    """A total and what has just arrived."""

    total: np.ndarray
    event: np.ndarray

    @classmethod
    def zeros(cls, size: int) -> Running:
        return cls(np.zeros(size), np.zeros(size))

    def add(self, event: np.ndarray) -> None:
        self.event, self.total = event, self.total + event

    def times(self, other: Running) -> np.ndarray:
        """The running difference of the product of the two totals: `a_t B_t + A_{t-1} b_t`."""
        return self.event * other.total + (self.total - self.event) * other.event


@dataclass
class Cell:
    """One direction of one layer: weights of torch's layout."""

    w_x: np.ndarray
    w_h: np.ndarray
    b_x: np.ndarray
    b_h: np.ndarray


class GRUToken:
    """The neurons of one token position."""

    NAMES = ("reset", "update", "candidate", "hidden")

    def __init__(self, cell: Cell, q: int, cell_range: int, takes_back: bool) -> None:
        self.cell, self.q, self.takes_back, size = cell, q, takes_back, cell.w_h.shape[1]
        self.reset, self.update = (Neurons(size, 0, q, logit_threshold(q)) for _ in range(2))
        # Sums of the candidate are q times as large, since R counts up to q; those of the state too.
        steps = atanh_threshold(q)
        self.candidate = Neurons(size, -q, q, lambda k: q * steps(k))
        self.hidden = Neurons(size, -q, q, product_threshold(q))
        self.recurrent, self.before = Running.zeros(size), Running.zeros(size)
        self.r, self.z, self.n = (Running.zeros(size) for _ in range(3))
        self.populations = [self.reset, self.update, self.candidate, self.hidden]

    def step(self, x: np.ndarray, wake: bool, states: list[np.ndarray]) -> list[np.ndarray]:
        cell, q = self.cell, self.q
        (h,) = states
        own = np.split(cell.w_x @ x + cell.b_x * wake, 3)
        back = np.split(cell.w_h @ h + cell.b_h * wake, 3)
        self.before.add(h)
        self.recurrent.add(back[2])
        self.r.add(self.reset.receive(own[0] + back[0], self.takes_back))
        self.z.add(self.update.receive(own[1] + back[1], self.takes_back))
        self.n.add(self.candidate.receive(q * own[2] + self.r.times(self.recurrent), self.takes_back))
        mixed = q * self.n.event - self.z.times(self.n) + self.z.times(self.before)
        return [self.hidden.receive(mixed, self.takes_back)]


class LSTMToken:
    """The neurons of one token position."""

    NAMES = ("input", "forget", "candidate", "output", "cell", "hidden")

    def __init__(self, cell: Cell, q: int, cell_range: int, takes_back: bool) -> None:
        self.cell, self.q, self.takes_back, size = cell, q, takes_back, cell.w_h.shape[1]
        self.input, self.forget, self.output = (Neurons(size, 0, q, logit_threshold(q)) for _ in range(3))
        self.candidate = Neurons(size, -q, q, atanh_threshold(q))
        self.memory = Neurons(size, -cell_range * q, cell_range * q, product_threshold(q))
        self.hidden = Neurons(size, -q, q, product_threshold(q))
        self.i, self.f, self.g, self.o, self.before, self.shown = (Running.zeros(size) for _ in range(6))
        self.populations = [self.input, self.forget, self.candidate, self.output, self.memory, self.hidden]

    def step(self, x: np.ndarray, wake: bool, states: list[np.ndarray]) -> list[np.ndarray]:
        cell, q = self.cell, self.q
        h, c = states
        current = np.split(cell.w_x @ x + cell.w_h @ h + (cell.b_x + cell.b_h) * wake, 4)
        self.before.add(c)
        for total, neurons, each in zip(
            (self.i, self.f, self.g, self.o),
            (self.input, self.forget, self.candidate, self.output),
            current,
            strict=True,
        ):
            total.add(neurons.receive(each, self.takes_back))
        cells = self.memory.receive(self.f.times(self.before) + self.i.times(self.g), self.takes_back)
        shown = np.array([math.floor(q * math.tanh(int(n) / q) + 0.5) for n in self.memory.count])
        self.shown.add(shown - self.shown.total)
        return [self.hidden.receive(self.o.times(self.shown), self.takes_back), cells]


@dataclass
class GatedClassifier:
    """Layers of directions of cells, pooled and read out."""

    kind: type
    table: np.ndarray
    cells: list[list[Cell]]
    w_out: np.ndarray
    b_out: np.ndarray
    q: int
    pooling: str
    cell_range: int = 2
    start: list[np.ndarray] | None = None
    """Levels that each text begins with, `[cells, hidden]` for each state."""

    @staticmethod
    def random(
        rng: np.random.Generator, kind: type, q: int, layers: int, directions: int, pooling: str, starts: bool = False,
        vocabulary: int = 9, width: int = 3, hidden: int = 3, classes: int = 3,
    ) -> GatedClassifier:  # fmt: skip
        gates = 3 if kind is GRUToken else 4

        def cell(inputs: int) -> Cell:
            return Cell(
                grid_array(rng, gates * hidden, inputs, scale=2.0),
                grid_array(rng, gates * hidden, hidden, scale=2.0),
                grid_array(rng, gates * hidden, scale=0.5),
                grid_array(rng, gates * hidden, scale=0.5),
            )

        cells = [
            [cell(width if layer == 0 else hidden * directions) for _ in range(directions)] for layer in range(layers)
        ]
        read, states = hidden * directions, 1 if kind is GRUToken else 2
        start = [rng.integers(-q, q + 1, (layers * directions, hidden)) for _ in range(states)] if starts else None
        return GatedClassifier(
            kind, grid_array(rng, vocabulary, width), cells, grid_array(rng, classes, read), grid_array(rng, classes), q,
            pooling, start=start,
        )  # fmt: skip

    def pooled(self, states: np.ndarray) -> np.ndarray:
        """`[L, features]` -> `[features]`; states are spike totals."""
        return pooled(states, self.pooling, self.cells[0][0].w_h.shape[1], len(self.cells[-1]) == 2)

    def simulate(
        self, tokens: np.ndarray, awake: list[bool], takes_back: bool = True
    ) -> tuple[list[list[np.ndarray]], np.ndarray, int]:
        """Counts `[L, hidden]` of each population of each side of each layer, readouts, and the last step that spikes."""
        length, hidden = len(tokens), self.cells[0][0].w_h.shape[1]
        states = 1 if self.kind is GRUToken else 2
        network = [
            [[self.kind(cell, self.q, self.cell_range, takes_back) for _ in range(length)] for cell in layer]
            for layer in self.cells
        ]
        readouts, last, cap = [], 0, 0
        for t, wake in enumerate(awake, start=1):
            cap += wake
            arriving, active = self.table[tokens] * wake, False
            for number, layer in enumerate(network):
                emitted = [np.zeros((length, hidden)) for _ in layer]
                for direction, positions in enumerate(layer):
                    row = number * len(layer) + direction
                    previous = [
                        np.zeros(hidden) if self.start is None or t > 1 else self.start[state][row].astype(float)
                        for state in range(states)
                    ]
                    order = range(length) if direction == 0 else range(length - 1, -1, -1)
                    for i in order:
                        counts = [each.count.copy() for each in positions[i].populations]
                        previous = positions[i].step(arriving[i], wake, previous)
                        emitted[direction][i] = previous[0]
                        active |= any(
                            (each.count != count).any()
                            for each, count in zip(positions[i].populations, counts, strict=True)
                        )
                arriving = np.concatenate(emitted, axis=1)
            last = t if active else last
            totals = np.concatenate([np.stack([each.hidden.count for each in side]) for side in network[-1]], axis=1)
            readouts.append((self.w_out @ self.pooled(totals) + self.b_out * cap) / cap)
        counts = [
            [
                np.stack([position.populations[index].count for position in side])
                for index in range(len(self.kind.NAMES))
            ]
            for layer in network
            for side in layer
        ]
        return counts, np.stack(readouts), last
