"""The networks of the recipes: sizes and names as published, shapes, pools, options. Built on the meta device, so that
nothing is computed where only shapes count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from image_recipes.models import MODELS, Residual, build, regnet_stages
from torch import fx, nn

from casc_core.errors import ConfigError

PUBLISHED = {  # what torchvision states, ImageNet form with 1000 classes: parameters, and entries of the state_dict
    "vgg16": (138_365_992, 97),
    "vgg16 as published": (138_357_544, 32),
    "resnet34": (21_797_672, 218),
    "regnet_x_8gf": (39_572_648, 446),
    "resnext50_32x4d": (25_028_904, 320),
}
KNOWN = {  # some of the entries of torchvision's weight files, with their shapes
    "vgg16": {
        "features.0.weight": (64, 3, 3, 3),
        "features.0.bias": (64,),
        "features.1.weight": (64,),
        "features.1.running_mean": (64,),
        "features.1.num_batches_tracked": (),
        "features.3.weight": (64, 64, 3, 3),
        "features.7.weight": (128, 64, 3, 3),
        "features.14.weight": (256, 128, 3, 3),
        "features.24.weight": (512, 256, 3, 3),
        "features.40.weight": (512, 512, 3, 3),
        "features.41.running_var": (512,),
        "classifier.0.weight": (4096, 25088),
        "classifier.3.weight": (4096, 4096),
        "classifier.6.weight": (1000, 4096),
        "classifier.6.bias": (1000,),
    },
    "vgg16 as published": {
        "features.0.weight": (64, 3, 3, 3),
        "features.2.weight": (64, 64, 3, 3),
        "features.5.weight": (128, 64, 3, 3),
        "features.10.weight": (256, 128, 3, 3),
        "features.17.weight": (512, 256, 3, 3),
        "features.28.weight": (512, 512, 3, 3),
        "features.28.bias": (512,),
        "classifier.0.weight": (4096, 25088),
    },
    "resnet34": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer1.2.bn2.bias": (64,),
        "layer2.0.conv1.weight": (128, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.num_batches_tracked": (),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.0.downsample.1.running_mean": (512,),
        "layer4.2.bn2.weight": (512,),
        "fc.weight": (1000, 512),
        "fc.bias": (1000,),
    },
    "regnet_x_8gf": {
        "stem.0.weight": (32, 3, 3, 3),
        "stem.1.running_mean": (32,),
        "trunk_output.block1.block1-0.proj.0.weight": (80, 32, 1, 1),
        "trunk_output.block1.block1-0.proj.1.bias": (80,),
        "trunk_output.block1.block1-0.f.a.0.weight": (80, 32, 1, 1),
        "trunk_output.block1.block1-0.f.a.1.weight": (80,),
        "trunk_output.block1.block1-0.f.b.0.weight": (80, 80, 3, 3),
        "trunk_output.block1.block1-1.f.c.0.weight": (80, 80, 1, 1),
        "trunk_output.block2.block2-4.f.b.0.weight": (240, 120, 3, 3),
        "trunk_output.block3.block3-0.proj.0.weight": (720, 240, 1, 1),
        "trunk_output.block3.block3-14.f.c.1.running_var": (720,),
        "trunk_output.block4.block4-0.f.b.0.weight": (1920, 120, 3, 3),
        "fc.weight": (1000, 1920),
    },
    "resnext50_32x4d": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.conv1.weight": (128, 64, 1, 1),
        "layer1.0.conv2.weight": (128, 4, 3, 3),
        "layer1.0.bn3.weight": (256,),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer2.3.conv1.weight": (256, 512, 1, 1),
        "layer3.5.conv3.weight": (1024, 512, 1, 1),
        "layer4.1.conv2.weight": (1024, 32, 3, 3),
        "layer4.2.bn3.running_mean": (2048,),
        "fc.weight": (1000, 2048),
    },
}
NEURONS = {
    "vgg16": 13,
    "resnet20": 19,
    "resnet20a": 19,
    "resnet34": 33,
    "regnet_x_8gf": 70,
    "resnext50_32x4d": 49,
}  # layers of them


def on_meta(name: str, *args: Any, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return build(name, *args, **options).eval()


def as_published(name: str) -> nn.Module:
    options = {} if name in MODELS else {"batch_norm": False}
    return on_meta(name.split()[0], 1000, stem="imagenet", **options)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_and_names_are_those_of_torchvision(name: str) -> None:
    model = as_published(name)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert (parameters(model), len(shapes)) == PUBLISHED[name]
    assert {key: shapes.get(key) for key in KNOWN[name]} == KNOWN[name]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 272_474), ({"width": 64}, 4_327_754), ({"channels": 1}, 272_186)],
)
def test_resnet20_with_projections(options: dict[str, int], expected: int) -> None:
    """He et al. count 0.27M. Without the projections it would be 2,752 fewer."""
    model = on_meta("resnet20", 10, **options)
    assert parameters(model) == expected
    assert [key for key in model.state_dict() if key.endswith("downsample.0.weight")] == [
        "layer2.0.downsample.0.weight",
        "layer3.0.downsample.0.weight",
    ]


def test_regnet_stages_of_the_paper() -> None:
    assert regnet_stages(w_0=80, w_a=49.56, w_m=2.88, depth=23, group=120) == [(2, 80), (5, 240), (15, 720), (1, 1920)]
    # RegNetX-400MF of the same paper
    assert regnet_stages(w_0=24, w_a=24.48, w_m=2.54, depth=22, group=16) == [(1, 32), (2, 64), (7, 160), (12, 384)]


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize(("stem", "size"), [("small", 32), ("imagenet", 224), ("imagenet", 64)])
@pytest.mark.parametrize("name", MODELS)
def test_images_to_logits(name: str, stem: str, size: int, pooling: str) -> None:
    model = on_meta(name, 7, stem=stem, pooling=pooling)
    assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 7)
    pools = {"vgg16": 5, "regnet_x_8gf": 0}.get(name, 1 if stem == "imagenet" else 0)
    assert count(model, nn.MaxPool2d) == (pools if pooling == "max" else 0)
    assert count(model, nn.AvgPool2d) == (pools if pooling == "average" else 0)


@pytest.mark.parametrize(
    ("name", "stem", "expected"),
    [
        ("vgg16", "small", (512, 1)),
        ("vgg16", "imagenet", (512, 7)),
        ("resnet20", "small", (64, 8)),
        ("resnet34", "small", (512, 4)),
        ("resnet34", "imagenet", (512, 7)),
        ("regnet_x_8gf", "small", (1920, 4)),
        ("regnet_x_8gf", "imagenet", (1920, 7)),
        ("resnext50_32x4d", "small", (2048, 4)),
        ("resnext50_32x4d", "imagenet", (2048, 7)),
    ],
)
def test_size_of_the_last_map(name: str, stem: str, expected: tuple[int, int]) -> None:
    """Small: a stage more than the image is halved; ImageNet: 224 is divided by 32."""
    shapes = []
    model = on_meta(name, 10, stem=stem)
    model.get_submodule("avgpool").register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    size = 32 if stem == "small" else 224
    model(torch.empty(1, 3, size, size, device="meta"))
    channels, side = expected
    assert shapes == [(1, channels, side, side)]


@pytest.mark.parametrize("stem", ["small", "imagenet"])
@pytest.mark.parametrize("name", MODELS)
def test_every_layer_of_neurons_is_a_module_of_its_own(name: str, stem: str) -> None:
    model = on_meta(name, 10, stem=stem)
    calls = [node.target for node in fx.symbolic_trace(model).graph.nodes if node.op == "call_module"]
    relus = [target for target in calls if isinstance(model.get_submodule(str(target)), nn.ReLU)]
    expected = NEURONS[name] + (2 if (name, stem) == ("vgg16", "imagenet") else 0)
    assert len(relus) == len(set(relus)) == count(model, nn.ReLU) == expected


def test_values() -> None:
    """Real numbers: a trace computes what the network does, a sample does not depend on its batch, training moves it."""
    torch.manual_seed(0)
    model = build("resnet20", 5, width=4, channels=1)
    images = torch.randn(3, 1, 16, 16)
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval()
    with torch.no_grad():
        assert torch.equal(fx.symbolic_trace(model)(images), model(images))
        torch.testing.assert_close(model(images)[1:2], model(images[1:2]))


def test_first_weights() -> None:
    """Convolutions: normal with variance 2 / fan-out; linear layers: deviation 0.01; biases 0."""
    torch.manual_seed(0)
    model = build("vgg16", 10, width=16)
    weight = model.get_parameter("features.40.weight")
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert model.get_parameter("classifier.weight").std().item() == pytest.approx(0.01, rel=0.1)
    biases = [value for name, value in model.named_parameters() if name.endswith("bias")]
    assert len(biases) == 27
    assert not any(bias.any() for bias in biases)


@pytest.mark.parametrize("shortcut", [{}, {"scale": nn.Identity()}])
def test_residual(shortcut: dict[str, nn.Module]) -> None:
    block = Residual({"first": nn.Flatten(), "second": nn.Unflatten(1, (2, 1))}, shortcut)
    x = torch.tensor([[[1.0], [-2.0]]])
    assert torch.equal(block(x), torch.tensor([[[2.0], [0.0]]]))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "vgg19",
            {},
            "no model 'vgg19': choose one of vgg16, resnet20, resnet20a, resnet34, regnet_x_8gf, resnext50_32x4d",
        ),
        ("vgg16", {"stem": "tiny"}, "no stem 'tiny': choose one of small, imagenet"),
        ("vgg16", {"pooling": "avg"}, "no pooling 'avg': choose one of max, average"),
        ("vgg16", {"widht": 8}, r"vgg16 has no option 'widht' \(given as 8\): it takes channels, batch_norm, width"),
        ("regnet_x_8gf", {"width": 8}, r"no option 'width' \(given as 8\): it takes channels$"),
        ("resnet34", {"batch_norm": False}, "resnet34 has no option 'batch_norm'"),
        ("vgg16", {"batch_norm": 1}, "batch_norm must be True or False; got 1"),
        ("resnet20", {"width": 0}, "width must be an integer of at least 1; got 0"),
        ("resnet20", {"width": 16.0}, r"width must be an integer of at least 1; got 16\.0"),
        ("resnet20", {"channels": True}, "channels must be an integer of at least 1; got True"),
        ("resnet20", {"classes": 0}, "classes must be an integer of at least 1; got 0"),
    ],
)
def test_errors(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, **{"classes": 10, **options})
