"""Mistaken arguments of the steps: an error of ours that quotes the value, whatever the value is."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import casc_core
from casc_core import CascError, ConfigError, InputError

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
NUMBERS = (0, -1, 2.5, math.nan, math.inf, 10**30, 1j, Decimal(2), np.float64(2), np.int64(2), True)
OTHERS = ("1", b"x", [], {}, (1,), torch.tensor(1.0), torch.ones(2), object(), nn.ReLU, None)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


PREPARED = casc_core.prepare(mlp(), q=2)
STEPS: dict[str, tuple[Callable[[Any], object], tuple[Any, ...]]] = {
    # What a step is given, and which of the values above it takes.
    "prepare, model": (lambda value: casc_core.prepare(value, q=2), ()),
    "convert, model": (lambda value: casc_core.convert(value, q=2), ()),
    "calibrate, model": (lambda value: casc_core.calibrate(value, [X], q=2), ()),
    "prepare, q": (lambda value: casc_core.prepare(mlp(), q=value), ()),
    "convert, q": (lambda value: casc_core.convert(mlp(), q=value), ()),
    "calibrate, q": (lambda value: casc_core.calibrate(mlp(), [X], q=value), ()),
    "prepare, adapter": (lambda value: casc_core.prepare(mlp(), value, q=2), (None,)),
    "convert, adapter": (lambda value: casc_core.convert(PREPARED, value), (None,)),
    "convert, numerics": (lambda value: casc_core.convert(PREPARED, numerics=value), ()),
    "convert, neuron": (lambda value: casc_core.convert(PREPARED, neuron=value), (None,)),
    "convert, schedule": (lambda value: casc_core.convert(PREPARED, schedule=value), (None,)),
    "wake": (lambda value: casc_core.WakeSleep(value), (None,)),
    "cycles": (lambda value: casc_core.WakeSleep(cycles=value), ()),
    "calibrate, batches": (lambda value: casc_core.calibrate(mlp(), value, q=2), ()),
    "calibrate, a batch": (lambda value: casc_core.calibrate(mlp(), [value], q=2), ()),
    "T": (lambda value: casc_core.convert(PREPARED).simulate(X, T=value), (None,)),
    "under, neuron": (lambda value: casc_core.convert(PREPARED).under(value), (None,)),
    "under, schedule": (lambda value: casc_core.convert(PREPARED).under(schedule=value), (None,)),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_mistaken_argument_is_an_error_of_ours(step: str) -> None:
    call, taken = STEPS[step]
    for value in (*NUMBERS, *OTHERS):
        if not any(value is one for one in taken):
            with pytest.raises(CascError):
                call(value)


@pytest.mark.parametrize(
    "make", [lambda value: casc_core.prepare(mlp(), q=2, threshold=value), lambda v: casc_core.CQReLU(2, v)]
)
def test_thresholds(make: Callable[[Any], object]) -> None:
    for value in (0, -1, math.nan, math.inf, "1", b"1", True, [], {}, 1j, object(), nn.ReLU, torch.tensor([-1.0, 1.0])):
        with pytest.raises(ConfigError, match="threshold"):
            make(value)
    for value in (2, 2.5, np.float64(2), np.int64(2), Decimal(2), torch.tensor(2.0)):
        make(value)


@pytest.mark.parametrize("value", [0, -1, 100.1, math.nan, "99", None, True, [], torch.ones(2)])
def test_percentiles(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"percentile must lie in \(0, 100\]"):
        casc_core.calibrate(mlp(), [X], q=2, percentile=value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: casc_core.prepare(nn.ReLU, q=2),
            r"takes a torch\.nn\.Module; got ReLU, the class; make one: ReLU\(\.\.\.\)",
        ),
        (lambda: casc_core.prepare(casc_core.convert(PREPARED), q=2), "got SpikingModel"),
        (lambda: casc_core.prepare(mlp(), q=10**30), "q, the number of levels, must be at most 131,072"),
        (lambda: casc_core.WakeSleep(10**30), "more than 131,072 steps cannot be run"),
        (lambda: casc_core.convert(PREPARED).simulate(X, T=10**30), "T, the number of time steps, must be at most"),
        (
            lambda: casc_core.prepare(mlp(), 5, q=2),
            r"adapter must be a name \('cnn', 'rnn'\), an Adapter, or None; got 5",
        ),
    ],
)
def test_messages(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()


def test_batches_that_the_model_cannot_take() -> None:
    with pytest.raises(InputError, match=r"does not take a batch of .*: RuntimeError: .*mat1 and mat2 shapes"):
        casc_core.calibrate(mlp(), [torch.ones(3, 5)], q=2)
    with pytest.raises(InputError, match=r"batches must be a list of batches; got int"):
        casc_core.calibrate(mlp(), 7, q=2)
