"""What a network calls is harmless, whatever it calls it with: an answer, or an error of ours; never more than there is
room for."""

from __future__ import annotations

import random
import time

import pytest
import torch
import torch.nn.functional as F

from casc_core import CascError, ConfigError, InputError
from casc_core.engine.functions import FUNCTIONS, REARRANGING, call, foreseen
from casc_core.engine.functions.table import functions
from casc_core.engine.program import _UNFIT

ROOM = 1000
X = torch.arange(6).reshape(2, 3)


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        ("torch.arange", (10**12,), {}),
        ("torch.arange", (0, 10**12, 1), {"device": torch.device("cpu")}),
        ("torch.linspace", (0, 1, 10**12), {}),
        ("torch.meshgrid", (torch.zeros(10**3), torch.zeros(10**3)), {}),
        ("F.one_hot", (X, 10**9), {}),
        ("F.one_hot", (10**6 * X,), {}),
        ("Tensor.unfold", (torch.zeros(10**3), 0, 500, 1), {}),
        ("F.unfold", (torch.zeros(1, 1, 50, 50), 25), {}),
        ("torch.zeros", (10**6, 10**6), {}),
        ("torch.full", ((10**6, 10**6), 1), {}),
        ("Tensor.new_zeros", (X, 10**6, 10**6), {}),
        ("Tensor.expand", (X[None], 10**9, 2, 3), {}),
        ("Tensor.repeat", (X, 10**6, 10**6), {}),
        ("Tensor.tile", (X, (10**6, 10**6)), {}),
        ("torch.tile", (X, (10**6, 10**6)), {}),
        ("F.pad", (X, (20_000, 20_000, 20_000, 20_000)), {}),
        ("F.interpolate", (X[None, None].float(),), {"scale_factor": 1e6}),
        ("F.interpolate", (X[None, None].float(), (10**6, 10**6)), {}),
        ("operator.getitem", (X, torch.zeros(10**4, dtype=torch.int64)), {}),
        ("torch.index_select", (X, 0, torch.zeros(10**4, dtype=torch.int64)), {}),
        ("operator.add", (torch.zeros(10**3, 1), torch.zeros(1, 10**3)), {}),
        ("operator.mul", ((1, 2), 10**12), {}),
        ("operator.mul", ("x", 10**12), {}),
        ("operator.mod", ("%1000000000d", 1), {}),
        ("operator.pow", (10**9, 10**9), {}),
        ("operator.pow", (2, 64), {}),
    ],
)
def test_what_would_be_too_much_is_refused_at_once(function, args, kwargs):
    began = time.process_time()
    with pytest.raises(InputError):
        call(function, ROOM, args, kwargs)
    assert time.process_time() - began < 5  # it is not tried


@pytest.mark.parametrize("keyword", ["out", "requires_grad", "pin_memory", "generator"])
def test_nothing_that_is_given_is_written_to(keyword):
    with pytest.raises(InputError, match=rf"torch\.add\(\) cannot be given {keyword} by a network"):
        call("torch.add", ROOM, (X, X), {keyword: X})
    with pytest.raises(InputError, match="cannot be given"):
        foreseen("Tensor.repeat", ROOM, X.shape, (1, 1), {keyword: X})


@pytest.mark.parametrize(
    "name", ["__class__", "grad_fn", "register_hook", "numpy", "storage", "is_leaf", "_base", 3, None]
)
def test_no_attribute_but_those_listed(name):
    with pytest.raises(InputError, match="a network cannot read"):
        call("getattr", ROOM, (X, name), {})


def test_those_that_are():
    assert call("getattr", ROOM, (X, "shape"), {}) == X.shape
    assert call("getattr", ROOM, (X.device, "type"), {}) == "cpu"
    assert torch.equal(call("getattr", ROOM, (X, "T"), {}), X.T)
    assert torch.equal(call("getattr", ROOM, (X.max(1), "values"), {}), X.max(1).values)
    assert torch.equal(call("getattr", ROOM, (X.sort(1), "indices"), {}), X.sort(1).indices)


