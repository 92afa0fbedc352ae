"""Faults of a lowering, made on purpose: `verify` sees each, where it is, and none where there is none."""

from __future__ import annotations

import copy
import json
import operator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from user_cnns import IMAGES, Head, cnn, conv, settled
from user_models import LENGTHS, TOKENS

import casc_core
import casc_seq
from casc_core import CQReLU
from casc_core.activation import Quantised
from casc_core.conversion.adapter import Adapter
from casc_core.conversion.rule_table import RuleTable
from casc_core.conversion.rules import RULES
from casc_core.conversion.rules.affine import linear_map
from casc_core.conversion.rules.convolution import _convolved
from casc_core.conversion.rules.population import neurons
from casc_core.engine.float64 import already_in_float64, in_float64
from casc_core.engine.program import READOUT
from casc_core.errors import ConfigError, ExactnessError
from casc_core.evidence.differences import Differences, combine_differences
from casc_core.evidence.equivalence import combine_reports
from casc_core.evidence.lowering_check import lowered_in_float64
from casc_lab.cli import main
from casc_seq import RNN
from casc_seq.adapter import adapter as rnn_adapter


def network(seed=0, **given):
    """Three populations, a factor, a difference, a bias, a border and a head."""

    def forward(self, x):
        a = self.act1(self.norm(self.first(x)))
        b = self.act2(self.second(a * 0.7))
        c = self.act3(self.third(a) - b * 0.5)
        return self.head(c)

    return cnn(
        forward, seed, first=conv(), norm=nn.BatchNorm2d(6), second=conv(6), third=conv(6, kernel=1, padding=0),
        act1=CQReLU(4, **given), act2=CQReLU(4, **given), act3=CQReLU(4, **given), head=Head(),
    )  # fmt: skip


def only(name, rule):
    """A rule of a module that is wrong for one module, and right for the others."""

    def made(right):
        return lambda reader, module, *args: (rule if reader.name == name else right)(reader, module, *args)

    return made


def without_bias(reader, module, x):
    return linear_map(reader, reader.signal(x), module.weight, None, reader.name)


def with_weight(change):
    return lambda reader, module, x: linear_map(
        reader, reader.signal(x), change(module.weight), module.bias, reader.name
    )


def padded_elsewhere(reader, module, x):
    weight, bias = module.weight, module.bias
    shifted = F.pad(weight.detach(), (1, 0, 0, 0))[..., :-1]
    return _convolved(reader, reader.signal(x), shifted, bias, 1, module.padding, 1, 1)


def without_padding(reader, module, x):
    return _convolved(reader, reader.signal(x), module.weight, module.bias, 1, 0, 1, 1)


def with_threshold(factor=1.0, half=False):
    return lambda reader, module, x: neurons(
        reader, reader.signal(x), float(module.threshold) * factor, reader.layer_name(reader.name), half
    )


MODULES = {
    "a border is lost": (nn.Conv2d, "second", padded_elsewhere, "act2"),
    "a shape is another": (nn.Conv2d, "first", without_padding, "act1"),
    "a threshold is too high": (CQReLU, "act2", with_threshold(1.001), "act2"),
    "half a step too much": (CQReLU, "act3", with_threshold(half=True), "act3"),
    "the last bias is lost": (nn.Linear, "head.2", without_bias, READOUT),
    "the last weights are scaled": (nn.Linear, "head.2", with_weight(lambda w: w * (1 + 1e-6)), READOUT),
}
FUNCTIONS = {
    "a factor is lost": (operator.mul, lambda reader, a, b: reader.signal(a), "act2"),
    "operands are swapped": (operator.sub, lambda reader, a, b: RULES.functions[torch.sub](reader, b, a), "act3"),
}


def caught(report, layer):
    """One layer is at fault, and it is told in full; where nothing else is wrong the spikes are the reference's."""
    assert report.lowering.first_fault.name == layer
    assert not report.lowering.exact
    assert not report.exact
    assert report.spikes_exact
    said = str(report)
    assert "NOT EXACT: the quantised ANN that it equals is not your network" in said
    assert f"FAULT OF THE LOWERING: {layer!r}" in said
    assert "Please report this" in said
    assert str(report.lowering.first_fault.first) in said


