"""The compiled library: which is taken, which instructions, and how many threads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engines import COMPILED
from hypothesis import assume, given
from hypothesis import strategies as st
from spike_trains import spike_trains

from casc_core import CascError, ConfigError
from casc_core.engine import kernels
from casc_core.engine.kernels import loader

pytestmark = pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")


def test_instructions_that_the_machine_lacks_are_refused():
    with pytest.raises(ValueError, match="not to be had here"), kernels.using("abacus"):
        pass


@pytest.fixture
def fresh_library():
    """The library is looked for anew, in the test and after it."""
    loader._functions.cache_clear()
    yield
    loader._functions.cache_clear()


@pytest.mark.usefixtures("fresh_library")
@pytest.mark.parametrize("kind", ["another version", "a function less", "no library"])
def test_a_library_that_does_not_fit_is_left_alone(kind, monkeypatch, tmp_path):
    if kind == "another version":
        monkeypatch.setattr(loader, "VERSION", -1)
    elif kind == "a function less":
        monkeypatch.setitem(loader._ARGUMENTS, "function_of_the_future", [])
    else:
        monkeypatch.setattr(loader, "LIBRARY", tmp_path / "no_library.so")
        loader.LIBRARY.write_bytes(b"no library")
    with pytest.warns(UserWarning, match="does not fit this version of casc or this machine"):
        assert kernels.all_instructions() == [None]


@pytest.mark.usefixtures("fresh_library")
def test_it_is_said_once_that_there_is_no_library(monkeypatch, tmp_path):
    monkeypatch.delenv("CASC_KERNELS", raising=False)
    monkeypatch.setattr(loader, "LIBRARY", tmp_path / "nothing.so")
    with pytest.warns(UserWarning, match="no compiled kernels here") as said:
        assert [kernels.all_instructions() for _ in range(2)] == [[None]] * 2
    assert len(said) == 1
    monkeypatch.setenv("CASC_KERNELS", "none")
    loader._functions.cache_clear()
    assert kernels.all_instructions() == [None]  # a warning would be an error


def test_the_environment_can_ask_for_less(monkeypatch):
    try:
        for wanted, expected in (("none", None), ("plain", "plain"), ("", COMPILED[-1])):
            monkeypatch.setenv("CASC_KERNELS", wanted)
            loader._usual.cache_clear()
            assert kernels.instructions() == expected
        for wanted in ("AVX2", "nonsense"):
            monkeypatch.setenv("CASC_KERNELS", wanted)
            loader._usual.cache_clear()
            with pytest.raises(ConfigError, match=wanted):
                kernels.instructions()
        monkeypatch.setattr(loader, "all_instructions", lambda: [None, "plain"])
        monkeypatch.setenv("CASC_KERNELS", "avx2")
        loader._usual.cache_clear()
        with pytest.raises(ConfigError, match="kernels here have"):
            kernels.instructions()
    finally:
        loader._usual.cache_clear()


@pytest.mark.parametrize("openmp", [True, False])
def test_threads_do_not_change_a_bit(monkeypatch, openmp):
    monkeypatch.setattr(loader._Team, "is_worth_it", lambda self: True)
    if not openmp:
        monkeypatch.setattr(loader, "_openmp", lambda: None)
    rng = np.random.default_rng(1)
    packed = kernels.pack(torch.tensor(rng.integers(-500, 500, (200, 200)) / 1.0), 0, 1)
    train = torch.tensor(spike_trains(rng, 4, 150, 200, peak=1))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append((kernels.rows(packed, train, torch.float32), kernels.sum_middle(train, 1)))
    finally:
        torch.set_num_threads(before)
    for products, sums in found[1:]:
        assert torch.equal(products, found[0][0])
        assert torch.equal(sums, found[0][1])


@pytest.mark.parametrize("openmp", [True, False])
def test_threads_that_come_late_are_not_asked_again_for_a_while(monkeypatch, openmp):
    """The clock stands still but for what the calls are said to take."""
    clock = [0.0]
    call = loader.call

    def late(name, *arguments):
        if name == "parallel":
            call("work", arguments[1])
            clock[0] += 0.5
            return 1
        return call(name, *arguments)

    class Pool:
        def submit(self, *task):
            return self

        def cancel(self):
            clock[0] += 0.5
            return True

    monkeypatch.setattr(loader, "_openmp", lambda: 1 if openmp else None)
    monkeypatch.setattr(loader, "_pool", lambda process: Pool())
    monkeypatch.setattr(loader, "call", late)
    monkeypatch.setattr(loader, "_team", loader._Team())
    monkeypatch.setattr(loader.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    train = torch.ones(8, 3, 100_000, dtype=torch.int8)

    def together():
        before = clock[0]
        assert torch.equal(kernels.sum_middle(train, 1), train.sum(1, dtype=torch.int32))
        return clock[0] > before

    assert [together(), together()] == [True, False]
    clock[0] += 0.5 * loader._ALONE - 0.01
    assert not together()
    clock[0] += 0.02
    assert together()


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 60))
def test_room_grows_until_the_steps_fit(capacity, needed, longest):
    asked = []

    def attempt(room):
        asked.append(room)
        return torch.zeros(room), needed

    assume(needed <= max(capacity, longest))
    result, found = loader.with_capacity(capacity, longest, attempt)
    assert found == needed <= len(result) == asked[-1]
    assert max(asked) <= max(capacity, longest)


@pytest.mark.parametrize("first", [0, 1, 12, 40])
def test_a_kernel_that_never_settles_is_a_fault(first):
    asked = []

    def attempt(room):
        asked.append(room)
        return torch.zeros(room), room + 1

    with pytest.raises(CascError, match=r"after step 12.* a fault of casc.*CASC_KERNELS=none"):
        loader.with_capacity(first, 12, attempt)
    assert asked[-1] == max(first, 12)
