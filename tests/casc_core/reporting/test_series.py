"""Series over time steps, made equally long and summed up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from casc_core.reporting.series import (
    first_equal_step,
    last_repeated,
    median_and_largest,
    powers_of_two,
    steps_to_silence,
    zero_padded,
)

SERIES = st.lists(st.integers(-3, 3), min_size=1, max_size=5)


@given(SERIES, st.integers(1, 8))
def test_a_series_is_cut_or_goes_on_as_it_ended_or_with_nothing(values, steps):
    series = torch.tensor(values)
    for function, then in ((zero_padded, 0), (last_repeated, values[-1])):
        wanted = [values[step] if step < len(values) else then for step in range(steps)]
        assert function(series, steps).tolist() == wanted
        assert function(series[:, None].expand(-1, 2), steps).tolist() == [[value, value] for value in wanted]


@given(st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), min_size=1, max_size=5))
def test_the_first_step_from_which_on_all_is_equal(rows):
    expected = []
    for sample in range(3):
        equal = [row[sample] == 1 for row in rows]
        expected.append(next((step for step in range(1, len(rows) + 1) if all(equal[step - 1 :])), 0))
    assert first_equal_step(torch.tensor(rows)[:, :, None], torch.ones(3, 1)).tolist() == expected


def test_steps_to_silence():
    assert steps_to_silence(torch.arange(101)) == {"mean": 50.0, "p50": 50.0, "p99": 99.0, "max": 100.0}
    assert steps_to_silence(torch.tensor([7])) == {"mean": 7.0, "p50": 7.0, "p99": 7.0, "max": 7.0}


@pytest.mark.parametrize(
    ("limit", "steps"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])]
)
def test_powers_of_two(limit, steps):
    assert powers_of_two(limit) == steps


def test_median_and_largest():
    assert median_and_largest(torch.tensor([9, 1, 3, 4])) == (3, 9)
