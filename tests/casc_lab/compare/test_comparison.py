"""The comparison of methods: its figures are those of each method run by itself; and its report."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

import casc_core
from casc_core import CQReLU, EnergyTable
from casc_core.rivals.methods import FOUR, OURS, Method, methods_for
from casc_lab.compare.comparison import compare
from casc_lab.compare.depths import by_depth, layer_depths
from casc_lab.compare.network_and_data import NetworkAndData
from casc_lab.compare.page import page
from casc_lab.compare.terminal_summary import terminal_summary
from casc_seq import RNN
from casc_seq.classifier import ClassifierConfig, TextClassifier


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.rnn = nn.Embedding(9, 3), RNN(3, 6, batch_first=True, bidirectional=True, q=3)
        self.fc = nn.Linear(12, 3)

    def forward(self, tokens, lengths):
        return self.fc(self.rnn(self.embedding(tokens), lengths=lengths)[0].sum(1) / lengths.unsqueeze(1))


def texts(labels=True):
    torch.manual_seed(0)
    model, batches = Text(), []
    for parameter in model.rnn.parameters():
        parameter.data *= 2.5
    for size in (6, 5):
        lengths = torch.randint(1, 6, (size,))
        batch = (torch.randint(1, 9, (size, int(lengths.max()))), lengths)
        batches.append((*batch, torch.randint(3, (size,))) if labels else batch)
    snn = casc_core.convert(model)
    return NetworkAndData(snn, None, lambda: batches, lambda: batches[:1], "texts <i>", "noise & more", {"seed": 0})


def images(depth=5):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), CQReLU(4, half_step=True)]
    for _ in range(depth - 1):
        layers += [nn.Conv2d(4, 4, 3, padding=1), CQReLU(4, half_step=True)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    for parameter in model.parameters():
        parameter.data *= 2
    batches = [(torch.rand(7, 1, 6, 6), torch.randint(3, (7,)))]
    return NetworkAndData(casc_core.convert(model), model, lambda: batches, None, "images", "noise", {})


@pytest.fixture(scope="module")
def compared():
    return {
        "texts": compare(texts(), T=6, command="casc compare texts"),
        "unlabelled": compare(texts(labels=False), T=3),
        "images": compare(images(), T=12),
        "one step": compare(images(1), T=1),
        "four": compare(texts(), T=5, methods=FOUR),
    }


def test_figures_are_those_of_each_method_by_itself(compared):
    subject, result = texts(), compared["texts"]
    snn, batches = subject.snn, subject.batches()
    for row in result["methods"]:
        method = methods_for(snn, 6)[row["name"]]
        network = method.network(snn, batches[:1])
        right = differ = spikes = 0
        for tokens, lengths, labels in batches:
            simulation = network.simulate(tokens, lengths, T=6)
            classes = simulation.logits.argmax(-1)
            right += (classes == labels).sum(1)
            differ += (classes != snn.reference(tokens, lengths).argmax(-1)).sum(1)
            spikes += sum((layer.positive + layer.negative).cumsum(0) for layer in simulation.spikes.values())
        assert row["mismatches"] == differ.tolist()
        assert row["accuracy"] == pytest.approx((100 * right / 11).tolist(), abs=1e-3)
        assert row["spikes"] == pytest.approx((spikes / 11).tolist(), rel=1e-5)
    assert result["reference_accuracy"] == pytest.approx(
        100 * sum(float((snn.reference(*batch[:2]).argmax(-1) == batch[2]).sum()) for batch in batches) / 11, abs=1e-3
    )


def test_ours_is_exact_and_alone_promised(compared):
    for result in compared.values():
        (ours,) = [method for method in result["methods"] if method["ours"]]
        assert ours["exact"]
        assert result["equivalence"]["exact"]
        assert ours["name"] == OURS
        assert ours["exact_at"] >= 1
    ours = compared["texts"]["methods"][3]
    assert ours["mismatches"][ours["exact_at"] - 1 :] == [0] * (6 - ours["exact_at"] + 1)


def test_it_is_plain_json_and_the_same_each_time(compared):
    for result in compared.values():
        assert json.loads(json.dumps(result, allow_nan=False)) == result
    again = compare(texts(), T=6, command="casc compare texts")
    changing = ("created", "seconds", "methods")
    assert {k: v for k, v in again.items() if k not in changing} == {
        k: v for k, v in compared["texts"].items() if k not in changing
    }
    for one, other in zip(again["methods"], compared["texts"]["methods"], strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}


def test_energy_follows_the_table():
    usual, mine = (
        compare(texts(), T=4, methods=FOUR, table=table) for table in (None, EnergyTable(1.0, 1.0, "x", "y"))
    )
    for one, other in zip(usual["methods"], mine["methods"], strict=True):
        for t in range(4):
            expected = (4.6 * one["macs"][t] + 0.9 * one["acs"][t]) / 1e3
            assert one["energy_nj"][t] == pytest.approx(expected, rel=1e-5)
            assert other["energy_nj"][t] == pytest.approx((one["macs"][t] + one["acs"][t]) / 1e3, rel=1e-5)
    assert usual["ann"]["energy_nj"] == pytest.approx(4.6e-3 * usual["ann"]["macs"])


def test_findings_say_what_the_figures_show(compared):
    said = " ".join(compared["texts"]["findings"])
    assert "With CIF and wake-sleep together, no neuron of any layer is off the ANN's level once silent." in said
    baseline = compared["texts"]["methods"][0]["layers"][0]
    share = 100 * (baseline["more"][-1] + baseline["fewer"][-1])
    assert f"Without either, so many neurons are off their level after 6 steps: {share:.3g}% in rnn.l0 and " in said
    ours = compared["texts"]["methods"][3]
    one, other = (layer["silence"]["max"] for layer in ours["layers"])
    assert f"Firing ends at step {one} in rnn.l0 and at step {other} in rnn.l0_reverse, which lie side by side." in said
    assert "shallow" not in said
    deep = " ".join(compared["images"]["findings"])
    assert "As in the paper, wake-sleep alone mends the first layer (1), which reads real values." in deep
    ends = [layer["silence"]["max"] for layer in compared["images"]["methods"][3]["layers"]]
    assert f"Firing ends at step {ends[0]} in the first layer and at step {ends[-1]} in the last" in deep


class Branched(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.fc = (nn.Linear(*sizes) for sizes in ((4, 6), (6, 6), (4, 6), (6, 3)))
        self.first, self.second, self.beside, self.last = (CQReLU(4) for _ in range(4))

    def forward(self, x):
        return self.fc(self.last(self.second(self.b(self.first(self.a(x)))) + self.beside(self.c(x))))


def test_layers_that_lie_side_by_side_have_one_depth():
    depths = layer_depths(casc_core.convert(Branched()))
    assert depths == {"first": 1, "second": 2, "beside": 1, "last": 3}
    assert by_depth(depths) == [["first", "beside"], ["second"], ["last"]]
    assert layer_depths(texts().snn) == {"rnn.l0": 1, "rnn.l0_reverse": 1}
    assert list(layer_depths(images().snn).values()) == [1, 2, 3, 4, 5]


class PooledPerceptron(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.hidden, self.activation = nn.Embedding(9, 3), nn.Linear(3, 4), CQReLU(2)
        self.fc = nn.Linear(4, 3)

    def forward(self, tokens, lengths):
        return self.fc(self.activation(self.hidden(self.embedding(tokens))).sum(1) / lengths.unsqueeze(1))


class Bags(PooledPerceptron):
    def __init__(self):
        super().__init__()
        self.embedding = nn.EmbeddingBag(9, 3, mode="mean", padding_idx=0)

    def forward(self, tokens, lengths):
        return self.fc(self.activation(self.hidden(self.embedding(tokens))))


class Plane(PooledPerceptron):
    """A text as an image, as some write it."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Conv2d(1, 4, (3, 3), padding=(1, 0))

    def forward(self, tokens, lengths):
        return self.fc(self.activation(self.hidden(self.embedding(tokens).unsqueeze(1))).squeeze(3).amax(2))


