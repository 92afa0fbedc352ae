"""Writing a network as integers, with golden traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from casc_core.engine.batching.batch_parts import Inputs, Parts
from casc_core.engine.batching.following import Followed
from casc_core.engine.network import Network
from casc_core.engine.ops import device_of
from casc_core.engine.program import Program
from casc_core.errors import ConfigError, InputError
from casc_core.export.integers.folder import write_folder
from casc_core.export.integers.golden import golden
from casc_core.export.integers.sample import Simulate


def write_integers(
    folder: str | Path, network: Network, program: Program, samples: Parts, simulate: Simulate, awake: Sequence[int],
    with_hex: bool,
) -> None:  # fmt: skip
    """Write a network to a folder, whole or not at all; an earlier export there is replaced.

    Args:
        samples: as `one_by_one` gives them. simulate: of one of them.
        awake: 1 for each wake step that a run may have.
        with_hex: every tensor also as a file of its own.

    Raises:
        ConversionError: an operation has no integer form; ExactnessError: a number is no finite integer.
        ConfigError: the neuron is neither CIF nor IF; or the network is on another device than the CPU.
        InputError: samples that do not fit each other.
        StorageError: the folder cannot be written, or holds something that is not an export.
    """
    device = device_of(network.ops)
    if device not in (None, torch.device("cpu")):
        raise ConfigError(f"an export runs on the CPU, and the network is on {device}: export snn.cpu()")
    found = golden(network.settings, program, samples, simulate, awake)
    by_inputs = [name for name in program.returned.names if name not in program.returned.readouts]
    write_folder(found, network.settings, by_inputs, folder, with_hex)


def one_by_one(inputs: Inputs, whole: Followed) -> Parts:
    """Each sample of a batch by itself.

    Args:
        whole: what is known of the run of the batch.

    Raises:
        InputError: they cannot be taken apart.
    """
    if whole.why_not is not None:
        raise InputError(f"samples are exported one by one, and these cannot be taken apart: {whole.why_not}")
    return Parts(inputs, whole, whole.samples)


def arguments_of(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a network is called with, by position and by name: a tensor, a tuple of tensors, or a dict by argument."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}
