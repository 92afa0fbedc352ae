"""Numbers of levels and steps near the ends of every type that holds a count, on whole numbers: nothing may wrap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cnn_oracle import average, convolve, largest, over_windows
from engines import ENGINES, engine
from oracle import Classifier, grid_array
from recorded import simulated
from torch import Tensor, nn

import casc_core
from casc_core import CIF, IF, SNM, Burst, Continuous, CQReLU, SpikingModel, WakeSleep
from casc_core.engine.run import LARGEST_TOTAL
from casc_seq.layers.rnn import RNN

EDGES = (127, 128, 256)


class Pools(nn.Module):
    """Maxima and averages, sums of trains of either sign, an activation behind an average; weights on a coarse grid."""

    def __init__(self, q: int) -> None:
        super().__init__()
        rng = np.random.default_rng(4)
        self.q, self.convs = q, nn.ModuleList([nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 1)])
        self.fc = nn.Linear(12, 4)
        self.acts = nn.ModuleList([CQReLU(q) for _ in range(3)])
        with torch.no_grad():
            for module in (*self.convs, self.fc):
                module.weight.copy_(torch.tensor(grid_array(rng, *module.weight.shape, scale=0.75, bits=4)))
                module.bias.copy_(torch.tensor(grid_array(rng, len(module.bias), scale=0.25, bits=4)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.acts[0](self.convs[0](x))
        x = F.max_pool2d(F.max_pool2d(x, 1), 2)
        y = self.acts[1](self.convs[1](x) + x - F.max_pool2d(x, 1, 1))
        y = self.acts[2](F.avg_pool2d(y + x, 2, 1))
        return self.fc(F.adaptive_max_pool2d(y, 2).flatten(1))

    def levels(self, images: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Every neuron's level and `q` times the logits, in whole multiples of the grid."""

        def conv(which: int, x: np.ndarray, padding: int = 0) -> np.ndarray:
            weight, bias = (t.detach().double().numpy() for t in self.convs[which].parameters())
            return convolve(x, weight, padding=padding) + self.q * bias.reshape(-1, 1, 1)

        def clipped(x: np.ndarray) -> np.ndarray:
            return np.clip(np.floor(x), 0, self.q)

        a = clipped(conv(0, self.q * images, 1))
        x = over_windows(a, 2, 2, 0, largest)
        b = clipped(conv(1, x))
        c = clipped(over_windows(b + x, 2, 1, 0, average))
        weight, bias = (t.detach().double().numpy() for t in self.fc.parameters())
        return [a, b, c], c.reshape(len(c), -1) @ weight.T + self.q * bias


IMAGES = grid_array(np.random.default_rng(1), 2, 2, 6, 6, bits=4)


def check(snn: SpikingModel, x: Tensor, levels: list[np.ndarray], logits: np.ndarray, spiking: bool = True) -> None:
    reference, counts = snn.reference_counts((x,), {})
    found = [(reference, counts)]
    if spiking:
        simulation, counts = simulated(snn, x)
        found.append((simulation.logits[-1], counts))
        assert torch.equal(snn(x), simulation.logits[-1])
    for readout, counts in found:
        for name, level in zip(snn.layers, levels, strict=True):
            np.testing.assert_array_equal(counts[name].numpy(), level, err_msg=name)
        np.testing.assert_array_equal(readout.numpy(), (logits / snn.settings.q).astype(np.float32))


@pytest.mark.parametrize("way", ENGINES, ids=str)
@pytest.mark.parametrize("q", EDGES)
def test_levels_and_counts_by_every_engine(q, way):
    model = Pools(q)
    levels, logits = model.levels(IMAGES)
    assert all(level.max() == q for level in levels), "the largest counts are reached"
    with engine(way):
        check(casc_core.convert(model, adapter="cnn"), torch.tensor(IMAGES).float(), levels, logits)


def test_the_most_levels_there_are():
    model = Pools(LARGEST_TOTAL)
    levels, logits = model.levels(IMAGES)
    for way in ENGINES:
        with engine(way):
            check(casc_core.convert(model, adapter="cnn"), torch.tensor(IMAGES).float(), levels, logits, spiking=False)