def classifier(**options):
    config = ClassifierConfig(
        vocabulary_size=9, classes=3, embedding_size=3, hidden_size=4, batch_norm=False, **options
    )
    return TextClassifier(config)


TEXT_NETWORKS = {
    "textcnn": lambda: classifier(model="textcnn"),
    "gru": lambda: classifier(cell="gru"),
    "lstm": lambda: classifier(cell="lstm"),
    "perceptron": PooledPerceptron,
    "bags": Bags,
    "plane": Plane,
}


@pytest.mark.parametrize("name", TEXT_NETWORKS)
def test_texts_may_have_any_lengths(name):
    """Each batch has its own, and the calibration data too; a method that a network cannot be run under is said."""
    torch.manual_seed(0)
    snn, batches = casc_core.convert(TEXT_NETWORKS[name]().eval()), []
    for size, longest in ((6, 7), (5, 9), (1, 3)):
        lengths = torch.randint(1, longest + 1, (size,))
        tokens = torch.randint(1, 9, (size, longest)).where(torch.arange(longest) < lengths.unsqueeze(1), 0)
        batches.append((tokens, lengths, torch.randint(3, (size,))))
    compared = NetworkAndData(snn, None, lambda: batches, lambda: batches[:1], name, "noise", {})
    result = compare(compared, T=3)
    run = [method["name"] for method in result["methods"]]
    out = [method["name"] for method in result["left_out"]]
    assert result["equivalence"]["exact"]
    assert sorted(run + out) == sorted(methods_for(snn, 3))
    assert run == (["baseline+WSC", OURS] if name in ("gru", "lstm") else list(methods_for(snn, 3)))
    for text, key in ((page(result), "label"), (terminal_summary(result), "name")):
        assert ("which are for 2 wake steps and CIF or IF" in text) == bool(out)
        assert all(method[key] in text for method in result["left_out"])


