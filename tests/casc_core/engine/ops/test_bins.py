"""Bins of steps: sums of steps, and events at the last of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import casc_core
from casc_core import CIF, AsTrained, Continuous, CQReLU, Exact, WakeSleep
from casc_core.engine.level_run import LevelRun
from casc_core.engine.ops import Bin, Unbin
from casc_core.engine.signal import Signal
from casc_core.engine.spiking_run import SpikingRun

TRAIN = torch.tensor([[1, 0], [1, -1], [0, 1], [1, 1], [-1, 0]], dtype=torch.int8)
SIGNAL = Signal(TRAIN, torch.ones(2), None, 1.0)


def run(wake: int = 4, steps: int | None = None, only_final: bool = False) -> SpikingRun:
    return SpikingRun(AsTrained(), CIF(), WakeSleep(wake, wake), steps, only_final=only_final)


def test_a_bin_is_the_sum_of_half_a_wake_phase():
    binned = Bin(at_end=False)(run(), SIGNAL)
    assert binned.period == 2
    assert binned.train.tolist() == [[2, -1], [1, 2], [-1, 0]]
    assert binned.lazy_drive is SIGNAL.lazy_drive


def test_events_come_at_the_last_step_of_their_bin():
    binned = Bin(at_end=False)(run(), SIGNAL)
    steps = Unbin()(run(), binned)
    assert steps.period == 1
    assert steps.train.tolist() == [[0, 0], [2, -1], [0, 0], [1, 2], [0, 0], [-1, 0]]
    assert Unbin()(run(steps=3), binned).train.tolist() == [[0, 0], [2, -1], [0, 0]]


def test_the_drive_counts_as_often_as_there_are_wake_steps_in_a_bin():
    assert run(wake=5).binned(3).wake_weights() == [3, 2]
    assert run(wake=5).binned(3).peak == 3


def test_behind_the_last_neurons_all_is_one_bin_where_only_the_end_is_asked_for():
    assert Bin(at_end=True)(run(only_final=True), SIGNAL).train.tolist() == [[2, 1]]
    assert Bin(at_end=True)(run(), SIGNAL) is SIGNAL


@pytest.mark.parametrize("other", [
    LevelRun(AsTrained(), 4), SpikingRun(AsTrained(), CIF(), Continuous(), 9), run(wake=1),
])  # fmt: skip
def test_where_there_is_nothing_to_gain_each_step_is_a_bin(other):
    assert Bin(at_end=False)(other, SIGNAL) is SIGNAL
    assert Unbin()(other, SIGNAL) is SIGNAL


def kinds(*layers: nn.Module, numerics: casc_core.numerics.Numerics | None = None) -> list[str]:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), CQReLU(4), *layers).eval()
    return [op.kind for op in casc_core.convert(model, numerics=numerics or AsTrained()).operations()]


def test_only_maps_in_a_row_are_binned():
    conv, act, end = nn.Conv2d(2, 2, 3), CQReLU(4), (nn.Flatten(), nn.Linear(2, 2))
    assert "Bin" not in kinds(conv, act, *end)
    assert "Bin" not in kinds(conv, conv, act, *end, numerics=Exact(8))
    assert [each for each in kinds(conv, nn.Conv2d(2, 2, 3), act, *end) if "in" in each][:2] == ["Bin", "Unbin"]
    assert "Unbin" not in kinds(conv, nn.Conv2d(2, 2, 3))
    assert "Bin" in kinds(conv, nn.Conv2d(2, 2, 3))
