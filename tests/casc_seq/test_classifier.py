"""`TextClassifier`: padding does not matter, every option works, and bad options are named."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import casc_core
from casc_core.errors import ConfigError, InputError
from casc_seq.classifier import POOLINGS, ClassifierConfig, TextClassifier

SMALL = ClassifierConfig(vocabulary_size=30, classes=3, embedding_size=8, hidden_size=6)
VARIANTS: list[dict[str, Any]] = [
    *({"pooling": pooling, "bidirectional": both} for pooling in POOLINGS for both in (False, True)),
    {"batch_norm": False},
    {"fc_size": 5, "pooling": "sum"},
    {"num_layers": 2},
    {"fc_size": 5},
    {"q": 8, "threshold": 2.0},
    *({"cell": cell, "pooling": pooling, "q": 4} for cell in ("gru", "lstm") for pooling in ("mean+max", "last")),
    {"cell": "lstm", "num_layers": 2, "bidirectional": False, "pooling": "max", "q": 4},
    {"model": "textcnn", "q": 4},
    {"model": "textcnn", "fc_size": 5, "batch_norm": False},
]


def classifier(**options: Any) -> TextClassifier:
    torch.manual_seed(0)
    return TextClassifier(dataclasses.replace(SMALL, **options)).double().eval()


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_padding_and_company_do_not_matter(options: dict[str, Any]) -> None:
    model = classifier(**options)
    texts = [[5, 9, 1, 7, 7], [3], [29, 2]]
    tokens = torch.zeros(3, 8, dtype=torch.int64)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = torch.tensor(text)
    together = model(tokens)
    assert together.shape == (3, 3)
    torch.testing.assert_close(model(tokens, torch.tensor([5, 1, 2])), together)
    for row, text in enumerate(texts):
        torch.testing.assert_close(model(torch.tensor([text]))[0], together[row])


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    model = classifier(**options).train()
    model(torch.randint(2, 30, (16, 9))).logsumexp(1).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@settings(max_examples=20, deadline=None)
@given(text=st.lists(st.integers(1, 29), min_size=1, max_size=12), padding=st.integers(0, 9), seed=st.integers(0, 99))
def test_any_amount_of_padding(text: list[int], padding: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = TextClassifier(SMALL).double().eval()
    torch.testing.assert_close(model(torch.tensor([text + [0] * padding])), model(torch.tensor([text])))


def test_units_begin_alive() -> None:
    torch.manual_seed(0)
    model = TextClassifier(ClassifierConfig(vocabulary_size=500, classes=4)).eval()
    tokens = torch.randint(2, 500, (32, 40))
    states, _ = model.rnn(model.embedding(tokens))
    assert 0.1 < states.mean() < 0.5
    assert (states.flatten(0, 1).mean(0) > 0).all()


def test_the_order_of_words_matters() -> None:
    model = classifier(hidden_size=64)
    assert not torch.equal(model(torch.tensor([[5, 9, 2, 7]])), model(torch.tensor([[7, 2, 9, 5]])))


def test_initial_vectors_are_used_and_checked() -> None:
    vectors = torch.randn(30, 8)
    model = TextClassifier(SMALL, vectors)
    torch.testing.assert_close(model.embedding.weight[1:] / model.embedding.weight[1, 0], vectors[1:] / vectors[1, 0])
    louder = TextClassifier(SMALL, vectors * 7)
    torch.testing.assert_close(louder.embedding.weight, model.embedding.weight)
    assert not TextClassifier(SMALL, torch.zeros(30, 8)).embedding.weight.any()
    assert not model.embedding.weight[0].any()
    with pytest.raises(InputError, match=r"\[30, 8\]; got \[29, 8\]"):
        TextClassifier(SMALL, vectors[:29])
    with pytest.raises(InputError, match="NaN or infinite"):
        TextClassifier(SMALL, vectors / 0)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_it_converts_with_its_batch_normalisation(options: dict[str, Any]) -> None:
    model, tokens = classifier(**options).train(), torch.randint(2, 30, (16, 9))
    for _ in range(20):  # running statistics
        model(tokens)
    model.eval()
    snn = casc_core.convert(model, adapter="rnn")
    assert casc_core.verify(snn, tokens).exact
    # with the weights as they are, it is the same function
    same = casc_core.convert(model, adapter="rnn", numerics="as trained").reference(tokens)
    torch.testing.assert_close(same, model(tokens).float(), rtol=0, atol=1e-4)


def test_a_training_batch_of_one_text() -> None:
    model = classifier(batch_norm=True).train()
    model(torch.tensor([[3, 4, 5]])).sum().backward()
    assert all(each.grad is not None and bool(each.grad.isfinite().all()) for each in model.parameters())


def test_a_config_survives_json() -> None:
    assert ClassifierConfig(**json.loads(json.dumps(dataclasses.asdict(SMALL)))) == SMALL


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"vocabulary_size": 1}, "vocabulary_size must be an integer of at least 2; got 1"),
        ({"classes": 1}, "classes"),
        ({"hidden_size": 2.5}, r"hidden_size .* got 2\.5"),
        ({"num_layers": True}, "num_layers .* got True"),
        ({"batch_norm": 1}, "batch_norm .* got 1"),
        ({"pooling": "median"}, "mean, sum, max, last.* got 'median'"),
        ({"dropout": 1.0}, r"dropout .* got 1\.0"),
        ({"cell": "elman"}, "cell must be one of rnn, gru, lstm; got 'elman'"),
        ({"model": "cnn"}, "model must be one of rnn, textcnn; got 'cnn'"),
        ({"q": 0}, "levels"),
        ({"threshold": 0.0}, "threshold"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(SMALL, **options)