@pytest.mark.parametrize("neuron", [IF(), CIF(), SNM(), Burst(gamma=3)], ids=str)
def test_continuous_input_for_as_many_steps(neuron):
    """Each readout is made of counts that the others' readouts do not share; all engines agree at every step."""
    model, x, T = Pools(4), torch.tensor(IMAGES).float(), 129
    snn = casc_core.convert(model, adapter="cnn", neuron=neuron, schedule=Continuous())
    with engine((None, "float")):
        expected, expected_counts = simulated(snn, x, T=T)
    assert max(int(count.max()) for count in expected_counts.values()) > 0.9 * T
    for way in ENGINES[2:]:
        with engine(way):
            found, counts = simulated(snn, x, T=T)
        assert torch.equal(found.logits, expected.logits), way
        for name, count in counts.items():
            assert torch.equal(count, expected_counts[name]), (way, name)


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("q", [*EDGES, LARGEST_TOTAL])
def test_recurrences(q, pooling):
    rng = np.random.default_rng(q)
    oracle = Classifier.random(rng, q, 1, 1, pooling, hidden=4)
    (cell,), tokens = oracle.cells[0], torch.tensor(rng.integers(0, 9, (3, 5)))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding.from_pretrained(torch.tensor(oracle.table).float())
            self.rnn, self.fc = RNN(3, 4, 1, batch_first=True, q=q), nn.Linear(4, 3)
            values = (cell.w_x, cell.w_h, cell.b, 0 * cell.b, oracle.w_out, oracle.b_out)
            with torch.no_grad():
                for parameter, value in zip((*self.rnn.parameters(), *self.fc.parameters()), values, strict=True):
                    parameter.copy_(torch.tensor(value))

        def forward(self, tokens: Tensor) -> Tensor:
            states = self.rnn(self.embedding(tokens))[0]
            return self.fc(states.max(1).values if pooling == "max" else states.mean(1))

    state, states = np.zeros((3, 4)), []
    for token in tokens.T:
        current = q * (oracle.table[token] @ cell.w_x.T + cell.b) + state @ cell.w_h.T
        state = np.clip(np.floor(current), 0, q)
        states.append(state)
    pooled = np.max(states, 0) if pooling == "max" else np.sum(states, 0) / 5
    logits = pooled @ oracle.w_out.T + q * oracle.b_out
    ways = ENGINES if q < 1000 else ENGINES[:1]
    for way in ways:
        with engine(way):
            snn = casc_core.convert(Model(), adapter="rnn")
            if pooling == "max":
                check(snn, tokens, [np.stack(states, 1)], logits)
            else:  # a fifth is no binary fraction
                counts = simulated(snn, tokens)[1]
                np.testing.assert_array_equal(counts[snn.layers[0]].numpy(), np.stack(states, 1))
                np.testing.assert_allclose(snn(tokens).numpy(), logits / q, rtol=1e-6, atol=1e-6)


def test_a_maximum_moves_step_by_step_beyond_a_byte():
    """A pool of one entry to a window: its readout is that of the spikes, at every step."""
    pooled, plain = (
        nn.Sequential(nn.Linear(3, 4), CQReLU(200), *pool, nn.Linear(4, 2))
        for pool in ([nn.Unflatten(1, (4, 1)), nn.AdaptiveMaxPool1d(1), nn.Flatten()], [])
    )
    pooled[-1].load_state_dict(plain[-1].state_dict())
    pooled[0].load_state_dict(plain[0].state_dict())
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) * 2
    found, expected = (casc_core.convert(model).simulate(x) for model in (pooled, plain))
    assert torch.equal(found.logits, expected.logits)
    assert len({tuple(step.flatten().tolist()) for step in found.logits}) > 100


@pytest.mark.filterwarnings("ignore:.* but the model was trained with:UserWarning")
def test_more_levels_than_can_be_counted_are_refused_at_conversion():
    model = nn.Sequential(nn.Linear(3, 4), CQReLU(4), nn.Linear(4, 2))
    for schedule in (WakeSleep(LARGEST_TOTAL + 1), WakeSleep(200, 0, 200)):
        with pytest.raises(casc_core.ConfigError, match="more than 32,767 levels or wake steps cannot be run"):
            casc_core.convert(model, schedule=schedule)
    with pytest.raises(casc_core.ConfigError, match="a neuron may spike 40,000 times"):
        casc_core.convert(nn.Sequential(nn.Linear(3, 4), CQReLU(40_000), nn.Linear(4, 2)), schedule=Continuous())
