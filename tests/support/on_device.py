"""Networks of every kind, run on another device: their answers must be the CPU's, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
import torch.nn.functional as F
from detectors import IMAGE_NETWORKS, TwoTopics
from gated_cnns import GatedConvolution, lively, mobilenet_v3, se_resnet
from torch import Tensor, nn
from user_cnns import IMAGES, SERIES, Head, cnn, conv, settled

import casc_core
from casc_core import CIF, IF, Continuous, Exact, SpikingModel, WakeSleep
from casc_core.rivals.methods import RIVALS
from casc_seq.classifier import POOLINGS, ClassifierConfig, TextClassifier

Made = tuple[SpikingModel, tuple[Any, ...]]
T = 8


def moved(value: Any, device: torch.device | str) -> Any:
    """Tensors among inputs, on another device."""
    return tuple(each.to(device) if isinstance(each, Tensor) else each for each in value)


def answers(snn: SpikingModel, inputs: tuple[Any, ...]) -> dict[str, Any]:
    """All that a network says of some inputs."""
    found = {"reference": snn.reference(*inputs), f"T={T}": snn.simulate(*inputs, T=T)}
    if not isinstance(snn.settings.schedule, Continuous):
        found |= {"call": snn(*inputs), "until silent": snn.simulate(*inputs)}
    report = casc_core.verify(snn, *inputs)
    found["verify"] = {"exact": report.exact, "layers": report.layers, "lowering": report.lowering}
    return found


def unlike(a: Any, b: Any, path: str = "") -> Iterator[str]:
    """Where two values differ, in any bit, wherever their tensors are."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.dtype != b.dtype or not torch.equal(a.cpu(), b.cpu()):
            yield path
    elif type(a) is not type(b):
        yield f"{path}: a {type(a).__name__} and a {type(b).__name__}"
    elif isinstance(a, Mapping):
        if a.keys() != b.keys():
            yield f"{path}: other keys"
        for key in a.keys() & b.keys():
            yield from unlike(a[key], b[key], f"{path}[{key!r}]")
    elif isinstance(a, (tuple, list)):
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from unlike(one, other, f"{path}[{index}]")
    elif is_dataclass(a) and not isinstance(a, type):
        for each in fields(a):
            yield from unlike(getattr(a, each.name), getattr(b, each.name), f"{path}.{each.name}")
    elif callable(a):
        pass
    elif a != b and not (isinstance(a, float) and a != a and b != b):
        yield f"{path}: {a!r:.60} and {b!r:.60}"


def differences(made: Made, device: torch.device | str) -> list[str]:
    """What differs when a network and its inputs are moved to a device, and back."""
    snn, inputs = made
    here = answers(snn, inputs)
    there = answers(snn.to(device), moved(inputs, device))
    again = answers(snn.to("cpu"), inputs)
    return [*unlike(here, there), *(f"back on the CPU: {each}" for each in unlike(here, again))]


CASES: dict[str, Callable[[], Made]] = {}
"""Networks by name, each with its inputs."""


def case(name: str, make: Callable[[], nn.Module], *inputs: Tensor, q: int | None = 4, **options: Any) -> None:
    """Add a network: of a model that `prepare` takes, or of a prepared one (`q` None)."""

    def converted() -> Made:
        torch.manual_seed(0)
        model = make()
        ann = model.eval() if q is None else casc_core.prepare(model, q=q).eval()
        return casc_core.convert(ann, **options), inputs

    assert name not in CASES
    CASES[name] = converted


class Forward(nn.Module):
    """A forward of functions behind a convolution, and a readout."""

    def __init__(self, forward: Callable[[Tensor], Tensor], features: int) -> None:
        super().__init__()
        self.first, self.fc, self.between = conv(), nn.Linear(features, 5), forward

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.fc(self.between(F.relu(self.first(x))).flatten(1))
        return result


def _forward(name: str, forward: Callable[[Tensor], Tensor], **options: Any) -> None:
    features = forward(torch.ones(1, 6, 8, 8)).numel()
    case(name, lambda: settled(Forward(forward, features)), IMAGES[:3], **options)


DETECTOR_IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
for _name, _make in IMAGE_NETWORKS.items():
    case(_name, lambda make=_make: settled(make()), DETECTOR_IMAGES)
for _name, _gate in (("sigmoid", nn.Sigmoid), ("hardsigmoid", nn.Hardsigmoid)):
    case(f"squeeze and excitation, {_name}", lambda gate=_gate: se_resnet(gate), IMAGES[:2])
case("MobileNetV3", lambda: mobilenet_v3(True), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(2)))
case("gated convolution", lambda: lively(GatedConvolution()), IMAGES[:2, :, :4, :4])
case("two topics", TwoTopics, torch.randint(0, 20, (3, 5), generator=torch.Generator().manual_seed(1)))

