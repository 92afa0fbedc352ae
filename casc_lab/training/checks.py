"""What a training is refused for before it begins: numbers out of range, and a network that the machine cannot hold."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from casc_core.errors import ConfigError

MOST = 2**31 - 1
"""The largest count: epochs, samples in a batch."""
_BYTES = 4  # of a float32
_COPIES = 4  # a weight, its gradient, and the optimiser's two moments


def check_numbers(
    config: Any,
    *,
    counts: tuple[str, ...] = (),
    positive: tuple[str, ...] = (),
    not_negative: tuple[str, ...] = (),
    shares: tuple[str, ...] = (),
) -> None:
    """Raise `ConfigError` unless the fields of a configuration are in their ranges; its `seed` is one that torch takes.

    Args:
        config: its fields are looked up by name.
        counts: whole numbers of at least 1.
        positive: finite numbers above 0. not_negative: 0 as well.
        shares: numbers in [0, 1).

    >>> from types import SimpleNamespace
    >>> check_numbers(SimpleNamespace(seed=0, epochs=0), counts=("epochs",))
    Traceback (most recent call last):
    casc_core.errors.ConfigError: epochs must be an integer of at least 1; got 0
    """
    for name in counts:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be an integer of at least 1; got {value!r}")
        if value > MOST:
            raise ConfigError(f"{name} must be at most {MOST:,}; got {value}")
    if isinstance(config.seed, bool) or not isinstance(config.seed, int) or not 0 <= config.seed < 2**63:
        raise ConfigError(f"seed must be an integer from 0 to 2**63 - 1; got {config.seed!r}")
    for name in positive:
        if not 0.0 < getattr(config, name) < math.inf:
            raise ConfigError(f"{name} must be positive and finite; got {getattr(config, name)!r}")
    for name in not_negative:
        if not 0.0 <= getattr(config, name) < math.inf:
            raise ConfigError(f"{name} must be at least 0 and finite; got {getattr(config, name)!r}")
    for name in shares:
        if not 0.0 <= getattr(config, name) < 1.0:
            raise ConfigError(f"{name} must be in [0, 1); got {getattr(config, name)!r}")


def check_fits(build: Callable[[], nn.Module], remedy: str) -> None:
    """Refuse a network whose training takes more memory than the machine has, before anything is made of it.

    Args:
        build: makes the network; it is called on torch's device "meta", where it takes no memory.
        remedy: what to do.

    Raises:
        ConfigError: its weights, their gradients and the optimiser's moments do not fit.

    >>> check_fits(lambda: nn.Linear(10**9, 10**9), "take a smaller one")
    Traceback (most recent call last):
    casc_core.errors.ConfigError: a network of 1,000,000,001,000,000,000 parameters ... take a smaller one
    """
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build().parameters())
    needed, there = _COPIES * _BYTES * parameters, _machine_bytes()
    if needed > there:
        raise ConfigError(
            f"a network of {parameters:,} parameters takes {needed / 1e9:,.0f} GB to train, and this machine has "
            f"{there / 1e9:,.0f} GB; {remedy}"
        )


def _machine_bytes() -> float:
    """The machine's memory, where it says; else there is no bound."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return math.inf
