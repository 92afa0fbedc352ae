"""An independent simulation of spiking RNN classifiers in NumPy: time outermost, one sample, one neuron vector at a time.

It shares no code with the library and follows the definitions word for word. Weights must lie on a coarse power-of-two
grid, so that float64 computes everything here without rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def grid_array(rng: np.random.Generator, *shape: int, scale: float = 1.0, bits: int = 6) -> np.ndarray:
    """Random numbers in [-scale, scale] on the grid `2**-bits`."""
    return np.round(rng.uniform(-scale, scale, shape) * 2**bits) / 2**bits


def pooled(states: np.ndarray, pooling: str, hidden: int, both_ways: bool) -> np.ndarray:
    """`[L, features]` -> `[features]`; states are spike totals or levels."""
    if pooling == "mean":
        return states.sum(0) / len(states)
    if pooling == "sum":
        return states.sum(0)
    if pooling == "max":
        return states.max(0)
    backward = [states[0, hidden:]] if both_ways else []
    return np.concatenate([states[-1, :hidden], *backward])


@dataclass
class Cell:
    w_x: np.ndarray
    w_h: np.ndarray
    b: np.ndarray


@dataclass
class Classifier:
    """Layers of directions of cells, pooled and read out."""

    table: np.ndarray
    cells: list[list[Cell]]
    w_out: np.ndarray
    b_out: np.ndarray
    q: int
    pooling: str
    threshold: float = 1.0

    @staticmethod
    def random(
        rng: np.random.Generator, q: int, layers: int, directions: int, pooling: str, threshold: float = 1.0,
        vocabulary: int = 9, width: int = 3, hidden: int = 3, classes: int = 3,
    ) -> Classifier:  # fmt: skip
        def cell(inputs: int) -> Cell:
            return Cell(
                grid_array(rng, hidden, inputs),
                grid_array(rng, hidden, hidden, scale=1.5),
                grid_array(rng, hidden, scale=0.5),
            )

        cells = [
            [cell(width if layer == 0 else hidden * directions) for _ in range(directions)] for layer in range(layers)
        ]
        read = hidden * directions
        return Classifier(
            grid_array(rng, vocabulary, width), cells, grid_array(rng, classes, read), grid_array(rng, classes), q,
            pooling, threshold,
        )  # fmt: skip

    def pooled(self, states: np.ndarray) -> np.ndarray:
        """`[L, features]` -> `[features]`; states are spike totals or levels."""
        return pooled(states, self.pooling, self.cells[0][0].w_h.shape[0], len(self.cells[-1]) == 2)

    def levels(self, tokens: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Levels of each layer `[L, directions * hidden]`, and the logits: the quantised ANN by its definition."""
        inputs, values = self.table[tokens], []
        for layer in self.cells:
            outputs = []
            for direction, cell in enumerate(layer):
                h = np.zeros((len(tokens), cell.w_h.shape[0]))
                state = np.zeros(cell.w_h.shape[0])
                order = range(len(tokens)) if direction == 0 else range(len(tokens) - 1, -1, -1)
                for i in order:
                    x = cell.w_x @ inputs[i] + cell.b + cell.w_h @ state
                    state = self.threshold / self.q * np.clip(np.floor(self.q * x / self.threshold), 0, self.q)
                    h[i] = state
                outputs.append(h)
            inputs = np.concatenate(outputs, axis=1)
            values.append(inputs * self.q / self.threshold)
        return values, self.w_out @ self.pooled(inputs) + self.b_out

    def simulate(
        self, tokens: np.ndarray, awake: list[bool], negative: bool
    ) -> tuple[list[np.ndarray], np.ndarray, int]:
        """Spike totals of each layer, readout after each step, and the last step at which anything spiked."""
        length = len(tokens)
        potential = [[np.zeros((length, cell.w_h.shape[0])) for cell in layer] for layer in self.cells]
        total = [[np.zeros((length, cell.w_h.shape[0])) for cell in layer] for layer in self.cells]
        readouts, last, cap = [], 0, 0
        for t, wake in enumerate(awake, start=1):
            cap += wake
            arriving = self.table[tokens] * wake
            for number, layer in enumerate(self.cells):
                spikes = [np.zeros((length, cell.w_h.shape[0])) for cell in layer]
                for direction, cell in enumerate(layer):
                    v, n, s = potential[number][direction], total[number][direction], spikes[direction]
                    order = range(length) if direction == 0 else range(length - 1, -1, -1)
                    previous = np.zeros(cell.w_h.shape[0])
                    for i in order:
                        v[i] += cell.w_x @ arriving[i] + cell.b * wake + cell.w_h @ (self.threshold * previous)
                        for k in range(len(previous)):
                            if v[i, k] >= self.threshold and n[i, k] < cap:
                                s[i, k] = 1
                            elif negative and v[i, k] < 0 and n[i, k] > 0:
                                s[i, k] = -1
                            v[i, k] -= self.threshold * s[i, k]
                            n[i, k] += s[i, k]
                        previous = s[i]
                arriving = self.threshold * np.concatenate(spikes, axis=1)
                if arriving.any():
                    last = t
            totals = np.concatenate(total[-1], axis=1) * self.threshold
            readouts.append((self.w_out @ self.pooled(totals) + self.b_out * cap) / cap)
        return [np.concatenate(layer, axis=1) for layer in total], np.stack(readouts), last
