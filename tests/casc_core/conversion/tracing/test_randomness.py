"""Dropout called as a function follows training and evaluation in the prepared copy; what is always random is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import casc_core
from casc_core import ConversionError
from casc_core.conversion.tracing.randomness import DROPOUTS

X = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Own(nn.Module):
    """Both spellings of activations: `functional` makes the prepared copy a GraphModule."""

    def __init__(self, drop: Callable[[Tensor, bool], Tensor], functional: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.act, self.fc = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Linear(6, 2)
        self.drop, self.functional = drop, functional

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.drop(F.relu(x) if self.functional else self.act(x), self.training)
        return self.fc(x.mean((2, 3)))


BY_NAME = {"p": 0.5}
FOLLOWING = {
    "F.dropout": lambda x, training: F.dropout(x, 0.5, training),
    "F.dropout, by name": lambda x, training: F.dropout(x, training=training, **BY_NAME),
    "F.dropout in place": lambda x, training: F.dropout(x, 0.5, training, True),
    "F.dropout2d": lambda x, training: F.dropout2d(x, 0.5, training),
    "F.dropout3d": lambda x, training: F.dropout3d(x[..., None], 0.5, training)[..., 0],
    "F.alpha_dropout": lambda x, training: F.alpha_dropout(x, 0.5, training),
    "F.feature_alpha_dropout": lambda x, training: F.feature_alpha_dropout(x, 0.5, training),
    "torch.dropout": lambda x, training: torch.dropout(x, 0.5, training),
    "torch.feature_dropout": lambda x, training: torch.feature_dropout(x, 0.5, training),
    "torch.alpha_dropout": lambda x, training: torch.alpha_dropout(x, 0.5, training),
    "its rate follows": lambda x, training: F.dropout(x, 0.5 if training else 0.0),
}


@cache
def without_dropout(functional: bool) -> tuple[Tensor, Tensor]:
    """What the prepared network without dropout answers, as trained and in spikes."""
    prepared = casc_core.prepare(Own(lambda x, training: x, functional), q=4).eval()
    return prepared(X).detach(), casc_core.convert(prepared)(X)


@pytest.mark.parametrize("functional", [False, True], ids=["modules", "functions"])
@pytest.mark.parametrize("spelling", FOLLOWING)
@pytest.mark.parametrize("training", [True, False])
def test_it_is_random_in_training_and_nothing_in_evaluation(spelling: str, functional: bool, training: bool) -> None:
    model = Own(FOLLOWING[spelling], functional).train(training)
    prepared = casc_core.prepare(model, q=4)
    assert isinstance(prepared, fx.GraphModule) == functional
    assert prepared.training == training
    assert not torch.equal(prepared.train()(X), prepared(X))
    trained, spiking = without_dropout(functional)
    assert torch.equal(prepared.eval()(X), trained)
    assert torch.equal(casc_core.convert(prepared)(X), spiking)


NEVER = {
    "off": lambda x, training: F.dropout(x, 0.5, False),
    "rate 0": lambda x, training: F.dropout(x, 0.0),
    "alpha, off unless told": lambda x, training: F.alpha_dropout(x, 0.5),
}


@pytest.mark.parametrize("functional", [False, True], ids=["modules", "functions"])
@pytest.mark.parametrize("spelling", NEVER)
def test_what_drops_nothing_in_training_does_not_begin_to(spelling: str, functional: bool) -> None:
    prepared = casc_core.prepare(Own(NEVER[spelling], functional), q=4).train()
    assert torch.equal(prepared(X), prepared(X))
    assert casc_core.verify(casc_core.convert(prepared), X).exact


ALWAYS = {
    "unless told": lambda x, training: F.dropout(x, 0.5),
    "told so": lambda x, training: F.dropout2d(x, training=True),
    "the wrong way round": lambda x, training: F.dropout(x, 0.5, not training),
    "of torch": lambda x, training: torch.dropout(x, 0.5, True),
    "in place": lambda x, training: torch.dropout_(x, 0.5, True),
    "alpha": lambda x, training: F.alpha_dropout(x, training=True),
    "features": lambda x, training: torch.feature_dropout(x, p=0.5, train=True),
}


@pytest.mark.parametrize("functional", [False, True], ids=["modules", "functions"])
@pytest.mark.parametrize("spelling", ALWAYS)
def test_what_is_random_in_evaluation_is_refused(spelling: str, functional: bool) -> None:
    for training in (True, False):
        with pytest.raises(
            ConversionError, match=r"dropout\w*\(\) .*random in evaluation too; pass training=self\.training"
        ):
            casc_core.prepare(Own(ALWAYS[spelling], functional).train(training), q=4)


@pytest.mark.parametrize("kind", sorted(set(DROPOUTS.values()), key=lambda kind: kind.__name__))
def test_modules_follow_by_themselves(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    rows = nn.Flatten(2) if kind is nn.Dropout1d else nn.Identity()
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), rows, kind(0.5), nn.Flatten(), nn.Linear(24, 2))
    prepared = casc_core.prepare(model, q=4).eval()
    assert casc_core.verify(casc_core.convert(prepared), X).exact
    torch.testing.assert_close(casc_core.convert(prepared, numerics="as trained").reference(X), prepared(X).detach())


def test_a_conversion_draws_no_number() -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    casc_core.convert(
        casc_core.prepare(nn.Sequential(nn.Conv2d(3, 2, 3, bias=False), nn.ReLU(), nn.Flatten()).eval(), q=2)
    )
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert not torch.equal(states[0], after[0])  # by the module that this test made
    assert states[1:] == after[1:]
