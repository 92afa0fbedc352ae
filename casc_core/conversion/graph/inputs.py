"""Nodes of what the inputs, parameters and buffers alone decide, and of how it enters the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from casc_core.conversion.graph.node import InputNode, Node, SignalNode, Snapped, Snapping, SpikingNode
from casc_core.conversion.grids import Form, Reach, Stretch
from casc_core.engine.leaves import leaves
from casc_core.engine.ops import Attribute, Call, Constant, Encode, Silence
from casc_core.engine.program import Ref
from casc_core.numerics import DRIVE_BITS, EXPECTED_INPUT, INPUT_EXPONENT, largest, snapped

# Functions whose results are whole numbers, whatever they are given: masks, places and sizes.
_WHOLE = frozenset(
    "eq ne lt le gt ge logical_and logical_or logical_not invert bool long int any all argmax argsort count_nonzero "
    "floordiv floor_divide size dim numel ceil floor trunc sign one_hot".split()
)
# Functions whose results are no whole numbers, but by chance.
_BROKEN = frozenset("linspace sqrt truediv div divide true_divide addcdiv lerp".split())
# Functions of whole numbers whose results are whole if the numbers given beside them are.
_ARITHMETIC = frozenset("add sub subtract rsub mul multiply addcmul pow mod remainder arange max min".split())
# What a tensor tells of itself beside its numbers.
_SIZES = frozenset("shape ndim device dtype itemsize nbytes is_cuda requires_grad".split())


@dataclass(frozen=True, eq=False, repr=False)
class Argument(InputNode):
    """An argument of the forward."""

    name: str

    @property
    def arguments(self) -> frozenset[str]:
        return frozenset([self.name])

    def snap(self, snapping: Snapping) -> Snapped:
        return Snapped(Ref(self.name))

    def details(self) -> str:
        return repr(self.name)


@dataclass(frozen=True, eq=False, repr=False)
class Known(InputNode):
    """A parameter or buffer, or what is computed from them alone."""

    value: Tensor

    @property
    def numbers(self) -> Tensor:
        return self.value

    @cached_property
    def may_be_whole(self) -> bool:
        return _are_whole(self.value)

    def snap(self, snapping: Snapping) -> Snapped:
        return Snapped(snapping.call(Constant(self.value)))

    def details(self) -> str:
        return f"{list(self.value.shape)}"


@dataclass(frozen=True, eq=False, repr=False)
class FunctionCall(InputNode):
    """A function of the inputs alone, by the name under which a network may call it.

    Attributes:
        filled: the numbers among which every entry of the result is, where the inputs decide about its shape alone.
    """

    function: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    filled: Tensor | None = None

    @property
    def numbers(self) -> Tensor | None:
        return self.filled

    @cached_property
    def arguments(self) -> frozenset[str]:
        if self._name in _WHOLE | _SIZES:
            return frozenset()
        read = (node.arguments for node in self.inputs if isinstance(node, InputNode))
        return frozenset[str]().union(*read)

    @cached_property
    def may_be_whole(self) -> bool:
        if self._name in _WHOLE | _SIZES:
            return True
        if self._name in _BROKEN or not all(each.may_be_whole for each in self.inputs if isinstance(each, InputNode)):
            return False
        beside = [leaf for leaf in leaves((self.args, dict(self.kwargs))) if isinstance(leaf, (int, float))]
        if self._name == "pow" and any(number < 0 for number in beside):
            return False
        return self._name not in _ARITHMETIC or all(float(number).is_integer() for number in beside)

    @property
    def _name(self) -> str:
        return str(self.args[1]) if self.function == "getattr" else self.function.rsplit(".", 1)[-1].rstrip("_")

    def snap(self, snapping: Snapping) -> Snapped:
        return Snapped(snapping.call(Call(self.function), *self.args, **self.kwargs))

    def details(self) -> str:
        return self.function


@dataclass(frozen=True, eq=False, repr=False)
class AttributeOf(InputNode):
    """Shape, type, device or number of dimensions of a spiking tensor."""

    x: SpikingNode
    name: str

    def snap(self, snapping: Snapping) -> Snapped:
        return Snapped(snapping.call(Attribute(name=self.name), self.x))

    def details(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False, repr=False)
class Encoded(SignalNode):
    """Real-valued input, or a parameter, on its way to neurons: a drive; zeros are nothing at all."""

    value: InputNode

    def check(self) -> None:
        """It is where spiking tensors begin."""

    @cached_property
    def _is_silent(self) -> bool:
        numbers = self.value.numbers
        return numbers is not None and not bool(numbers.any())

    @cached_property
    def has_spikes(self) -> bool:
        return self._is_silent  # its train is empty, and counts as one

    @cached_property
    def is_driven(self) -> bool:
        return not self._is_silent

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        numbers = self.value.numbers
        return Reach(0.0, EXPECTED_INPUT, True) if numbers is None else Reach(0.0, largest(numbers.double()))

    def snap(self, snapping: Snapping) -> Snapped:
        numbers = self.value.numbers
        if isinstance(snapping.numerics, Stretch) and not self._is_silent:
            form = Form(drive_exponent=snapping.numerics.grid, drive_reach=self.reach(lambda node: Reach()).drive)
            return Snapped(snapping.call(Encode(exponent=None), self.value), form)
        if numbers is None:
            form = Form(drive_exponent=INPUT_EXPONENT, drive_reach=EXPECTED_INPUT)
            return Snapped(snapping.call(Encode(exponent=INPUT_EXPONENT), self.value), form)
        if self._is_silent:
            return Snapped(snapping.call(Silence(), self.value), Form(exponent=0, is_exact=True))
        on, exponent = snapped(snapping.numerics, numbers.double(), DRIVE_BITS)
        is_exact = torch.equal(on, numbers.double())
        form = Form(drive_exponent=exponent, drive_reach=float(on.abs().max()), is_exact=is_exact)
        return Snapped(snapping.call(Encode(exponent=exponent), self.value), form)


def _are_whole(value: Tensor) -> bool:
    return not value.is_complex() and bool((value.double() == value.double().round()).all())
