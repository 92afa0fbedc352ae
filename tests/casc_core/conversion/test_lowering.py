"""What is folded, scaled and cast between populations, against the network itself in float64.

Weights, thresholds and inputs are binary fractions of few bits, so that nothing is rounded on the way: no level may differ.
"""

import copy
import warnings
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import casc_core
from casc_core import CQReLU

Q = 4


class Net(nn.Module):
    """Two convolutions, normalisations and activations of several thresholds; the forward is given."""

    def __init__(self, forward):
        super().__init__()
        self.c, self.d, self.p = (
            nn.Conv2d(3, 3, 3, padding=1),
            nn.Conv2d(3, 3, 3, padding=1),
            nn.Conv2d(3, 3, 1, bias=False),
        )
        self.bn, self.bn1 = nn.BatchNorm2d(3, eps=0.0), nn.BatchNorm1d(3, eps=0.0)
        self.a, self.two, self.most = CQReLU(Q), CQReLU(Q, 2.0), CQReLU(Q, 0.75)
        self.each, self.other = CQReLU(Q, torch.tensor([0.75, 1.5, 2.0])), CQReLU(Q, torch.tensor([3.0, 0.5, 0.375]))
        self.nearest = CQReLU(Q, 0.75, half_step=True)
        self.up, self.fc = nn.Upsample(scale_factor=1.3, recompute_scale_factor=True), nn.Linear(3, 2)
        self.inner = forward
        for parameter in self.parameters():
            parameter.data = (parameter.data * 8).round() / 8
        for norm in (self.bn, self.bn1):
            norm.running_var = torch.tensor([0.25, 1.0, 4.0])
            norm.running_mean, norm.bias.data = torch.randint(-4, 4, (2, 3)) / 8
            norm.weight.data = torch.tensor([0.5, -1.25, 2.0])

    def forward(self, x):
        return self.inner(self, x)

    def answer(self, x):
        return self.fc(x.sum((2, 3)) / 8)


