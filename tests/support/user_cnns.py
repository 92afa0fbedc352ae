"""Small convolutional networks as users write them: layers by name, and a `forward` of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import casc_core
from casc_core import SpikingModel

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
SERIES = torch.randn(6, 3, 12, generator=torch.Generator().manual_seed(1))


def conv(inputs: int = 3, outputs: int = 6, kernel: Any = 3, padding: Any = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=padding, **options)


class Head(nn.Sequential):
    """Pools and classifies, as most networks end."""

    def __init__(self, channels: int = 6, classes: int = 5) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def cnn(forward: Callable[..., Tensor], seed: int = 0, **layers: nn.Module) -> nn.Module:
    """A model with these layers and this forward, as training might leave it, in evaluation mode."""
    model = type("UserCNN", (nn.Module,), {"forward": forward})()
    for name, layer in layers.items():
        setattr(model, name, layer)
    return settled(model, seed)


def settled(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and statistics with which about half of the neurons spike."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            reads = module.weight[0].numel()
            module.weight.data.normal_(0, 1.2 / reads**0.5, generator=generator)
            if module.bias is not None:
                module.bias.data.uniform_(-0.1, 0.4, generator=generator)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm)) and module.running_var is not None:
            module.running_mean.uniform_(-0.3, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 2, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.uniform_(-0.2, 0.4, generator=generator)
    return model.eval()


def converted(model: nn.Module, q: int = 4, **options: Any) -> SpikingModel:
    """Prepared and converted with the adapter "cnn"."""
    return casc_core.convert(casc_core.prepare(model, adapter="cnn", q=q).eval(), adapter="cnn", **options)


def check(model: nn.Module, *inputs: Tensor, q: int = 4) -> SpikingModel:
    """It is exact, every population spikes, and it is the prepared model's own answer but where a sum falls on an edge."""
    ann = casc_core.prepare(model, adapter="cnn", q=q).eval()
    snn = casc_core.convert(ann, adapter="cnn")
    report = casc_core.verify(snn, *inputs)
    assert report.exact, str(report)
    spikes = snn.simulate(*inputs).spikes
    assert list(spikes) == list(snn.layers)
    assert all(int(layer.positive.sum()) > 0 for layer in spikes.values()), "a population never spikes"
    answer, usual, snn.memory_limit = snn(*inputs), snn.memory_limit, 1
    assert torch.equal(snn(*inputs), answer), "its samples, which are proven to be apart, give another answer alone"
    snn.memory_limit = usual
    with torch.no_grad():
        expected = ann(*inputs)
    for same in (snn, casc_core.convert(ann, adapter="cnn", numerics="as trained")):
        found = same.reference(*inputs)
        assert found.shape == expected.shape
        close = torch.isclose(found, expected, rtol=1e-3, atol=2e-3).flatten(1).float().mean(1)
        assert float(close.median()) > 0.9, f"{float((found - expected).abs().max()):.3g} from the network as trained"
    return snn


def asserted_sizes(self: Any, x: Tensor) -> Any:
    """A forward with assertions; it stands here because pytest compiles those of a test file in its own way."""
    assert x.dim() == 4
    assert x.shape[1] == 3 and x.shape[-1] >= 6, "a message"  # noqa: PT018
    return self.head(self.relu(self.a(x)))