@pytest.mark.parametrize(("kind", "name", "rule", "layer"), MODULES.values(), ids=MODULES)
def test_a_wrong_rule_of_a_module_is_seen_where_it_is(monkeypatch, kind, name, rule, layer):
    right = casc_core.verify(casc_core.convert(network()), IMAGES)
    assert right.exact, str(right)
    monkeypatch.setitem(RULES.modules, kind, only(name, rule)(RULES.modules[kind]))
    report = casc_core.verify(casc_core.convert(network()), IMAGES)
    caught(report, layer)
    # Each population is held to the lowering's levels, so that what follows a fault is not at fault itself.
    wrong = [found.name for found in report.lowering.layers.values() if found.wrong]
    assert wrong == [layer] or report.lowering.first_fault.first.at is None


@pytest.mark.parametrize(("function", "rule", "layer"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_wrong_rule_of_a_function_is_seen_where_it_is(monkeypatch, function, rule, layer):
    monkeypatch.setitem(RULES.functions, function, rule)
    report = casc_core.verify(casc_core.convert(network()), IMAGES)
    caught(report, layer)
    wrong = [found.name for found in report.lowering.layers.values() if found.wrong]
    assert wrong == (["act2", "act3"] if layer == "act2" else [layer])  # there are two factors


def test_a_fault_is_seen_at_a_neuron_with_both_values(monkeypatch):
    model = nn.Sequential(nn.Linear(2, 2), CQReLU(4), nn.Linear(2, 1)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.5, 0.25], [0.25, 0.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 0.375]))
    monkeypatch.setitem(RULES.modules, nn.Linear, only("0", without_bias)(RULES.modules[nn.Linear]))
    fault = casc_core.verify(casc_core.convert(model), torch.tensor([[1.0, 1.0], [0.0, 0.5]])).lowering.first_fault
    # 4 * (0.25 + 0.375) = 2.5 levels; without the bias, 1.
    assert (fault.name, fault.neurons, fault.wrong, fault.ties) == ("1", 4, 2, 0)
    assert fault.first.at == (0, 1)
    assert str(fault.first) == "at (0, 1) your network has 2.5 levels, the conversion level 1"