def test_a_function_is_registered_once():
    before = dict(FUNCTIONS)
    with pytest.raises(ConfigError, match=r"the function 'torch\.add' is registered already"):
        functions("torch", "add")(lambda follower, function, *args: None)
    assert before == FUNCTIONS


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        ("Tensor.expand", (X[None], 4, -1, 3), {}),
        ("Tensor.repeat", (X, 2, 1, 3), {}),
        ("torch.tile", (X, (2, 2)), {}),
        ("torch.tile", (X,), {"dims": (2,)}),
        ("torch.gather", (X, 1, torch.zeros(2, 7, dtype=torch.int64)), {}),
        ("Tensor.index_select", (X, -1, torch.zeros(7, dtype=torch.int64)), {}),
        ("F.pad", (X, (1, 2, 3, 4)), {}),
        ("F.pad", (X[None].float(), (1, 2)), {"mode": "reflect"}),
        ("F.interpolate", (X[None, None].float(),), {"scale_factor": (2, 3)}),
        ("F.interpolate", (X[None, None].float(), 5), {}),
        ("F.interpolate", (X[None, None].float(), (5, 4)), {}),
        ("operator.getitem", (X, torch.zeros(7, dtype=torch.int64)), {}),
        ("operator.getitem", (X, (slice(None), torch.zeros(7, 2, dtype=torch.int64))), {}),
        ("operator.getitem", (X, (..., torch.zeros(7, dtype=torch.int64))), {}),
        ("operator.getitem", (X, (None, torch.arange(2), torch.arange(2))), {}),
        ("operator.getitem", (X, ([0, 1, 0],)), {}),
        ("operator.add", (X[:, :, None], X[0]), {}),
        ("torch.where", (X[:, :, None] > 0, X[0], 0.0), {}),
        ("torch.linspace", (-1, 1, 7), {}),
        ("F.one_hot", (X, 9), {}),
        ("F.one_hot", (X,), {}),
        ("Tensor.unfold", (X, 1, 2, 1), {}),
        ("Tensor.unfold", (X,), {"dimension": -1, "size": 1, "step": 2}),
        ("F.unfold", (X[None, None].float(), 2), {}),
        ("F.unfold", (X[None, None].float(), (1, 2), 1, (0, 1), (1, 2)), {}),
        ("F.unfold", (X[None, None].float(),), {"kernel_size": 2, "dilation": 2, "padding": (1, 2)}),
        ("torch.arange", (7,), {}),
        ("torch.arange", (1, 8, 2), {}),
        ("torch.full", ((2, 3), 7), {}),
        ("torch.zeros", (2, 3), {}),
        ("torch.ones", (), {"size": (2, 3)}),
        ("Tensor.new_zeros", (X, (2, 3)), {}),
    ],
)
def test_how_much_a_function_makes_is_foreseen(function, args, kwargs):
    made = FUNCTIONS[function](*args, **kwargs).numel()
    assert FUNCTIONS[function].makes(args, kwargs) == made


def test_gradients_of_an_input_stay_as_they_are():
    x = torch.zeros(3)
    assert call("Tensor.requires_grad_", ROOM, (x,), {}) is x
    assert not x.requires_grad


def test_a_method_is_one_of_a_tensor():
    for value in ("text", 3, [1], X.shape):
        with pytest.raises(InputError, match="a network calls methods of tensors alone"):
            call("Tensor.repeat", ROOM, (value, 2), {})
    assert call("Tensor.numel", ROOM, (X.shape,), {}) == 6


ARGUMENTS = (
    X, X.double(), X.bool(), X.float()[None, None], torch.tensor(3), torch.zeros(0), X.shape, X.max(1), 0, 1, -1, 2, 64,
    10**6, 10**12, 2**62, -(2**62), 0.5, 1e300, float("nan"), float("inf"), True, None, ..., "x", "reflect", "%9999999d",
    (), (1, 2), [3, 2], (10**6, 10**6), [[1]] * 3, torch.int64, torch.bool, torch.device("cpu"), torch.device("meta"),
    slice(None), slice(0, 10**12, 3), {},
)  # fmt: skip


@pytest.mark.filterwarnings("ignore")  # torch's own, of ways to call that nobody should take
@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_any_arguments_give_an_answer_or_an_error_that_is_told(function):
    rng = random.Random(function)
    for _ in range(60):
        args = tuple(rng.choice(ARGUMENTS) for _ in range(rng.choice((1, 1, 2, 2, 3))))
        kwargs = {}
        if rng.random() < 0.2:
            kwargs[rng.choice(("dim", "dtype", "value", "size", "keepdim"))] = rng.choice(ARGUMENTS)
        try:
            result = call(function, ROOM, args, kwargs)
            if function in REARRANGING:
                foreseen(function, ROOM, X.shape, args, kwargs)
        except (CascError, *_UNFIT):
            continue
        parts = result if isinstance(result, (tuple, list)) else [result]
        made = sum(part.numel() for part in parts if isinstance(part, torch.Tensor))
        assert made <= ROOM + sum(arg.numel() for arg in args if isinstance(arg, torch.Tensor)) + 12


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64, torch.float64])
@pytest.mark.parametrize(
    ("name", "args", "kwargs"),
    [
        ("pad", ((1, 2, 0, 1),), {}),
        ("pad", ((1, 2, -1, 0, 3, 0),), {"mode": "constant"}),
        ("pad", ((1, 2, 0, 1), "reflect"), {}),
        ("pad", ((1, 2, 0, 1),), {"mode": "circular"}),
        ("pixel_shuffle", (2,), {}),
        ("pixel_unshuffle", (2,), {}),
        ("channel_shuffle", (4,), {}),
        ("interpolate", (), {"scale_factor": 2}),
        ("interpolate", (), {"size": (5, 3), "mode": "nearest-exact"}),
        ("unfold", ((3, 2),), {"padding": 1}),
    ],
)
def test_a_rearrangement_moves_numbers_of_any_type(name, args, kwargs, dtype):
    x = torch.arange(-128, 128).reshape(2, 8, 4, 4).to(dtype)
    expected = getattr(F, name, getattr(torch, name, None))(x.double(), *args, **kwargs)
    for each in (x, x.contiguous(memory_format=torch.channels_last)):
        moved = FUNCTIONS[f"F.{name}"](each, *args, **kwargs)
        assert moved.dtype == dtype
        assert torch.equal(moved.double(), expected)
