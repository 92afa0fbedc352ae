"""Schedules: which steps are awake."""

from __future__ import annotations

import pytest

from casc_core import ConfigError, Continuous, WakeSleep


@pytest.mark.parametrize(
    ("schedule", "pattern", "last_wake", "levels"),
    [
        (WakeSleep(1, 0, 1), "W.........", 1, 1),
        (WakeSleep(3, 9, 1), "WWW.......", 3, 3),
        (WakeSleep(2, 1, 2), "WW.WW.....", 5, 4),
        (WakeSleep(1, 2, 3), "W..W..W...", 7, 3),
        (WakeSleep(2, 0, 2), "WWWW......", 4, 4),
    ],
)
def test_awake_steps(schedule, pattern, last_wake, levels):
    assert schedule.awake(10) == [letter == "W" for letter in pattern]
    assert schedule.awake(2) == schedule.awake(10)[:2]
    assert (schedule.last_wake, schedule.levels) == (last_wake, levels)
    assert sum(schedule.awake(100)) == levels


def test_open_lengths_follow_q():
    assert WakeSleep().resolved(4) == WakeSleep(4, 4, 1)
    assert WakeSleep(wake=2, cycles=2).resolved(4) == WakeSleep(2, 2, 2)
    assert WakeSleep(sleep=0).resolved(3) == WakeSleep(3, 0, 1)
    with pytest.raises(ConfigError, match="resolved"):
        WakeSleep().awake(3)


def test_continuous_never_sleeps():
    schedule = Continuous().resolved(4)
    assert schedule.awake(5) == [True] * 5
    assert schedule.last_wake is None
    assert schedule.levels is None


@pytest.mark.parametrize(
    ("name", "value"), [("wake", 0), ("wake", -1), ("wake", 2.0), ("wake", True),
     ("sleep", -1), ("sleep", "1"), ("cycles", 0), ("cycles", None)]
)  # fmt: skip
def test_counts_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} must be an integer of at least"):
        WakeSleep(**{name: value})


@pytest.mark.parametrize("lengths", [(10**12, 0, 1), (1, 10**12, 2), (2, 2, 10**12), (2**16, 2**16, 2)])
def test_a_schedule_longer_than_anything_that_runs(lengths):
    with pytest.raises(ConfigError, match="more than 131,072 steps cannot be run"):
        WakeSleep(*lengths)
    assert WakeSleep(2**17, 0, 1).last_wake == 2**17
    with pytest.raises(ConfigError, match="more than 131,072 steps cannot be run"):
        WakeSleep(cycles=10**12).resolved(2)