class Failing(Method):
    def network(self, snn, batches):
        raise casc_core.InputError("too few samples")


def test_a_method_that_fails_is_left_out_and_ours_is_not():
    methods = methods_for(texts().snn, 3)
    result = compare(texts(), T=3, methods={"mine": Failing("mine, too"), OURS: methods[OURS]})
    assert [method["name"] for method in result["methods"]] == [OURS]
    assert result["left_out"] == [{"name": "mine", "label": "mine, too", "why": "too few samples"}]
    with pytest.raises(casc_core.InputError, match="too few samples"):
        compare(texts(), T=3, methods={OURS: Failing()})


class Checked(HTMLParser):
    """Every tag is closed in order; nothing is fetched; collects the text."""

    def __init__(self):
        super().__init__()
        self.open, self.words, self.tags = [], [], []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            assert name not in ("src", "href"), f"{tag} {name}={value}"
            assert "nan" not in (value or "").split(), f"{tag} {name}={value}"
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.parametrize("name", ["texts", "unlabelled", "images", "one step", "four"])
def test_the_page_is_whole_and_needs_nothing_else(compared, name):
    result = compared[name]
    text = page(result)
    checked = Checked()
    checked.feed(text)
    assert checked.open == []
    assert not {"script", "link", "img", "i"} & set(checked.tags)
    assert "http" not in text
    assert text == page(json.loads(json.dumps(result)))
    said = " ".join(checked.words)
    for method in result["methods"]:
        assert method["label"] in said
        assert method["source"] in said
        for step in result["columns"]:
            assert f"{method['mismatches'][step - 1]:,}" in said
            if method["accuracy"] is not None:
                assert f"{method['accuracy'][step - 1]:.2f}" in said
    assert len(text) < 1.5e6
    for used in set(re.findall(r"var\(--(\w+)\)", text)):
        assert f"--{used}:" in text


def test_text_of_the_user_is_inert(compared):
    result = copy.deepcopy(compared["texts"])
    result["title"] = '<script>alert("x")</script>'
    result["methods"][0]["layers"][0]["name"] = "a<b>&'\""
    text = page(result)
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;script&gt;" in text


def test_a_page_says_so_if_something_is_not_exact(compared):
    result = copy.deepcopy(compared["texts"])
    result["methods"][3] |= {"exact": False, "exact_at": None}
    result["equivalence"]["exact"] = False
    assert "Not exact" in page(result)


def test_forty_layers_have_room(compared):
    result = copy.deepcopy(compared["images"])
    for method in result["methods"]:
        method["layers"] = [layer | {"name": f"stage{i}.block.act"} for i in range(8) for layer in method["layers"]]
    text = page(result)
    Checked().feed(text)
    assert len(text) < 1.5e6


def test_the_summary_has_every_method(compared):
    for result in compared.values():
        said = terminal_summary(result)
        for method in result["methods"]:
            assert f"| {method['name']} " in said
    assert "accuracy" not in terminal_summary(compared["unlabelled"]).splitlines()[2]
