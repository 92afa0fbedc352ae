"""A forward that cannot be traced, or returns nothing of the network: `prepare` and `convert` say the same."""

from __future__ import annotations

import math
import random
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import casc_core
from casc_core import ConversionError, CQReLU


class Body(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.a, self.act, self.fc = nn.Linear(4, 4), activation, nn.Linear(4, 2)
        self.in_a_list = [nn.Linear(4, 4)]
        self.k = nn.Parameter(torch.ones(()))

    def h(self, x: Tensor) -> Tensor:
        return self.act(self.a(x))


def doubled(x: Tensor) -> Tensor:
    return 2 * x


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TorchScript is deprecated
    compiled = torch.jit.script(doubled)


def branches(self, x):
    return self.fc(self.h(x)) if x.sum() > 0 else self.fc(x)


def flag_without_default(self, x, flag):
    return self.fc(self.h(x)) if flag else self.fc(x)


def unknown_attribute(self, x):
    return self.fc(self.nothing(x))


def unknown_name(self, x):
    return self.fc(self.h(x)) + undefined  # noqa: F821


def divides_numbers_by_zero(self, x):
    return self.fc(self.h(x)) * (1 / 0)


def length(self, x):
    return self.fc(self.h(x)) / len(x)


def iterates(self, x):
    return self.fc(sum(row for row in self.h(x)))


def iterates_over_a_shape(self, x):
    return self.fc(self.h(x)) * (1 if all(size > 0 for size in x.shape) else 2)


def counts(self, x):
    return self.fc(sum(self.h(x)[:, i] for i in range(x.shape[1])))


def as_float(self, x):
    return self.fc(self.h(x)) * float(x.mean())


def as_int(self, x):
    return self.fc(self.h(x) * int(x.shape[0]))


def as_index(self, x):
    return self.fc(self.h(x)) * [1, 2, 3][x.shape[0]]


def assigns_a_part(self, x):
    x = self.h(x)
    x[:, :1] = 0
    return self.fc(x)


def as_key(self, x):
    return self.fc(self.h(x)) * {3: 1.0}[x.shape[0]]


def formats(self, x):
    print(f"{x.shape[0]:d}")
    return self.fc(self.h(x))


def to_numpy(self, x):
    return self.fc(torch.from_numpy(self.h(x).numpy()))


def by_numpy(self, x):
    return self.fc(torch.as_tensor(np.sqrt(self.h(x))))


def makes_a_tensor(self, x):
    return self.fc(self.h(x) * torch.as_tensor([x.shape[0]]))


def checks_the_type(self, x):
    if not isinstance(x, Tensor) or type(x) is not Tensor or not torch.is_tensor(x):
        raise TypeError("expected a tensor")
    assert isinstance(x, Tensor)
    return self.fc(self.h(x))


def wants_another_type(self, x):
    if not isinstance(x, nn.Parameter):
        raise TypeError("expected a parameter")
    return self.fc(self.h(x))


def asserts_the_numbers(self, x):
    assert x.dtype == torch.float32
    return self.fc(self.h(x))


def branches_on_numbers(self, x):
    if x.is_floating_point():
        x = x * 2
    return self.fc(self.h(x))


def module_in_a_list(self, x):
    return self.fc(self.in_a_list[0](self.h(x)))


def calls_compiled_code(self, x):
    return self.fc(compiled(self.h(x)))


def writes_it_down(self, x):
    return self.fc(self.h(x)) * len("".join([x]))


def hands_over_an_object(self, x):
    return self.fc(self.h(x) * object())


CAUSES = {
    branches: ("its control flow depends on the values", "of tensors, use masks in place of `if`"),
    flag_without_default: ("its control flow depends on the values", "Give a flag a default"),
    unknown_attribute: (
        "it fails by itself (AttributeError: 'Own' object has no attribute 'nothing'",
        "Call the model on a",
    ),
    unknown_name: ("it fails by itself (NameError: name 'undefined'", "should fail in the same way"),
    divides_numbers_by_zero: ("it fails by itself (ZeroDivisionError", "should fail in the same way"),
    length: ("it takes the len() of a tensor", "Write x.shape[0] in place of len(x), and x.dim() of len(x.shape)"),
    iterates: ("it iterates over a tensor", "Take it apart into a known number"),
    iterates_over_a_shape: ("it iterates over a tensor, or a shape", "a, b = x.shape[:2]"),
    counts: ("it wants a plain number", "replace loops over a tensor's values"),
    as_float: ("it wants a plain number", "operations on the whole tensor"),
    as_int: ("it wants a plain number", "Leave x.shape[0] as it is"),
    as_index: ("it wants a plain number", "hold fixed sizes as attributes"),
    as_key: ("it looks up a size", "f.__wrapped__"),
    assigns_a_part: ("it assigns to a part of a tensor", "torch.cat([a, x[:, 1:]], 1)"),
    formats: ("it wants a plain number", "Leave x.shape[0] as it is"),
    to_numpy: ("a NumPy array", "Use torch's operations on the tensor itself"),
    by_numpy: ("a NumPy array", "torch.sqrt(x)"),
    makes_a_tensor: ("it makes a tensor", "x.new_zeros(...)"),
    wants_another_type: ("it raises an error itself", "Leave out checks of types and values"),
    branches_on_numbers: ("depends on the type, device or gradient", "x.float() and x.to(...) change nothing"),
    asserts_the_numbers: ("it raises an error itself", "a check of sizes alone is understood"),
    module_in_a_list: ("it calls a module that the model does not hold", "nn.ModuleList"),
    calls_compiled_code: ("it calls a function compiled by torch.jit.script", "Call the Python function"),
    writes_it_down: ("it hands an input to what takes real tensors alone", "move that call in front of the model"),
    hands_over_an_object: ("an object that is neither a tensor nor a plain value", "Return tensors, in tuples, lists"),
}


def as_maximum(self, x):
    return self.fc(self.h(x)).max(1)


def as_parts(self, x):
    return self.fc(self.h(x)).unbind(1)


def as_nothing(self, x):
    self.fc(self.h(x))


def as_number(self, x):
    self.fc(self.h(x))
    return 3


def as_inputs(self, x):
    self.fc(self.h(x))
    return x.sum(1)


def as_parameter(self, x):
    self.fc(self.h(x))
    return self.k


def of_any_arguments(self, *args):
    return self.fc(self.h(args[0]))


def of_any_names(self, x, **options):
    return self.fc(self.h(x))


OUTPUTS = {
    as_maximum: ("returns what cannot be converted exactly", "reads the indices of a maximum"),
    as_parts: ("returns a tuple of as many parts as its input's size makes", "return tensors, in tuples"),
    as_nothing: ("must return what the network computes", "it returns None"),
    as_number: ("must return what the network computes", "it returns 3"),
    as_inputs: ("must return what the network computes", "it returns a function of its inputs alone"),
    as_parameter: ("must return what the network computes", "it returns a function of its inputs alone"),
    of_any_arguments: ("takes *args, so its inputs are not known", "return self.model(x)"),
    of_any_names: ("takes **options, so its inputs are not known", "model being your Own"),
}


def always_dropped(self, x):
    return self.fc(F.dropout(self.h(x), 0.5))


def always_dropped_by_torch(self, x):
    return self.fc(torch.dropout(self.h(x), 0.5, True))


def alpha_dropped(self, x):
    return self.fc(F.alpha_dropout(self.h(x), 0.5, training=True))


def features_dropped(self, x):
    return self.fc(F.feature_alpha_dropout(self.h(x)[:, :, None], training=True)[..., 0])


def drawn_outside(self, x):
    return self.fc(self.h(x) + torch.rand(4))


def drawn_in_place(self, x):
    return self.fc(self.h(x) * torch.empty(4).bernoulli_(0.5))


def drawn_like_the_parameters(self, x):
    return self.fc(self.h(x)) + torch.randn_like(self.k)


def drawn_like_the_spikes(self, x):
    h = self.h(x)
    return self.fc(h + torch.rand_like(h))


def stochastic_depth(self, x):
    return self.fc(self.h(x) * x.new_zeros((1, 1)).bernoulli_(0.5))


def drawn_by_python(self, x):
    return self.fc(self.h(x)) * random.random()


def drawn_by_numpy(self, x):
    return self.fc(self.h(x)) * float(np.random.rand())


RANDOM = {
    always_dropped: ("dropout()", "pass training=self.training"),
    always_dropped_by_torch: ("dropout()", "pass training=self.training"),
    alpha_dropped: ("alpha_dropout()", "pass training=self.training"),
    features_dropped: ("feature_alpha_dropout()", "pass training=self.training"),
    drawn_outside: ("rand()", "it is random"),
    drawn_in_place: ("bernoulli_()", "it is random"),
    drawn_like_the_parameters: ("randn_like()", "it is random"),
    drawn_like_the_spikes: ("rand_like()", "it is random"),
    stochastic_depth: ("bernoulli_()", "it is random"),
    drawn_by_python: ("draws a number with Python's or NumPy's generator", "it is random"),
    drawn_by_numpy: ("draws a number with Python's or NumPy's generator", "it is random"),
}


def divided_by_zero(self, x):
    return self.fc(self.h(x) / 0)


def divided_by_zero_point_zero(self, x):
    return self.fc(self.h(x)) / 0.0


def times_infinity(self, x):
    return self.fc(self.h(x) * math.inf)


def by_infinity(self, x):
    return self.fc(self.h(x) / math.inf)


def times_nan(self, x):
    return self.fc(self.h(x) * math.nan)


def times_text(self, x):
    return self.fc(self.h(x) * "two")


def times_complex(self, x):
    return self.fc(self.h(x) * 1j)


def field_of_a_maximum(self, x):
    return self.fc(self.h(x)[:, None].max(1).foo)


def third_of_a_maximum(self, x):
    return self.fc(self.h(x)[:, None].max(1)[2])


def attribute_of_spikes(self, x):
    return self.fc(self.h(x).foo)


def attribute_of_an_input(self, x):
    return self.fc(self.h(x)) * x.foo


def pool_of_a_word(self, x):
    return self.fc(F.max_pool1d(self.h(x), "two"))


def padded_by_a_number(self, x):
    return self.fc(F.pad(self.h(x), 3))


def joined_without_a_list(self, x):
    return self.fc(torch.cat(self.h(x), 1))


def bad_shape_of_a_parameter(self, x):
    return self.fc(self.h(x)) + self.k.view(3, 3)


def number_of_spikes(self, x):
    return self.fc(self.h(x) * self.h(x).max().item())


MISTAKES = {
    divided_by_zero: ("truediv()", "it divides by 0"),
    divided_by_zero_point_zero: ("truediv()", "it divides by 0.0"),
    times_infinity: ("mul()", "it computes with the constant inf"),
    by_infinity: ("truediv()", "it computes with the constant inf"),
    times_nan: ("mul()", "it computes with the constant nan"),
    times_text: ("mul()", "multiplies by 'two'"),
    times_complex: ("mul()", "multiplies by 1j"),
    field_of_a_maximum: ("getattr()", "reads the field 'foo' of a maximum, whose fields are values and indices"),
    third_of_a_maximum: ("getitem()", "it fails on its arguments (IndexError"),
    attribute_of_spikes: ("getattr()", "reads the attribute 'foo'"),
    attribute_of_an_input: ("getattr()", "reads the attribute 'foo', which a tensor does not have"),
    pool_of_a_word: ("max_pool1d()", "it fails on its arguments (ValueError"),
    padded_by_a_number: ("pad()", "it fails on its arguments (TypeError"),
    joined_without_a_list: ("cat()", "it fails on its arguments (TypeError"),
    bad_shape_of_a_parameter: ("view()", "it fails on its arguments (RuntimeError"),
    number_of_spikes: ("item()", "it takes a number out of a spiking tensor"),
}


def with_a_checkpoint(self, x):
    return self.fc(checkpoint(self.h, x, use_reentrant=False))


def with_sizes_checked(self, x):
    if x.shape[1] != 4:
        raise ValueError("expected 4 features")
    return self.fc(self.h(x))


def printed(self, x):
    print(x.shape, end="")
    return self.fc(self.h(x))


def dropped_in_training(self, x):
    return self.fc(F.dropout(self.h(x), 0.5, self.training))


def dropped_by_nothing(self, x):
    return self.fc(F.dropout(self.h(x), 0.0))


def alpha_dropped_by_default(self, x):
    return self.fc(F.alpha_dropout(self.h(x), 0.5))


TAKEN = [
    checks_the_type, with_a_checkpoint, with_sizes_checked, printed, dropped_in_training, dropped_by_nothing,
    alpha_dropped_by_default,
]  # fmt: skip

REFUSED = {**CAUSES, **OUTPUTS, **RANDOM, **MISTAKES}


def said_by(step: str, forward: Any) -> str | None:
    """What a step complains of: `prepare` the network with ReLU, `convert` the one with CQReLU."""
    torch.manual_seed(0)
    model = type("Own", (Body,), {"forward": forward})(nn.ReLU() if step == "prepare" else CQReLU(2)).eval()
    try:
        casc_core.prepare(model, q=2) if step == "prepare" else casc_core.convert(model)
    except ConversionError as error:
        return str(error)
    return None


@pytest.mark.parametrize("forward", [*REFUSED, *TAKEN], ids=lambda forward: forward.__name__)
def test_prepare_refuses_what_convert_refuses_for_the_same_reason(forward: Any) -> None:
    before, after = said_by("prepare", forward), said_by("convert", forward)
    assert before == after
    if forward in TAKEN:
        assert before is None
        return
    assert before is not None
    for words in REFUSED[forward]:
        assert words in before, before
    if forward not in OUTPUTS and "generator" not in before:
        assert re.search(r"test_causes\.py:\d+: \S", before), before
