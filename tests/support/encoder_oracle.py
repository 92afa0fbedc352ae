"""An independent simulation of spiking encoders and decoders in NumPy: time outermost, one sample at a time.

The decoder's first position reads, at each step, what the encoder's last positions (or a bridge behind them) spike at that
very step. It shares no code with the library. Weights must lie on a coarse power-of-two grid, so that float64 computes all
sums here without rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from gated_oracle import Cell, GRUToken, LSTMToken, Neurons, atanh_threshold
from oracle import grid_array


class RNNToken:
    """The neurons of one token position, whose counts are capped by the wake steps that have begun."""

    NAMES = ("",)

    def __init__(self, cell: Cell, q: int, cell_range: int, takes_back: bool) -> None:
        self.cell, self.takes_back, size = cell, takes_back, cell.w_h.shape[1]
        self.potential, self.cap = np.zeros(size), 0
        self.hidden = SimpleNamespace(count=np.zeros(size, dtype=np.int64))
        self.populations = [self.hidden]

    def step(self, x: np.ndarray, wake: bool, states: list[np.ndarray]) -> list[np.ndarray]:
        cell, count = self.cell, self.hidden.count
        self.cap += wake
        self.potential = self.potential + cell.w_x @ x + (cell.b_x + cell.b_h) * wake + cell.w_h @ states[0]
        spikes = ((self.potential >= 1) & (count < self.cap)).astype(np.int64)
        if self.takes_back:
            spikes -= (self.potential < 0) & (count > 0)
        self.potential = self.potential - spikes
        self.hidden.count = count + spikes
        return [spikes]


KINDS = {"rnn": RNNToken, "gru": GRUToken, "lstm": LSTMToken}
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


@dataclass
class Recurrent:
    """Layers of directions of cells."""

    kind: str
    cells: list[list[Cell]]

    @staticmethod
    def random(rng: np.random.Generator, kind: str, layers: int, directions: int, width: int, hidden: int) -> Recurrent:
        def cell(inputs: int) -> Cell:
            rows = GATES[kind] * hidden
            return Cell(
                grid_array(rng, rows, inputs, scale=2.0), grid_array(rng, rows, hidden, scale=2.0),
                grid_array(rng, rows, scale=0.5), grid_array(rng, rows, scale=0.5),
            )  # fmt: skip

        inputs = [width if layer == 0 else hidden * directions for layer in range(layers)]
        return Recurrent(kind, [[cell(each) for _ in range(directions)] for each in inputs])


class Running:
    """The neurons of a recurrence for one text."""

    def __init__(self, of: Recurrent, length: int, q: int, takes_back: bool) -> None:
        self.hidden = of.cells[0][0].w_h.shape[1]
        self.layers = [
            [[KINDS[of.kind](cell, q, 2, takes_back) for _ in range(length)] for cell in layer] for layer in of.cells
        ]

    def step(
        self, arriving: np.ndarray, wake: bool, starts: list[list[np.ndarray]]
    ) -> tuple[np.ndarray, list[list[np.ndarray]]]:
        """Of one step: the spikes of the last layer `[L, features]`, and of the last position of each cell.

        Args:
            starts: the spikes that stand before the first position of each cell, for each state.
        """
        final: list[list[np.ndarray]] = []
        for layer in self.layers:
            emitted = []
            for direction, positions in enumerate(layer):
                previous, spikes = starts[len(final)], np.zeros((len(positions), self.hidden))
                order = range(len(positions)) if direction == 0 else range(len(positions) - 1, -1, -1)
                for i in order:
                    previous = positions[i].step(arriving[i], wake, previous)
                    spikes[i] = previous[0]
                final.append(previous)
                emitted.append(spikes)
            arriving = np.concatenate(emitted, axis=1)
        return arriving, final

    def counts(self) -> list[np.ndarray]:
        """`[L, hidden]` of each population of each cell."""
        return [
            np.stack([position.populations[index].count for position in side])
            for layer in self.layers
            for side in layer
            for index in range(len(side[0].populations))
        ]


@dataclass
class EncoderDecoder:
    """An encoder, what its final states become, a decoder, and a readout of each of its positions.

    `bridge`: "own", the states as they are, cell by cell; "last", the last cell's for all; "joined", those of both
    directions side by side, through a linear map and a rounded tanh, for a decoder of one direction.
    """

    q: int
    bridge: str
    table: np.ndarray
    encoder: Recurrent
    decoder: Recurrent
    w_bridge: np.ndarray
    b_bridge: np.ndarray
    w_out: np.ndarray
    b_out: np.ndarray

    @staticmethod
    def random(
        rng: np.random.Generator, kinds: tuple[str, str], q: int, layers: int, directions: int, bridge: str,
        vocabulary: int = 9, width: int = 3, hidden: int = 3, classes: int = 4,
    ) -> EncoderDecoder:  # fmt: skip
        of_encoder, of_decoder = {"own": (directions, directions), "last": (1, directions), "joined": (2, 1)}[bridge]
        return EncoderDecoder(
            q, bridge, grid_array(rng, vocabulary, width),
            Recurrent.random(rng, kinds[0], layers, of_encoder, width, hidden),
            Recurrent.random(rng, kinds[1], layers, of_decoder, width, hidden),
            grid_array(rng, hidden, 2 * hidden, scale=2.0), grid_array(rng, hidden),
            grid_array(rng, classes, hidden * of_decoder), grid_array(rng, classes),
        )  # fmt: skip

    def simulate(
        self, source: np.ndarray, target: np.ndarray, awake: list[bool], takes_back: bool
    ) -> tuple[list[np.ndarray], np.ndarray, int]:
        """Counts of each population, readouts `[steps, L, classes]`, and the last step that spikes."""
        encoder, decoder = (
            Running(of, len(text), self.q, takes_back) for of, text in ((self.encoder, source), (self.decoder, target))
        )
        hidden, layers, sides = encoder.hidden, len(self.decoder.cells), len(self.decoder.cells[0])
        rows = layers if self.bridge == "joined" else 0
        bridges = [Neurons(hidden, -self.q, self.q, atanh_threshold(self.q)) for _ in range(rows)]
        states = 2 if self.encoder.kind == "lstm" else 1
        nothing = [[np.zeros(hidden)] * states for side in self.encoder.cells for _ in side]
        total, readouts, last, cap = np.zeros((len(target), hidden * sides)), [], 0, 0
        found: list[np.ndarray] = []
        for t, wake in enumerate(awake, start=1):
            cap += wake
            _, final = encoder.step(self.table[source] * wake, wake, nothing)
            if self.bridge == "joined":
                joined = [np.concatenate([final[2 * each][0], final[2 * each + 1][0]]) for each in range(layers)]
                final = [
                    [neurons.receive(self.w_bridge @ each + self.b_bridge * wake, takes_back)]
                    for neurons, each in zip(bridges, joined, strict=True)
                ]
            elif self.bridge == "last":
                final = [final[-1]] * layers * sides
            # A cell of an LSTM begins with the encoder's where there is one, else with its hidden state.
            begins = [[each[0], each[-1]] if self.decoder.kind == "lstm" else each[:1] for each in final]
            output, _ = decoder.step(self.table[target] * wake, wake, begins)
            total = total + output
            readouts.append((total @ self.w_out.T + self.b_out * cap) / cap)
            before, found = found, self._counts(encoder, decoder, bridges)
            if any(
                (each != earlier).any() for each, earlier in zip(found, before or [0 * x for x in found], strict=True)
            ):
                last = t
        return found, np.stack(readouts), last

    @staticmethod
    def _counts(encoder: Running, decoder: Running, bridges: list[Neurons]) -> list[np.ndarray]:
        between = [np.stack([each.count for each in bridges])] if bridges else []
        return [each.copy() for each in (*encoder.counts(), *between, *decoder.counts())]
