"""Operations are made of what they declare, and of nothing else."""

from __future__ import annotations

import pytest
import torch

import casc_seq.adapter  # noqa: F401 (its operations are among them)
from casc_core import ConfigError
from casc_core.engine.ops import AveragePool, Call, Convolution, Fire, Layout, Linear, MaxPool, Op, Pick
from casc_core.engine.ops.declared import (
    Flag,
    Numbers,
    OneOf,
    OrNone,
    Positive,
    Several,
    Text,
    Whole,
    settings,
    tensors,
)
from casc_seq.spiking.recurrence import Recurrence

ONE = torch.ones(2, 3)
OURS = {kind: op for kind, op in Op.kinds.items() if op.__module__.startswith(("casc_core.", "casc_seq."))}


@pytest.mark.parametrize("kind", sorted(OURS))
def test_the_grid_of_a_tensor_is_a_setting(kind):
    op = OURS[kind]
    assert all(numbers.grid is None or numbers.grid in op.SETTINGS for numbers in op.TENSORS.values())


class Gain(Op, abstract=True):
    SETTINGS = settings(name=Text(), sides=Several(Whole(1, 8), 2, 2), below=OrNone(Positive()))
    TENSORS = tensors(factor=Numbers(), shift=Numbers(optional=True))


def test_an_operation_is_made_by_name_or_in_the_order_of_its_declarations():
    factor = torch.ones(2)
    for made in (
        Gain("gain", [1, 2], None, factor),
        Gain(name="gain", sides=(1, 2), factor=factor),
        Gain("gain", factor=factor, sides=(1, 2), shift=None),
    ):
        assert made.settings == {"name": "gain", "sides": [1, 2], "below": None}
        assert made.tensors() == {"factor": factor}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gain("gain", [1, 2], None, ONE, ONE, ONE), "it takes name, sides, below, factor, shift; got 6 values"),
        (lambda: Gain("gain", name="gain", sides=[1, 2], factor=ONE), "'name' is given twice"),
        (lambda: Gain("gain", factor=ONE), "the setting 'sides' is missing"),
        (lambda: Gain("gain", [1, 2]), "the tensor 'factor' is missing"),
        (lambda: Gain("gain", [1, 2], None, ONE, secret=1), "it declares no setting 'secret'"),
    ],
)
def test_nothing_else_makes_it(make, message):
    with pytest.raises(ConfigError, match=f"Gain: {message}"):
        make()


def test_the_bare_names_are_ours_alone():
    assert all("." not in kind for kind in OURS if OURS[kind].__module__.startswith("casc_core."))
    assert {"Recurrence", "LastState"} <= OURS.keys()


