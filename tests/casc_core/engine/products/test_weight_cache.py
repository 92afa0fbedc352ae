"""What is made from weights is made once, and again when they change."""

from __future__ import annotations

import pytest
import torch

from casc_core.engine.products.weight_cache import WeightCache


@pytest.fixture
def counted():
    cache, made = WeightCache(), []

    def sum_of(weight, key="sum"):
        def make():
            made.append(key)
            return float(weight.sum())

        return cache(weight, key, make)

    return sum_of, made


def test_it_is_made_once_for_each_key(counted):
    sum_of, made = counted
    weight = torch.ones(3)
    assert [sum_of(weight), sum_of(weight), sum_of(weight, "other"), sum_of(weight)] == [3.0] * 4
    assert made == ["sum", "other"]


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.add_(1),
        lambda weight: weight[0].fill_(4),
        lambda weight: weight.copy_(torch.full((3,), 2.0)),
    ],
)
def test_changed_weights_are_taken_anew(counted, change):
    sum_of, made = counted
    weight = torch.ones(3)
    assert sum_of(weight) == 3.0
    change(weight)
    assert sum_of(weight) == float(weight.sum())
    assert sum_of(weight) == float(weight.sum())
    assert made == ["sum", "sum"]


def test_other_weights_of_the_same_numbers_are_taken_anew(counted):
    sum_of, made = counted
    weight = torch.ones(3)
    sum_of(weight)
    sum_of(weight.clone())
    sum_of(weight)
    assert made == ["sum"] * 3


def test_a_tensor_without_a_version(counted):
    sum_of, made = counted
    with torch.inference_mode():
        weight = torch.ones(3)
        assert sum_of(weight) == sum_of(weight) == 3.0
    assert made == ["sum"]


def test_nothing_that_failed_is_kept():
    cache, weight = WeightCache(), torch.ones(2)
    with pytest.raises(ZeroDivisionError):
        cache(weight, "key", lambda: 1 / 0)
    assert cache(weight, "key", lambda: None) is None
    assert cache(weight, "key", lambda: 1) is None