def texts(**sizes):
    class Texts(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(11, 4)
            self.rnn = RNN(4, 5, batch_first=True, **sizes)
            self.fc = nn.Linear(5 * self.rnn.directions, 3)

        def forward(self, tokens, lengths=None):
            return self.fc(self.rnn(self.embedding(tokens), lengths=lengths)[0].sum(1))

    torch.manual_seed(1)
    return Texts().eval()


def swapped_directions(reader, rnn, x, hx=None, lengths=None):
    wrong = copy.deepcopy(rnn)
    for name, parameter in rnn.named_parameters():
        other = name.removesuffix("_reverse") if name.endswith("_reverse") else f"{name}_reverse"
        wrong.get_parameter(other).data = parameter.data
    return rnn_adapter.rules.modules[RNN].right(reader, wrong, x, hx, lengths)


def transposed(reader, rnn, x, hx=None, lengths=None):
    wrong = copy.deepcopy(rnn)
    wrong.weight_hh_l1.data = rnn.weight_hh_l1.data.T.contiguous()
    return rnn_adapter.rules.modules[RNN].right(reader, wrong, x, hx, lengths)


def without_lengths(reader, rnn, x, hx=None, lengths=None):
    return rnn_adapter.rules.modules[RNN].right(reader, rnn, x, hx, None)


@pytest.mark.parametrize(
    ("rule", "sizes", "layer"),
    [
        (swapped_directions, {"bidirectional": True}, "rnn.l0"),
        (transposed, {"num_layers": 2, "half_step": True}, "rnn.l1"),
        (without_lengths, {"bidirectional": True, "q": 3}, "rnn.l0"),
    ],
)
def test_a_wrong_rule_of_a_recurrent_layer_is_seen_in_its_cell(monkeypatch, rule, sizes, layer):
    snn = casc_core.convert(texts(**sizes))
    right = casc_core.verify(snn, TOKENS, LENGTHS)
    assert right.exact, str(right)
    assert list(right.lowering.layers) == [*snn.layers, READOUT]
    rule_of = rnn_adapter.rules.modules[RNN]

    def wrong(*args, **kwargs):
        return rule(*args, **kwargs)

    wrong.right = rule_of
    monkeypatch.setitem(rnn_adapter.rules.modules, RNN, wrong)
    caught(casc_core.verify(casc_core.convert(texts(**sizes)), TOKENS, LENGTHS), layer)


@given(
    seed=st.integers(0, 2**31),
    q=st.integers(1, 16),
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    half=st.booleans(),
    threshold=st.sampled_from((1.0, 0.75, 0.3)),
    starts=st.booleans(),
    cut=st.booleans(),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_what_a_recurrent_layer_says_of_itself_is_what_it_does(
    seed, q, layers, bidirectional, batch_first, half, threshold, starts, cut
):
    torch.manual_seed(seed)
    rnn = RNN(
        3, 4, layers, batch_first=batch_first, bidirectional=bidirectional, q=q, threshold=threshold, half_step=half
    ).eval()
    x = torch.randn(5, 6, 3) if batch_first else torch.randn(6, 5, 3)
    hx = torch.rand(layers * rnn.directions, 5, 4) if starts else None
    lengths = torch.tensor([2, 6, 1, 4, 4]) if cut else None
    with torch.no_grad():
        output, last = rnn(x, hx, lengths)
        free, before = rnn.observed([None] * len(rnn.populations()), x, hx, lengths)
        assert torch.equal(free[0], output)
        assert torch.equal(free[1], last)
        levels = [z.floor().clamp(0, q) for z in before]
        held, again = rnn.observed(levels, x, hx, lengths)
    assert torch.equal(held[0], output)
    assert torch.equal(held[1], last)
    for one, other in zip(before, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@given(
    seed=st.integers(0, 2**31),
    q=st.sampled_from((1, 2, 3, 5, 8, 13, 16)),
    half=st.booleans(),
    kind=st.sampled_from(("one", "trained", "by channel")),
    scale=st.sampled_from((1.0, 100.0)),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_nothing_is_at_fault_in_networks_that_are_lowered_as_they_are(seed, q, half, kind, scale):
    generator = torch.Generator().manual_seed(seed)
    model = settled(network(seed), seed)
    for module in model.modules():
        if isinstance(module, CQReLU):
            module.q, module.half_step = q, half
            thresholds = torch.rand(6, generator=generator) * 1.5 + 0.2
            module.set_threshold(thresholds if kind == "by channel" else float(thresholds[0]), kind != "one")
    report = casc_core.verify(casc_core.convert(model), IMAGES * scale)
    assert report.exact, str(report)
    assert report.lowering.neurons == report.grid.neurons == report.float32.neurons


def test_ties_are_told_from_faults():
    """Sums of tenths meet edges of levels in real numbers, and on either side of them in float64."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 90), CQReLU(6, 0.3), nn.Linear(90, 90), CQReLU(6, 0.3), nn.Linear(90, 3)).eval()
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.double().weight.copy_(torch.randint(-3, 4, layer.weight.shape).double() / 10)
            layer.bias.zero_()
        model[4].double()
    x = torch.randint(0, 4, (60, 20)).double() / 10
    report = casc_core.verify(casc_core.convert(model), x)
    assert report.exact
    assert report.lowering.ties > 0
    assert f"{report.lowering.ties:,} of them ties" in str(report)


def test_what_a_grid_moves_and_what_float32_moves_are_two_lines():
    model = network()
    report = casc_core.verify(casc_core.convert(model, numerics=casc_core.Exact(weight_bits=4)), IMAGES)
    assert report.exact
    assert sum(report.grid.layers.values()) > 0
    assert report.grid.max_logit_difference == pytest.approx(report.ann_max_logit_difference, rel=1e-3)
    assert report.grid.predictions == report.ann_predictions_moved
    said = str(report).splitlines()
    assert said[-2].startswith("the grid of Exact(weight_bits=4) moved")
    assert said[-1].startswith("float32 itself moved 0 of")
    # Sums of tenths lie at edges of levels, a little to one side by the weights themselves, and to any by float32.
    torch.manual_seed(0)
    tenths = nn.Sequential(nn.Linear(20, 200), CQReLU(16), nn.Linear(200, 200), CQReLU(16), nn.Linear(200, 3))
    with torch.no_grad():
        for layer in (tenths[0], tenths[2]):
            layer.weight.copy_(torch.randint(-3, 4, layer.weight.shape) / 10)
            layer.bias.zero_()
    report = casc_core.verify(casc_core.convert(tenths), torch.randint(0, 2, (60, 20)) / 8)
    assert report.exact
    assert sum(report.float32.layers.values()) > 0


@pytest.mark.parametrize(
    "options",
    [
        {"neuron": casc_core.IF()},
        {"neuron": casc_core.IF(), "schedule": casc_core.Continuous()},
        {"numerics": "as trained"},
    ],
)
def test_settings_that_promise_nothing_are_held_against_the_network_too(monkeypatch, options):
    assert casc_core.verify(casc_core.convert(network(), **options), IMAGES).lowering.exact
    function, rule, layer = FUNCTIONS["a factor is lost"]
    monkeypatch.setitem(RULES.functions, function, rule)
    report = casc_core.verify(casc_core.convert(network(), **options), IMAGES)
    assert not report.exact
    assert report.lowering.first_fault.name == layer


def test_another_number_of_levels_is_that_of_the_comparison():
    with pytest.warns(UserWarning, match="computes with 8 levels"):
        snn = casc_core.convert(network(), schedule=casc_core.WakeSleep(wake=4, cycles=2))
    report = casc_core.verify(snn, IMAGES)
    assert report.exact
    assert report.ann_predictions_moved is None
    assert casc_core.verify(snn.under(schedule=casc_core.WakeSleep()), IMAGES).ann_predictions_moved is not None


def test_a_network_without_its_origin_says_so(tmp_path):
    model = network()
    casc_core.convert(model).save(tmp_path / "network")
    report = casc_core.verify(casc_core.load(tmp_path / "network"), IMAGES)
    assert report.exact
    assert report.lowering is report.grid is report.float32 is None
    assert "lowering: not compared" in str(report)
    with pytest.raises(ConfigError, match="not at hand"):
        lowered_in_float64(casc_core.load(tmp_path / "network"), (IMAGES,), {})
    assert casc_core.verify(casc_core.load(tmp_path / "network", model), IMAGES).lowering.exact


def test_reports_on_batches_are_joined(monkeypatch):
    function, rule, layer = FUNCTIONS["a factor is lost"]
    monkeypatch.setitem(RULES.functions, function, rule)
    snn = casc_core.convert(network(), numerics=casc_core.Exact(weight_bits=5))
    whole = casc_core.verify(snn, IMAGES)
    parts = combine_reports([casc_core.verify(snn, IMAGES[:2]), casc_core.verify(snn, IMAGES[2:])])
    for name, found in whole.lowering.layers.items():
        other = parts.lowering.layers[name]
        assert (found.neurons, found.wrong, found.ties) == (other.neurons, other.wrong, other.ties)
    assert parts.lowering.first_fault.name == layer
    assert parts.grid == whole.grid
    assert parts.float32.layers == whole.float32.layers


@pytest.mark.parametrize(("numerics", "how"), [("as trained", "evaluated"), ("exact", "lowered")])
def test_a_network_that_cannot_be_evaluated_in_float64_is_an_error(numerics, how):
    def forward(self, x):
        if any(tensor.dtype == torch.float64 for tensor in self.state_dict().values()):
            raise RuntimeError("no kernel for double")
        return self.head(self.act(self.first(x)))

    snn = casc_core.convert(cnn(forward, first=conv(), act=CQReLU(2), head=Head()), numerics=numerics)
    with pytest.raises(ExactnessError, match=rf"UserCNN.*cannot be {how} in float64.*no kernel for double"):
        casc_core.verify(snn, IMAGES)


def test_inputs_that_it_does_not_take_are_an_error():
    model = cnn(lambda self, x: self.head(self.act(self.first(x))), first=conv(), act=CQReLU(2), head=Head())
    with pytest.raises(ExactnessError, match=r"a UserCNN, cannot be evaluated, so its conversion.*unsigned char"):
        casc_core.verify(casc_core.convert(model), torch.ones(2, 3, 8, 8, dtype=torch.uint8))


class _Broken(CQReLU):
    def observed(self, levels, *inputs, **named):
        raise RuntimeError("broken")


def test_a_network_that_breaks_while_it_is_compared_is_an_error():
    snn = casc_core.convert(
        cnn(lambda self, x: self.head(self.act(self.first(x))), first=conv(), act=_Broken(2), head=Head())
    )
    with pytest.raises(ExactnessError, match=r"cannot be evaluated in float64.*behind module 'act'.*broken"):
        casc_core.verify(snn, IMAGES)


class Foreign(Quantised):
    """Another family's activation, which does not say what is inside."""

    off = 0.0

    def forward(self, x):
        return casc_core.cq_relu(x + self.off, self.q)


@pytest.mark.parametrize(("off", "name"), [(0.0, "act"), (0.3, "act"), (0.0, "act.inner")])
def test_a_foreign_activation_is_compared_by_what_comes_out(off, name):
    rules = RuleTable()
    rules.module(Foreign)(lambda reader, module, x: neurons(reader, reader.signal(x), 1.0, reader.layer_name(name)))
    model = cnn(lambda self, x: self.head(self.act(self.first(x))), first=conv(), act=Foreign(4), head=Head())
    model.act.off = off
    report = casc_core.verify(casc_core.convert(model, Adapter("foreign", lambda model: True, rules=rules)), IMAGES)
    assert report.exact == (off == 0.0)
    assert report.lowering.not_compared == (() if name == "act" else (name,))
    assert report.lowering.by_output == (("act",) if name == "act" else ())
    assert ("; compared by what comes out of them: act" in str(report)) == (name == "act")
    assert ("; not compared by themselves: act.inner" in str(report)) == (name != "act")
    if off:
        assert report.lowering.first_fault.name == "act"


def test_what_is_computed_from_the_inputs_alone_is_computed_in_float64():
    def forward(self, x, weights):
        x = (x - 0.45) / 0.225 * (weights.float() / 3).to(torch.float32).reshape(-1, 1, 1, 1)
        return self.head(self.act(self.first(x)))

    model = cnn(forward, first=conv(), act=CQReLU(16), head=Head())
    for numerics, apart in (("as trained", 1e-7), ("exact", 1e-12)):
        snn = casc_core.convert(model, numerics=numerics)
        report = casc_core.verify(snn, IMAGES, torch.tensor([1, 2, 3, 4, 5, 6]))
        assert report.exact, str(report)
        assert report.lowering.max_logit_difference < apart


def test_an_input_that_is_changed_in_place_is_compared_in_float64():
    def forward(self, x):
        return self.head(self.act(self.first(x.lerp_(x.flip(0), 0.3))))

    model = cnn(forward, first=conv(), act=nn.ReLU(), head=Head())
    snn, images = casc_core.convert(casc_core.prepare(model, q=4)), IMAGES.clone()
    assert casc_core.verify(snn, images).exact
    assert torch.equal(images, IMAGES)


def test_what_a_layer_that_keeps_its_type_computes_in_float64_is_the_same_looked_at_or_not():
    torch.manual_seed(0)
    for layer in (RNN(3, 4, q=4), casc_seq.GRU(3, 4, q=4), casc_seq.LSTM(3, 4, q=4)):
        assert vars(type(layer))["KEEPS_TYPE"]
        x, wide = torch.randn(5, 2, 3).double(), layer.double().eval()
        with torch.no_grad(), in_float64():
            looked_at = wide(x)[0], wide.observed([None] * len(wide.populations()), x)[1]
            with already_in_float64():
                found = wide(x)[0], wide.observed([None] * len(wide.populations()), x)[1]
        assert torch.equal(looked_at[0], found[0])
        assert all(map(torch.equal, looked_at[1], found[1]))
        assert {each.dtype for each in (found[0], *found[1])} == {torch.float64}


def test_float64_ends_where_it_began():
    with pytest.raises(KeyError), in_float64(), in_float64():
        raise KeyError
    assert torch.zeros(1).dtype == torch.float32
    with in_float64(), ThreadPoolExecutor(1) as other:
        assert other.submit(lambda: torch.zeros(1).dtype).result() == torch.float32
        x = torch.zeros(2, dtype=torch.float32)
        x[0] = 1.5
        x += torch.ones(2).half()
        assert x.tolist() == [2.5, 1.0]
        assert (torch.tensor([1]) / 3).dtype == torch.float64
        assert torch.arange(3).float().dtype == torch.float64


def test_the_lowering_in_float64_is_made_once_and_is_of_the_network_that_was_converted():
    snn = casc_core.convert(network(), numerics="exact")
    casc_core.verify(snn, IMAGES)
    _, kept = snn.origin.unrounded
    casc_core.verify(snn.under(casc_core.IF()), IMAGES)
    assert snn.origin.unrounded[1] is kept
    with torch.no_grad():
        snn.ann.first.weight.mul_(1.01)
    with pytest.raises(casc_core.ConfigError, match="has been trained or edited since"):
        casc_core.verify(snn, IMAGES)
    assert copy.deepcopy(snn).origin.unrounded is None


def faulty():
    """What the command is to compare: this test's module is its user's."""
    return network(), [IMAGES[:4], IMAGES[4:]]


def test_the_command_tells_a_fault_of_the_lowering(monkeypatch, capsys):
    where = f"{__name__}:faulty"
    assert main(["verify", where, "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["exact"]
    assert told["lowering"]["layers"]["act2"]["wrong"] == 0
    assert told["grid"]["predictions"] == told["float32"]["predictions"] == 0
    function, rule, _ = FUNCTIONS["a factor is lost"]
    monkeypatch.setitem(RULES.functions, function, rule)
    assert main(["verify", where, "--quiet"]) == 1
    assert "FAULT OF THE LOWERING: 'act2'" in capsys.readouterr().out
    assert main(["verify", where, "--json", "--quiet"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["exact"], told["spikes_exact"]) == (False, True)
    assert told["lowering"]["layers"]["act2"]["first"]["at"] is not None


def test_a_comparison_with_a_fault_of_the_lowering_is_not_exact(monkeypatch, capsys, tmp_path):
    compare = ["compare", f"{__name__}:faulty", "--T", "4", "--methods", "baseline", "--quiet", "--out", str(tmp_path)]
    assert main(compare) == 0
    assert "all 6,912 neurons are your network's in float64, the logits to within" in capsys.readouterr().out
    assert "Exact from T =" in (tmp_path / "report.html").read_text()
    function, rule, _ = FUNCTIONS["a factor is lost"]
    monkeypatch.setitem(RULES.functions, function, rule)
    assert main(compare) == 1
    assert "FAULT OF THE LOWERING: 'act2'" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text()
    assert '<section class="verdict bad"><strong>Not exact</strong>' in page
    assert "Please report this" in page


def test_what_moved_is_told_in_a_line():
    parts = [Differences(10, {"a": 0}, 0, 0, 0.5), Differences(10, {"a": 3}, 3, 2, 0.25)]
    assert combine_differences(parts) == Differences(20, {"a": 3}, 3, 2, 0.5)
    parts[0] = replace(parts[0], predictions=None)
    whole = combine_differences(parts)
    assert whole.predictions is None
    assert (
        whole.sentence("it", 8) == "it moved 3 of 20 neurons, from layer 'a' on, logits of 3 of 8 samples, by up to 0.5"
    )


def test_a_batch_beyond_the_memory_limit_is_verified_in_parts(monkeypatch):
    kind, name, rule, _ = MODULES["a border is lost"]
    monkeypatch.setitem(RULES.modules, kind, only(name, rule)(RULES.modules[kind]))
    images, model = IMAGES.repeat(20, 1, 1, 1), network()
    images[:60] = 0.0  # the first population does not spike, and so its border is nothing
    model.first.bias.data.fill_(-1.0)
    model.norm.running_mean.zero_()
    model.norm.bias.data.zero_()
    snn = casc_core.convert(model, neuron=casc_core.IF())
    whole = casc_core.verify(snn, images)
    snn.memory_limit = 2**20
    assert len(list(snn.parts((images,), {}, None))) > 1
    parts = casc_core.verify(snn, images)
    assert torch.equal(parts.silent_at, whole.silent_at)
    for name, layer in whole.layers.items():
        assert (layer.first, layer.mismatches) == (parts.layers[name].first, parts.layers[name].mismatches)
    for name, layer in whole.lowering.layers.items():
        other = parts.lowering.layers[name]
        assert (layer.neurons, layer.wrong, layer.ties) == (other.neurons, other.wrong, other.ties)
        assert layer.first is None or layer.first.at == other.first.at
    assert parts.grid == whole.grid
    assert whole.lowering.first_fault.first.at[0] == 60


def test_a_forward_that_changes_its_input_in_place_changes_no_input():
    model = cnn(lambda self, x: self.head(self.act(self.first(x.mul_(2)))), first=conv(), act=nn.ReLU(), head=Head())
    snn = casc_core.convert(casc_core.prepare(model, q=4).eval())
    given = IMAGES.clone()
    assert casc_core.verify(snn, given).exact
    assert torch.equal(given, IMAGES)