GOOD = {"name": "fc", "exponent": 0, "input_exponent": 0, "fine_exponent": 0, "drive_exponent": 0}
WINDOWS = {"name": "pool", "kernel": [2, 2], "stride": [2, 2], "padding": [0, 0], "ceil_mode": False}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Linear(**GOOD | {"name": 3}, weight=ONE, fine=None, bias=None), "'name' must be a string; got 3"),
        (lambda: Linear(**GOOD | {"exponent": 0.5}, weight=ONE, fine=None, bias=None), "'exponent' must be an integer in"),
        (lambda: Linear(**GOOD | {"exponent": 401}, weight=ONE, fine=None, bias=None), "'exponent' must be an integer in"),
        (lambda: Linear(**GOOD, weight=None, fine=None, bias=None), "one of 'weight' and 'fine' must be there"),
        (lambda: Linear(**GOOD, weight=ONE, fine=None, bias=torch.ones(3)), r"must be \[outputs\] where .*; got \[3\]"),
        (lambda: Linear(**GOOD, weight=ONE, fine=torch.ones(3, 2), bias=None), r"'fine' must be \[outputs, inputs\] where"),
        (lambda: Linear(**GOOD, weight=ONE.long(), fine=None, bias=None), r"cannot be of type torch\.int64"),
        (lambda: Linear(**GOOD, weight=ONE * torch.nan, fine=None, bias=None), "holds a number that is not finite"),
        (lambda: Linear(**GOOD, weight=ONE[:, :0], fine=None, bias=None), r"got \[2, 0\]"),
        (lambda: Fire("act", 0.0, 0), "'threshold' must be a number above 0"),
        (lambda: Fire("act", float("inf"), 0), "'threshold' must be a number above 0"),
        (lambda: Call("os.system"), "'function' must be one of"),
        (lambda: Layout("Tensor.add"), "'function' must be one of"),
        (lambda: Pick(slice(1, 2), None, ""), "'index' must be an integer"),
        (lambda: MaxPool(**WINDOWS | {"stride": [0, 2]}, dilation=[1, 1]), r"'stride' must be a list of an integer in 1\."),
        (lambda: MaxPool(**WINDOWS | {"kernel": [10**9, 2]}, dilation=[1, 1]), "'kernel' must be a list of an integer"),
        (lambda: MaxPool(**WINDOWS | {"padding": [2, 0]}, dilation=[1, 1]), "padding must be at most half of kernel"),
        (lambda: MaxPool(**WINDOWS | {"kernel": [2]}, dilation=[1, 1]), "must be of the same dimensions"),
        (
            lambda: AveragePool(**WINDOWS, count_include_pad=1, divides=True),
            "'count_include_pad' must be True or False; got 1",
        ),
        (
            lambda: Recurrence("rnn", 1.0, 1.0, 0, False, True, torch.ones(5, 4)),
            r"'weight' must be \[hidden, hidden\]; got \[5, 4\]",
        ),
        (
            lambda: Recurrence("rnn", 1.0, 1.0, 0, False, True, torch.ones(5, 5), torch.ones(4)),
            r"'charge' must be \[\] or \[hidden\] where hidden is 5; got \[4\]",
        ),
        (
            lambda: Convolution(
                **GOOD, weight=torch.ones(3, 1, 1, 1), fine=None, bias=None, dims=2, stride=[1, 1], padding=[0] * 4,
                dilation=[1, 1], groups=2,
            ),
            "its groups must divide its 3 outputs",
        ),
        (
            lambda: Convolution(
                **GOOD, weight=torch.ones(2, 1, 2, 1), fine=None, bias=None, dims=1, stride=[1, 1], padding=[0] * 4,
                dilation=[1, 1], groups=2,
            ),
            "in one dimension its height is 1",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_when_it_is_made(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_weights_off_the_grid_that_the_settings_name():
    good = Linear(**GOOD, weight=torch.tensor([[0.5]]), fine=None, bias=None)
    good.check_grids()  # of what arrives nothing is said
    with pytest.raises(ConfigError, match=r"'weight' is not on the grid 2\*\*0"):
        Linear(**GOOD, weight=torch.tensor([[0.5]]), fine=None, bias=None, train_exponent=0).check_grids()
    Linear(**GOOD, weight=torch.tensor([[0.5]]), fine=None, bias=None, train_exponent=1).check_grids()
    with pytest.raises(ConfigError, match=r"'bias' is not on the grid 2\*\*0"):
        Linear(**GOOD, weight=ONE, fine=None, bias=torch.tensor([0.5, 1.0])).check_grids()
    with pytest.raises(ConfigError, match="'threshold' is not on the grid"):
        Fire("act", 0.75, -1).check_grids()


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (Whole(1, 3), (1, 3), (0, 4, 1.0, True, None, "1", float("nan"), 10**40)),
        (Positive(), (1, 0.5), (0, -1, True, float("nan"), float("inf"), "1", 1e300, None)),
        (Flag(), (True, False), (0, 1, None, "true")),
        (Text(), ("", "x"), (None, 1, b"x")),
        (OneOf((0.0, "a")), (0, 0.0, "a"), (False, None, [], {}, "b")),
        (OrNone(Whole(1, 3)), (None, 2), (0, False)),
        (Several(Whole(1, 3), 1, 2), ([1], [1, 3]), ([], [0], [1, 1, 1], (1,), "1", None, [[1]])),
    ],
)
def test_kinds(kind, right, wrong):
    assert [kind.wrong(value) for value in right] == [None] * len(right)
    assert all(isinstance(kind.wrong(value), str) for value in wrong)


def test_declarations_cannot_be_changed():
    for declared in (settings(a=Flag()), tensors(a=Numbers())):
        with pytest.raises(TypeError):
            declared["b"] = Flag()
