"""Networks written as ONNX and run by onnxruntime, held against their references."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from casc_core import SpikingModel
from casc_core.engine.structure import outputs_of


def session(file: Path) -> Any:
    """A session that runs a model on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def answers(running: Any, inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The outputs of a session, by name."""
    known = {each.name for each in running.get_inputs()}
    given = {name: value.numpy() for name, value in inputs.items() if name in known}
    return dict(zip((each.name for each in running.get_outputs()), running.run(None, given), strict=True))


def opened(snn: SpikingModel, *examples: Tensor, **named: Tensor) -> Any:
    """The session of a network, written with these examples."""
    with tempfile.TemporaryDirectory() as folder:
        snn.export_onnx(f"{folder}/model.onnx", *examples, **named)
        return session(Path(folder) / "model.onnx")


def compare(snn: SpikingModel, examples: Sequence[Tensor], *batches: Sequence[Tensor]) -> None:
    """Every output equals the reference's, bit for bit, on the examples and on other batches."""
    running = opened(snn, *examples)
    for batch in (examples, *batches):
        named = dict(zip(snn.settings.arguments, batch, strict=False))
        program, expected = snn.program_for(frozenset(named)), snn.reference(*batch)
        for (name, found), output in zip(
            answers(running, named).items(), outputs_of(program.structure, expected), strict=True
        ):
            assert output.shape == found.shape, f"{name}: {found.shape}"
            assert torch.equal(torch.from_numpy(found), output), f"{name}: {found} is not {output}"
            assert not np.isnan(found).any()