_forward("average pool, unequal windows", lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True))
_forward("average pool, padding not counted", lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False))
_forward("average pool, padding counted", lambda x: F.avg_pool2d(x, 3, 2, 1))
_forward("adaptive average pool, unequal parts", lambda x: F.adaptive_avg_pool2d(x, 3))
_forward("average pool of a size", lambda x: F.avg_pool2d(x, x.shape[2:]))
_forward("maximum pool, padded", lambda x: F.max_pool2d(x, 3, 2, 1))
_forward("adaptive maximum pool", lambda x: F.adaptive_max_pool2d(x, 3))
_forward("bilinear interpolation", lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"))
_forward("interpolation to a size", lambda x: F.interpolate(x, (5, 7), mode="bilinear", align_corners=True))
_forward("nearest interpolation", lambda x: F.interpolate(x, scale_factor=2))
_forward("product of two signals", lambda x: x * x.flip(1))
_forward("product with a mean", lambda x: x * x.mean((2, 3), keepdim=True))
_forward("parts joined", lambda x: torch.cat([x[:, :2].mean(1, keepdim=True), x[:, 2:]], 1))
_forward("parts stacked", lambda x: torch.stack([x.mean(1), x.amax(1)], 1))
_forward("factors and offsets", lambda x: (x * torch.tensor(0.75) - 0.25) / 3)
_forward("padded and rolled", lambda x: F.pad(x, (1, 2)).roll(1, -1))

_SMALL = {"embedding_size": 5, "hidden_size": 6, "vocabulary_size": 30, "classes": 3, "q": 3}
_TOKENS = torch.randint(2, 30, (4, 3), generator=torch.Generator().manual_seed(3))
_LENGTHS = torch.tensor([3, 2, 1, 3])
for _cell in ("rnn", "gru", "lstm"):
    for _pooling in POOLINGS:
        _config = ClassifierConfig(**_SMALL, cell=_cell, pooling=_pooling, num_layers=1 + (_pooling == "max"))
        case(f"text {_cell}, {_pooling}", lambda config=_config: TextClassifier(config), _TOKENS, _LENGTHS, q=None)
case("text cnn", lambda: TextClassifier(ClassifierConfig(**_SMALL, model="textcnn")), _TOKENS, _LENGTHS, q=None)


class Recurrent(nn.Module):
    """A layer of torch's over real numbers, positions first, from a state that is given."""

    def __init__(self, layer: nn.Module, states: int) -> None:
        super().__init__()
        self.layer, self.fc, self.states = layer, nn.Linear(4, 3), states

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        given = (start, start) if self.states == 2 else start
        result: Tensor = self.fc(self.layer(x, given)[0][-1])
        return result


_REAL = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(4))
_START = torch.rand(1, 3, 4, generator=torch.Generator().manual_seed(5))
for _kind, _states in ((nn.RNN, 1), (nn.GRU, 1), (nn.LSTM, 2)):
    case(f"{_kind.__name__} with a state", lambda kind=_kind, n=_states: Recurrent(kind(4, 4), n), _REAL, _START)


def _three_layers() -> nn.Module:
    norm = nn.BatchNorm2d(6)
    forward = lambda self, x: self.head(self.r2(self.b(self.pool(self.r1(self.n(self.a(x)))))))  # noqa: E731
    return cnn(
        forward, a=conv(), n=norm, r1=nn.ReLU(), pool=nn.MaxPool2d(2), b=conv(6, 6, groups=2), r2=nn.ReLU(), head=Head()
    )


def _text() -> nn.Module:
    return TextClassifier(ClassifierConfig(**_SMALL))


for _numerics in (Exact(16), Exact(8)):
    case(f"three layers, {_numerics}", _three_layers, IMAGES, numerics=_numerics)
    case(f"text, {_numerics}", _text, _TOKENS, _LENGTHS, q=None, numerics=_numerics)
_NEURONS = {name: (method.neuron, method.schedule) for name, method in RIVALS.items()}
_NEURONS |= {
    "IF, continuous": (IF(), Continuous()), "CIF, continuous": (CIF(), Continuous()),
    "CIF from half a threshold": (CIF(initial_potential=0.5), WakeSleep()), "two cycles": (CIF(), WakeSleep(2, 2)),
}  # fmt: skip
for _name, (_neuron, _schedule) in _NEURONS.items():
    case(f"three layers, {_name}", _three_layers, IMAGES, neuron=_neuron, schedule=_schedule)
    case(f"text, {_name}", _text, _TOKENS, _LENGTHS, q=None, neuron=_neuron, schedule=_schedule)
case(
    "GRU from half a threshold", lambda: TextClassifier(ClassifierConfig(**_SMALL, cell="gru")), _TOKENS, _LENGTHS, q=None,
    neuron=CIF(initial_potential=0.5),
)  # fmt: skip
_VOLUMES = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(6))
_LAYERS = {
    "volumes": ([nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 2)], 81, _VOLUMES),
    "series": ([nn.Conv1d(3, 6, 3, 2, 1), nn.ReLU(), nn.Conv1d(6, 6, 3, dilation=2)], 12, SERIES),
    "transposed": ([nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3, 2, 1, 1)], 384, IMAGES),
}
for _name, (_layers, _features, _inputs) in _LAYERS.items():
    _all = (*_layers, nn.ReLU(), nn.Flatten(), nn.Linear(_features, 3))
    case(f"convolutions, {_name}", lambda layers=_all: settled(nn.Sequential(*layers)), _inputs)
_THRESHOLDS = torch.linspace(0.5, 2.0, 6)
_EACH = conv(), casc_core.CQReLU(4, _THRESHOLDS), conv(6, 6), casc_core.CQReLU(4, _THRESHOLDS, half_step=True), Head()
case("thresholds by channel", lambda: settled(nn.Sequential(*_EACH)), IMAGES, q=None)
