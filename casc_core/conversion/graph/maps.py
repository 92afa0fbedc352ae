"""Nodes of linear maps, convolutions and tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Any

from torch import Tensor

from casc_core.conversion.graph.factors import Normalisation, NormalisedDrive, as_normalisation, without_factors
from casc_core.conversion.graph.map_node import MapNode
from casc_core.conversion.graph.node import Folding, InputNode, Node, SignalNode, Snapped, Snapping
from casc_core.conversion.graph.signals import Applied
from casc_core.conversion.grids import TABLE_BITS, Form, Reach, Stretch
from casc_core.conversion.snapping import snapped_map
from casc_core.engine.ops import Convolution, Convolution3d, Embed, Linear, Op, RequireFeatures
from casc_core.engine.ops.declared import check_settings, check_tensors
from casc_core.engine.products.exact_sums import exact_product, largest_row
from casc_core.errors import ConfigError
from casc_core.numerics import Numerics, largest, stored


@dataclass(frozen=True, eq=False, repr=False)
class LinearMap(MapNode):
    """`x @ weight.T + bias`.

    Attributes:
        x: what it reads.
        weight, bias: float64 `[outputs, inputs]`, and `[outputs]` or None, in the user's values.
        name: that errors give it.
        exponent: the grid that the result is to be no finer than; None: the weights' own bits decide.
        centre: of what it reads; rounding of the weights is to leave it where it is.
    """

    exponent: int | None = None
    centre: Tensor | None = None

    @property
    def axis(self) -> int:
        return -1

    @property
    def rank(self) -> None:
        return None

    @cached_property
    def stays_a_map(self) -> bool:
        return _table_width(self.x) is None

    def check(self) -> None:
        super().check()
        _check_declared(self, Linear, {})
        width = _table_width(self.x)
        if width not in (None, self.weight.shape[1]):
            raise self.refuse(f"it is for {self.weight.shape[1]} features, and what it reads has {width}")

    def on_grid(self, exponent: int) -> LinearMap:
        return replace(self, exponent=exponent)

    def fold(self, folding: Folding) -> SignalNode:
        found = _as_table(self.x)
        if found is None:
            return self
        lookup, scale = found
        return replace(
            lookup, maps=(*lookup.maps, TableMap(scale, self.weight, self.bias, self.name)), place=self.place
        )

    def absorb(self) -> LinearMap:
        before, features = as_normalisation(self.x), self.weight.shape[1]
        entries = None if before is None else _features(before, features)
        if before is None or entries is None:
            return self
        factor, centre, offset = (value.expand(features) for value in entries)
        bias = self.weight @ offset + (0.0 if self.bias is None else self.bias)
        x = before.x
        if before.axis is not None and len(entries[0]) > 1:
            x = Applied(RequireFeatures(name=self.name), (x,), place=self.place)
        return replace(self, x=x, weight=self.weight * factor, bias=bias, centre=centre)

    def snap(self, snapping: Snapping) -> Snapped:
        form = snapping.of(self.x).form
        snapped = snapped_map(
            snapping.numerics, form, self.weight, self.weight, self.bias, self.exponent, self.centre,
            snapping.rounds(self),
        )  # fmt: skip
        return Snapped(snapping.call(Linear(name=self.name, **snapped.arguments()), self.x), snapped.form)


def _features(normalisation: Normalisation, features: int) -> list[Tensor] | None:
    """What normalises the last dimension, of this many features; None: it is not the last alone that is normalised."""
    entries = normalisation.along(-1, None if normalisation.axis is None else 2)
    return entries if entries is not None and len(entries[0]) in (1, features) else None


@dataclass(frozen=True, eq=False, repr=False)
class ConvolutionMap(MapNode):
    """`x` convolved with `weight` `[O, C/groups, kh, kw]`, in three dimensions `[O, C/groups, kd, kh, kw]`.

    Attributes:
        dims: over how many dimensions it moves.
        geometry: what the operation takes beside that: stride, padding, dilation, and the `spread` of a transposed one.
        spiking: the weights that spikes meet, if they are others than those that the drive meets: what normalises x is in
            them, channel by channel, and its offset in the drive, which the padding's zeros do not have.
    """

    dims: int
    groups: int
    geometry: Mapping[str, Any] = field(default_factory=dict)
    spiking: Tensor | None = None

    @property
    def axis(self) -> int:
        return -self.dims - 1

    @property
    def rank(self) -> int:
        return self.dims + 2

    def check(self) -> None:
        super().check()
        kind: type[Op] = Convolution3d if self.dims == 3 else Convolution
        _check_declared(self, kind, self.geometry)
        if len(self.weight) % self.groups:
            raise self.refuse(f"its groups must divide its {len(self.weight)} outputs")

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        return replace(super().reach(of), train=of(self.x).train * largest_row(self._met_by_spikes))

    @property
    def _met_by_spikes(self) -> Tensor:
        return self.weight if self.spiking is None else self.spiking

    def absorb(self) -> ConvolutionMap:
        before, channels = as_normalisation(self.x), self.weight.shape[1] * self.groups
        entries = None if before is None else before.along(self.axis, self.rank)
        if before is None or entries is None or len(entries[0]) not in (1, channels):
            return self
        outputs = len(self.weight)
        factor = entries[0].expand(channels).reshape(self.groups, 1, -1).expand(-1, outputs // self.groups, -1)
        spiking = self.weight * factor.reshape(outputs, -1, *[1] * (self.weight.dim() - 2))
        x = NormalisedDrive(before.x, before.factor, before.shift, before.axis, place=self.place)
        return replace(self, x=x, spiking=spiking)

    def snap(self, snapping: Snapping) -> Snapped:
        form = snapping.of(self.x).form
        snapped = snapped_map(
            snapping.numerics, form, self._met_by_spikes, self.weight, self.bias, rounds=snapping.rounds(self)
        )
        given: dict[str, Any] = {"name": self.name, "groups": self.groups, **snapped.arguments(), **self.geometry}
        op = Convolution3d(**given) if self.dims == 3 else Convolution(dims=self.dims, **given)
        return Snapped(snapping.call(op, self.x), snapped.form)


@dataclass(frozen=True)
class TableMap:
    """A linear map of the rows of a table, whose numbers `scale` turns into values.

    Attributes:
        exponent: the grid that the result is to be no finer than; None: the weights' own bits decide.
    """

    scale: Fraction
    weight: Tensor
    bias: Tensor | None
    name: str
    exponent: int | None = None

    def snapped(self, numerics: Numerics, rows: Tensor, form: Form) -> tuple[Tensor, Form]:
        """The rows that it makes of such ones, and their form."""
        weight = self.weight
        on = snapped_map(numerics, replace(form, scale=self.scale), weight, weight, self.bias, self.exponent)
        assert on.fine is not None
        made = exact_product(numerics, rows, on.fine, on.input_exponent, on.fine_exponent, self.name)
        made = numerics.snap(made, on.drive_exponent)
        return made if on.bias is None else made + on.bias, on.form


@dataclass(frozen=True, eq=False, repr=False)
class TableLookup(SignalNode):
    """Rows of a table, looked up by token id. A linear map of them is again a table.

    Attributes:
        tokens: the ids.
        rows: the table, float64.
        name: that errors give it.
        maps: the linear maps that its rows go through, in order.
    """

    tokens: InputNode
    rows: Tensor
    name: str
    maps: tuple[TableMap, ...] = ()

    def check(self) -> None:
        """It is where spiking tensors begin."""

    @cached_property
    def is_driven(self) -> bool:
        return True

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        reach = Reach(0.0, largest(self.rows))
        for each in self.maps:
            bias = 0.0 if each.bias is None else largest(each.bias)
            reach = reach.times(largest_row(each.weight) * abs(float(each.scale)), bias)
        return reach

    def on_grid(self, exponent: int) -> TableLookup:
        *earlier, last = self.maps
        return replace(self, maps=(*earlier, replace(last, exponent=exponent)))

    def snap(self, snapping: Snapping) -> Snapped:
        numerics = snapping.numerics
        if isinstance(numerics, Stretch):
            exponent, rows = numerics.grid, self.rows
        else:
            exponent = numerics.weight_exponent(self.rows, bits=TABLE_BITS)
            rows = numerics.snap(self.rows, exponent)
        form = Form(drive_exponent=exponent, drive_reach=float(self.rows.abs().max()))
        multiplies = biases = 0
        for each in self.maps:
            rows, form = each.snapped(numerics, rows, form)
            multiplies, biases = each.weight.numel(), 0 if each.bias is None else len(each.bias)
        op = Embed(name=self.name, table=stored(rows), multiplies=multiplies, biases=biases)
        return Snapped(snapping.call(op, self.tokens), form)

    def details(self) -> str:
        return " -> ".join([f"{self.name!r} {list(self.rows.shape)}", *(repr(each.name) for each in self.maps)])


def _as_table(x: Node) -> tuple[TableLookup, Fraction] | None:
    """The table that `x`, which has been folded, is, and what its numbers are to be multiplied by."""
    lookup, factors = without_factors(x)
    return (lookup, math.prod(factors, start=Fraction(1))) if isinstance(lookup, TableLookup) else None


def _table_width(x: Node) -> int | None:
    """How many features the rows have, if `x` is a table once it is folded; None: it is none."""
    before, _ = without_factors(x)
    if isinstance(before, LinearMap):
        return None if before.stays_a_map else len(before.weight)
    return before.rows.shape[1] if isinstance(before, TableLookup) else None


def _check_declared(node: MapNode, kind: type[Op], geometry: Mapping[str, Any]) -> None:
    """Refuse what the operation that it becomes would not be made from."""
    try:
        check_settings(kind.kind, {name: kind.SETTINGS[name] for name in geometry}, geometry)
        check_tensors(kind.kind, kind.TENSORS, {"weight": node.weight, "fine": None, "bias": node.bias})
    except ConfigError as error:
        raise node.refuse(str(error)) from error
