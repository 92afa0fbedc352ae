"""Networks whose weights and inputs are short binary fractions: the network itself, in float64, never rounds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import casc_core
from casc_core import SpikingModel


def dyadic(*shape: int, seed: int = 0, parts: int = 8, reach: int = 8) -> Tensor:
    """Random multiples of `1 / parts` up to `reach / parts`."""
    generator = torch.Generator().manual_seed(seed + 1000 * sum(shape))
    return torch.randint(-reach, reach + 1, shape, generator=generator) / parts


IMAGES = dyadic(3, 3, 6, 6, parts=16, reach=40)
ROWS = dyadic(4, 5, parts=16, reach=40)
SERIES = dyadic(3, 3, 8, parts=16, reach=40)


def network(forward: Callable[..., Tensor], seed: int = 0, **held: Any) -> nn.Module:
    """A model that holds these modules, tensors (as parameters), and numbers, and has this forward."""
    model = type("UserNetwork", (nn.Module,), {"forward": forward})()
    for name, value in held.items():
        if isinstance(value, Tensor) and name.startswith("buffer"):
            model.register_buffer(name, value)
        else:
            setattr(model, name, nn.Parameter(value) if isinstance(value, Tensor) else value)
    return settled(model, seed)


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """The weights of its layers on the grid, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:
            module.eps = 0.0
            module.running_mean.copy_(_like(module.running_mean, 4, 8, generator))
            module.running_var.copy_(4.0 ** torch.randint(-1, 2, module.running_var.shape, generator=generator))
        if isinstance(module.__dict__.get("_parameters", {}).get("weight"), nn.Parameter):
            with torch.no_grad():
                module.weight.copy_(_like(module.weight, 6, 16, generator))
                if getattr(module, "bias", None) is not None:
                    module.bias.copy_(_like(module.bias, 6, 16, generator))
    return model.eval()


def _like(x: Tensor, reach: int, parts: int, generator: torch.Generator) -> Tensor:
    return torch.randint(-reach, reach + 1, x.shape, generator=generator) / parts


def agrees(
    model: nn.Module, *inputs: Tensor, q: int = 4, folder: Path | None = None, spikes: bool = True
) -> SpikingModel:
    """It is exact, every population `spikes`, and its answer is that of the network itself in float64, bit for bit."""
    ann = casc_core.prepare(model, adapter="cnn", q=q).eval()
    snn = casc_core.convert(ann, adapter="cnn")
    report = casc_core.verify(snn, *inputs)
    assert report.exact, str(report)
    simulation = snn.simulate(*inputs)
    assert not spikes or all(int(layer.positive.sum()) > 0 for layer in simulation.spikes.values()), (
        "a population never spikes"
    )
    with torch.no_grad():
        expected = copy.deepcopy(ann).double()(*(x.double() if x.is_floating_point() else x for x in inputs))
    found = snn.reference(*inputs)
    assert found.shape == expected.shape
    assert torch.equal(found.double(), expected), f"{float((found - expected).abs().max()):.3g} from the network itself"
    assert torch.equal(simulation.logits[-1], found)
    if folder is not None:
        snn.save(folder / "net")
        assert torch.equal(casc_core.load(folder / "net")(*inputs), found)
    return snn