FORWARDS = {
    "conv(-bn)": lambda s, x: s.answer(s.a(s.d(-s.bn(s.a(s.c(x)))))),
    "conv(bn * 4)": lambda s, x: s.answer(s.a(s.d(s.bn(s.a(s.c(x))) * 4))),
    "conv(bn / 2)": lambda s, x: s.answer(s.a(s.d(s.bn(s.a(s.c(x))) / 2))),
    "conv(bn + 1/2)": lambda s, x: s.answer(s.a(s.d(s.bn(s.a(s.c(x))) + 0.5))),
    "conv(1 - bn)": lambda s, x: s.answer(s.a(s.d(1 - s.bn(s.a(s.c(x)))))),
    "bn(-conv)": lambda s, x: s.answer(s.a(s.bn(-s.d(s.a(s.c(x)))))),
    "bn(conv * 4)": lambda s, x: s.answer(s.a(s.bn(s.d(s.a(s.c(x))) * 4))),
    "conv * 4 + 1": lambda s, x: s.answer(s.a(s.d(s.a(s.c(x))) * 4 + 1)),
    "(conv + 1) * 4": lambda s, x: s.answer(s.a((s.d(s.a(s.c(x))) + 1) * 4)),
    "bn(bn * 2)": lambda s, x: s.answer(s.a(s.d(s.bn(s.bn(s.a(s.c(x))) * 2)))),
    "bn(x) and -bn(x)": lambda s, x: s.answer(s.a(s.d((y := s.bn(s.a(s.c(x)))) * 2) - s.p(y))),
    "linear(bn / 2)": lambda s, x: s.fc(s.bn1(s.a(s.c(x)).sum((2, 3)) / 8) / 2),
    "linear(-bn + 1)": lambda s, x: s.fc(1 - s.bn1(s.a(s.c(x)).sum((2, 3)) / 8)),
    "bn behind an activation": lambda s, x: s.answer(s.a(s.bn(s.a(s.c(x))))),
    "-bn behind an activation": lambda s, x: s.answer(s.a(0.5 - s.bn(s.a(s.c(x))))),
    "max(-bn)": lambda s, x: s.answer(s.a(s.d(F.max_pool2d(-s.bn(s.a(s.c(x))), 2)))),
    "max(bn * 2)": lambda s, x: s.answer(s.a(s.d(F.max_pool2d(s.bn(s.a(s.c(x))) * 2, 2)))),
    "conv(-each)": lambda s, x: s.answer(s.a(s.d(-s.each(s.c(x))))),
    "conv(each * 4)": lambda s, x: s.answer(s.a(s.d(s.each(s.c(x)) * 4))),
    "two, most": lambda s, x: s.answer(s.most(s.two(s.c(x)))),
    "most, two": lambda s, x: s.answer(s.two(s.most(s.c(x)))),
    "most, nearest": lambda s, x: s.answer(s.nearest(s.two(s.most(s.c(x))))),
    "sum of thresholds": lambda s, x: s.answer(s.two(s.most(s.c(x)) + s.two(s.d(x)) - s.a(s.d(x)))),
    "sum of most, two": lambda s, x: s.answer(s.two(s.most(s.c(x) * 2) + s.most(s.d(x) * 2) + s.most(s.p(x) * 2))),
    "sum pool, two": lambda s, x: s.answer(s.two(F.avg_pool2d(s.most(s.c(x) * 2), 2, divisor_override=1))),
    "sum of a pool": lambda s, x: s.answer(s.most(F.avg_pool2d(s.two(s.c(x)), 3, 1, 1) + s.a(s.d(x)))),
    "pool, two": lambda s, x: s.answer(s.two(F.avg_pool2d(s.most(s.c(x)), 3, 1, 1) * 3)),
    "third, two": lambda s, x: s.answer(s.two(s.most(s.c(x)) / 3 + s.a(s.d(x)) / 7)),
    "most, each": lambda s, x: s.answer(s.each(s.most(s.c(x)))),
    "each, most": lambda s, x: s.answer(s.most(s.each(s.c(x)))),
    "each, pool, other": lambda s, x: s.answer(s.other(F.avg_pool2d(s.each(s.c(x)), 3, 1, 1))),
    "each + most, two": lambda s, x: s.answer(s.two(s.each(s.c(x)) + s.most(s.d(x)))),
    "pools of read sizes": lambda s, x: s.answer(
        s.a(F.adaptive_avg_pool2d(y := s.a(s.c(x)), x[:, :, ::2, 1:].shape[2:]))
        + F.adaptive_max_pool2d(y, (x.shape[2] // 2 + 1, y.shape[3] - 1))
    ),
    "each of an input": lambda s, x: s.answer(s.a(s.d(s.each(x) + s.other(x * 2)))),
    "each of a sum": lambda s, x: s.answer(s.each(s.c(x) + s.most(s.d(x)))),
    "a scaled mixture": lambda s, x: s.answer(s.a(torch.cat([s.two(x)[:, :2], x[:, 2:]], 1) * 0.75)),
    "a scaled sum with an input": lambda s, x: s.answer(s.a((s.two(x) + x) * 1.5)),
    "a scaled maximum": lambda s, x: s.answer(s.a(torch.stack([s.two(x), x], 1).amax(1) * 1.5)),
    "maximum, each": lambda s, x: s.answer(s.each(F.max_pool2d(s.most(s.c(x)), 2, 1))),
    "to float": lambda s, x: s.answer(s.a(s.d(s.a(s.c(x)).to(torch.float64).float().to(x.dtype)).type_as(x))),
    "to a device": lambda s, x: s.answer(s.a(s.d(-s.bn(s.a(s.c(x))).to(x.device))).to("cpu", x.dtype)),
    "sum in double": lambda s, x: s.fc(s.a(s.c(x)).sum((2, 3), dtype=torch.float64).type(x.dtype) / 8),
    "maps in a row": lambda s, x: s.answer(s.p(s.p(s.p(s.p(s.a(s.c(x))))))),
    "stretched": lambda s, x: s.answer(s.a(s.up(s.a(s.c(x))))),
}


def made(forward):
    torch.manual_seed(3)
    return Net(forward).eval(), torch.randint(-256, 256, (6, 3, 7, 7)) / 128


def in_float64(model, x):
    """The network's logits in float64, and the level of every activation in the order in which they are called."""
    model, levels = copy.deepcopy(model).double(), []

    def note(module, _, output):
        threshold = torch.as_tensor(module.threshold, dtype=torch.float64)
        threshold = threshold.reshape(-1, 1, 1) if threshold.dim() else threshold
        levels.append((output * module.q / threshold).round())

    for module in model.modules():
        if isinstance(module, CQReLU):
            module.register_forward_hook(note)
    with torch.no_grad(), warnings.catch_warnings():
        return model(x.double()), levels


@pytest.mark.parametrize("forward", FORWARDS.values(), ids=FORWARDS)
def test_levels_are_those_of_the_network_itself(forward):
    model, x = made(forward)
    snn = casc_core.convert(model, adapter="cnn")
    expected, levels = in_float64(model, x)
    logits, counts = snn.reference_counts((x,), {})
    for (name, count), level in zip(counts.items(), levels, strict=True):
        assert torch.equal(count.double(), level), name
    torch.testing.assert_close(logits.double(), expected, rtol=1e-6, atol=1e-6)
    assert any(bool(level.any()) for level in levels)
    assert casc_core.verify(snn, x).exact


CASTS = {
    "to": lambda s, x: s.answer(s.a(s.c(x)).to(torch.int16).float()),
    "to by keyword": lambda s, x: s.answer(s.a(s.c(x).to(dtype=torch.int32).float())),
    "to half": lambda s, x: s.answer(s.a(s.c(x)).to(torch.float16).float()),
    "to a type of integers": lambda s, x: s.answer(s.a(s.c(x)).type("torch.LongTensor").float()),
    "int of currents": lambda s, x: s.answer(s.a(s.c(x).int().float())),
    "long of currents": lambda s, x: s.answer(s.a(s.c(x).long().float())),
    "bool of currents": lambda s, x: s.answer(s.a(s.c(x).bool().float())),
    "half": lambda s, x: s.answer(s.a(s.c(x)).half().float()),
    "sum": lambda s, x: s.fc(s.a(s.c(x)).sum((2, 3), dtype=torch.int32).float()),
    "mean": lambda s, x: s.fc(torch.mean(s.a(s.c(x)), (2, 3), dtype=torch.float16).float()),
    "bits": lambda s, x: s.answer(s.a(s.c(x)).view(torch.int32).float()),
    "type of a buffer": lambda s, x: s.answer(s.a(s.c(x)).to(s.bn.num_batches_tracked).float()),
}


@pytest.mark.parametrize("forward", CASTS.values(), ids=CASTS)
def test_a_cast_that_rounds_is_refused(forward):
    model, _ = made(forward)
    with pytest.raises(casc_core.ConversionError, match=r"round|bits of numbers"):
        casc_core.convert(model, adapter="cnn")


class ByInput(nn.Module):
    """Casts to the type of its second input."""

    def __init__(self):
        super().__init__()
        self.c, self.a, self.fc = nn.Linear(4, 8), CQReLU(Q), nn.Linear(8, 2)

    def forward(self, x, other):
        return self.fc(self.a(self.c(x)).to(other.dtype) * (other > 0).float()[:, None])


def test_a_cast_to_the_type_of_an_input_is_asked_for_at_every_call():
    snn, x = casc_core.convert(ByInput(), adapter="cnn"), torch.randn(3, 4)
    snn(x, torch.ones(3))
    with pytest.raises(casc_core.InputError, match=r"torch\.int64, which rounds"):
        snn(x, torch.ones(3, dtype=torch.int64))


@pytest.mark.parametrize("above", [0, 1])
@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_a_sum_that_meets_a_threshold_to_the_last_bit_reaches_it(parts, above):
    """Spikes of one population, of which so many are exactly the threshold of the next, or miss it by its last bit."""
    first = torch.rand(64, generator=torch.Generator().manual_seed(parts)) + 0.5
    for one in first.tolist():
        second = torch.tensor(one) * parts
        if Fraction(second.item()) != Fraction(one) * parts:
            continue  # the product is no float32
        second = torch.nextafter(second, second * 2) if above else second
        model = nn.Sequential(CQReLU(Q, one), nn.AvgPool1d(2), CQReLU(Q, second), nn.Flatten(), nn.Linear(8, 2))
        x = torch.randint(-1, Q + 2, (16, 1, 16)) * (one / Q) + one / Q / 2
        counts = casc_core.convert(model, adapter="cnn").reference_counts((x,), {})[1]
        pairs = counts["0"].long().unflatten(-1, (8, 2)).sum(-1)
        share = Fraction(one) / 2 / Fraction(second.item())
        levels = [min(Q, int(share * count)) for count in pairs.flatten().tolist()]
        assert counts["2"].flatten().tolist() == levels


class Filled(nn.Module):
    """Fills part of its features; the forward is given."""

    def __init__(self, forward):
        super().__init__()
        self.c, self.a, self.fc, self.inner = nn.Linear(4, 8), CQReLU(Q), nn.Linear(8, 2), forward

    def forward(self, x, mask):
        return self.inner(self, x, mask)


FILLS = {
    "the output": lambda s, x, mask: s.fc(s.a(s.c(x))).masked_fill(mask[:, :2], -1e9),
    "a sum": lambda s, x, mask: s.fc(s.a(s.c(x).masked_fill(mask, -1e9) + 1)),
    "an activation": lambda s, x, mask: s.fc(s.a(s.c(x).masked_fill(mask, float("-inf")))),
    "a linear map": lambda s, x, mask: s.fc(s.a(s.c(x)).masked_fill(mask, -1e9)),
    "a factor": lambda s, x, mask: (s.fc(s.a(s.c(x))).masked_fill(mask[:, :2], -1e9) * mask[:, 2:4].float()).amax(1),
}


@pytest.mark.parametrize("forward", FILLS.values(), ids=FILLS)
def test_only_a_maximum_reads_minus_infinity(forward):
    with pytest.raises(casc_core.ConversionError, match="only a maximum may read"):
        casc_core.convert(Filled(forward), adapter="cnn")


def test_a_finite_fill_lies_below_every_sum():
    torch.manual_seed(0)
    model = Filled(lambda s, x, mask: s.fc(s.a(s.c(x))).masked_fill(mask[:, :2], -2e4).amax(1, keepdim=True))
    mask = torch.zeros(3, 8, dtype=torch.bool)
    mask[1, 0] = mask[2, 1] = True
    snn, x = casc_core.convert(model, adapter="cnn"), torch.randn(3, 4)
    torch.testing.assert_close(snn(x, mask), model(x, mask).detach(), atol=1e-3, rtol=1e-3)
    model.fc.weight.data *= 1e5
    with pytest.raises(casc_core.InputError, match=r"fill with float\('-inf'\)"):
        casc_core.convert(model, adapter="cnn")(x, mask)


def test_a_size_that_must_be_known_is_not_read_from_an_input():
    model, _ = made(lambda s, x: s.answer(s.a(F.conv2d(s.a(s.c(x)), s.d.weight, padding=x.shape[2] // 7))))
    with pytest.raises(casc_core.ConversionError, match=r"computed from the inputs, where a number is needed"):
        casc_core.convert(model, adapter="cnn")


class Joined(nn.Module):
    """Joins means over different numbers of entries with what is no mean."""

    def __init__(self, forward):
        super().__init__()
        self.a, self.b, self.fc, self.small, self.inner = (
            CQReLU(Q),
            CQReLU(Q),
            nn.Linear(6, 2),
            nn.Linear(2, 2),
            forward,
        )
        for parameter in self.parameters():
            parameter.data = (parameter.data * 8).round() / 8

    def forward(self, v2, x):
        return self.inner(self, v2, x)


def _means(s, z, x):
    return [s.a(x).flatten(2).mean(2), z, s.b(x)[:, :, :3].flatten(2).mean(2)]


JOINS = {
    "the output": lambda s, z, x: torch.cat(_means(s, z, x), 1),
    "before a map": lambda s, z, x: s.fc(torch.cat(_means(s, z, x), 1)),
    "spikes between": lambda s, z, x: s.fc(
        torch.cat([x := s.a(x), s.b(x)], 2).transpose(1, 2).flatten(2).mean(2)[:, :6]
    ),
    "stacked": lambda s, z, x: s.small(torch.stack([*_means(s, s.b(z), x), s.a(z)], 1).sum(1)),
    "by sample": lambda s, z, x: s.fc(
        torch.cat([s.a(x).sum((2, 3)) / (z[:, :1] > 0.25).add(2), s.b(x).mean((2, 3)), s.a(x).amax((2, 3))], 1)
    ),
    "in the batch": lambda s, z, x: s.small(torch.cat([s.a(x).mean((2, 3)), s.b(x)[:, :, :4].mean((2, 3))], 0)),
}


@pytest.mark.parametrize("forward", JOINS.values(), ids=JOINS)
def test_joined_means_keep_their_divisors(forward):
    torch.manual_seed(1)
    model = Joined(forward).eval()
    z, x = torch.randint(0, 64, (3, 2)) / 128, torch.randint(-128, 256, (3, 2, 6, 5)) / 128
    snn = casc_core.convert(model, adapter="cnn")
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(z.double(), x.double())
    torch.testing.assert_close(snn.reference(z, x).double(), expected, rtol=1e-6, atol=1e-6)
    assert casc_core.verify(snn, z, x).exact


def test_an_offset_is_not_rounded_to_the_grid_of_the_number_that_it_is_added_to():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3, eps=0.25)
            self.norm.running_var.fill_(0.75)
            self.norm.bias.data = torch.tensor([0.125, -0.375, 0.5])

        def forward(self, x):
            spikes = torch.relu(x)
            return self.norm(spikes + torch.ones_like(spikes))

    ann = casc_core.prepare(Model().eval(), q=Q).eval()
    x = torch.arange(12.0).reshape(4, 3) / 16
    assert torch.equal(casc_core.convert(ann)(x), ann(x).detach())


class Spread(nn.Module):
    """Spikes meet whole numbers of more entries, or of more dimensions, than they have."""

    def __init__(self, forward):
        super().__init__()
        self.c, self.a, self.b, self.inner = nn.Linear(6, 4), CQReLU(Q), CQReLU(Q), forward
        for parameter in self.parameters():
            parameter.data = (parameter.data * 8).round() / 8

    def forward(self, x, n):
        return self.inner(self, self.a(self.c(x)), n)


SPREADS = {
    "divided": lambda s, y, n: y.sum(1, keepdim=True) / n[:, None].expand(5, 4),
    "divided in more dimensions": lambda s, y, n: y / n.view(5, 1, 1),
    "divided, then neurons": lambda s, y, n: s.b(y.sum(1, keepdim=True) / n[:, None].expand(5, 4) - 0.25),
    "divided, then a maximum": lambda s, y, n: (y.sum(1, keepdim=True) / n[:, None].expand(5, 4)).amax(1, keepdim=True),
    "multiplied in more dimensions": lambda s, y, n: (y * (n > 1).view(5, 1, 1)).sum(0),
    "a current multiplied": lambda s, y, n: s.b((y - 0.5) * n.view(5, 1, 1)).sum(0),
}


@pytest.mark.parametrize("forward", SPREADS.values(), ids=SPREADS)
def test_numbers_from_the_inputs_may_spread_a_signal(forward):
    torch.manual_seed(2)
    model = Spread(forward).eval()
    x, n = torch.randint(-128, 256, (5, 6)) / 64, torch.tensor([1, 2, 4, 8, 2])
    snn = casc_core.convert(model, adapter="cnn")
    with torch.no_grad():
        expected = copy.deepcopy(model).double()(x.double(), n)
    torch.testing.assert_close(snn.reference(x, n).double(), expected, rtol=1e-6, atol=1e-6)
    assert casc_core.verify(snn, x, n).exact
