"""What a graph of operations is made of: nodes for whose numbers no grid has been chosen yet.

A rule reads an operation of the user's model as a node, in the user's own numbers. Each kind of node says what the later
passes do with it: `fold` and `absorb` rewrite it, `snap` puts its numbers on grids and calls operations of the engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import cached_property, reduce
from typing import Any, TypeVar

from torch import Tensor

from casc_core.conversion.grids import Form, Reach, Stretch
from casc_core.engine.leaves import leaves, map_leaves
from casc_core.engine.ops import Op
from casc_core.engine.program import Ref
from casc_core.errors import ConversionError
from casc_core.numerics import Numerics

NodeT = TypeVar("NodeT", bound="Node")
FILLED = (
    "entries that were filled with a large negative number stand for minus infinity, which only a maximum may read; fill "
    "with 0, or mask the converted network's output"
)


@dataclass(frozen=True)
class Place:
    """Where in the user's model an operation stands.

    Attributes:
        name: module path of the operation, or the name that the trace gave it.
        where: the module, or the module in whose forward it is.
        operation: what it is.
        line: the user's line; None: not known.
    """

    name: str
    where: str
    operation: str
    line: str | None

    def refuse(self, why: str) -> ConversionError:
        """The error for this operation: where it stands, what it is, why it is refused."""
        return ConversionError(
            f"{self.where}: {self.operation} cannot be converted exactly: {why}\n  at {self.line or '?'}"
        )


@dataclass(frozen=True)
class Snapped:
    """What a node has become.

    Attributes:
        ref: the value that a call of an operation leaves, as `Snapping.call` gives it.
        form: the numbers in which it travels.
    """

    ref: Ref
    form: Form = field(default_factory=Form)


class Folding(ABC):
    """What a node's `fold` may ask for beside its own inputs."""

    @abstractmethod
    def require(self, check: InputNode) -> None:
        """Call `check` whenever the network runs, only for the error that it may raise."""


class Snapping(ABC):
    """What a node's `snap` is given."""

    @property
    @abstractmethod
    def numerics(self) -> Numerics:
        """The arithmetic as it is for the node that is being snapped; it chooses grids and rounds to them."""

    def rounds(self, node: SpikingNode) -> bool:
        """Whether `node`, which is being snapped, is a running function that is rounded (see `SpikingNode.is_running`)."""
        return isinstance(self.numerics, Stretch) and node.is_running

    @abstractmethod
    def numerics_of(self, node: Node) -> Numerics:
        """The arithmetic as it is for what `node` gives."""

    @abstractmethod
    def reach_of(self, node: Node) -> Reach:
        """How large the numbers of a spiking node may be."""

    @abstractmethod
    def of(self, node: Node) -> Snapped:
        """What `node` has become. Each node is snapped once."""

    @abstractmethod
    def call(self, op: Op, *args: Any, **kwargs: Any) -> Ref:
        """Call an operation of the engine; nodes among the arguments stand for what they have become."""


@dataclass(frozen=True, eq=False, repr=False)
class Node(ABC):
    """One operation, its inputs among its fields."""

    place: Place | None = field(default=None, kw_only=True)

    @cached_property
    def inputs(self) -> tuple[Node, ...]:
        """The nodes that it reads, or may read."""
        held = (leaves(getattr(self, each.name)) for each in fields(self))
        return tuple(leaf for each in held for leaf in each if isinstance(leaf, Node))

    def with_inputs(self: NodeT, rewritten: Callable[[Node], Node]) -> NodeT:
        """The same operation of other inputs; itself, if they are the same."""
        if all(rewritten(node) is node for node in self.inputs):
            return self

        def leaf(value: Any) -> Any:
            return rewritten(value) if isinstance(value, Node) else value

        return replace(self, **{each.name: map_leaves(getattr(self, each.name), leaf) for each in fields(self)})

    def refuse(self, why: str) -> ConversionError:
        """The error for this operation."""
        assert self.place is not None
        return self.place.refuse(why)

    def check(self) -> None:  # noqa: B027 - most kinds take whatever they are given
        """Refuse, when it is read, what can never be converted.

        Raises:
            ConversionError: it cannot.
        """

    def fold(self, folding: Folding) -> Node:
        """What takes its place once its inputs have been folded."""
        return self

    def absorb(self) -> Node:
        """What takes its place once all is folded: a map takes in what normalises its input."""
        return self

    @abstractmethod
    def snap(self, snapping: Snapping) -> Snapped:
        """Put its numbers on grids, and call the operations that it becomes."""

    def details(self) -> str:
        """What a listing of the graph says of it beside its kind and inputs."""
        return ""


class InputNode(Node):
    """What is computed from the inputs, parameters and buffers alone."""

    @property
    def numbers(self) -> Tensor | None:
        """The numbers among which every entry of it is; None: the inputs decide."""
        return None

    @property
    def arguments(self) -> frozenset[str]:
        """The arguments of the forward whose numbers it is computed with; of a mask or a size there are none."""
        return frozenset()

    @property
    def may_be_whole(self) -> bool:
        """Whether its numbers can be whole: of a mask or the lengths of texts, but of no square root and no quotient."""
        return True

    def __repr__(self) -> str:
        return "a tensor computed from the inputs"


class SpikingNode(Node):
    """What follows from spikes, or is on its way to neurons."""

    @cached_property
    def sources(self) -> list[SpikingNode]:
        """The spiking nodes among its inputs."""
        return [node for node in self.inputs if isinstance(node, SpikingNode)]

    @cached_property
    def is_whole(self) -> bool:
        """Whether its numbers are whole, as spikes are, whatever is chosen around it."""
        return False

    @cached_property
    def is_fine(self) -> bool:
        """Whether its train is on a grid as fine as there is room for: a map or factors made it, and no neurons since."""
        return any(node.is_fine for node in self.sources)

    @cached_property
    def is_running(self) -> bool:
        """Whether it multiplies what is on such a grid: as trained, it is a running function, rounded to its own grid."""
        return False

    @cached_property
    def is_driven(self) -> bool:
        """Whether real-valued inputs or biases are in it."""
        return any(node.is_driven for node in self.sources)

    @cached_property
    def worth(self) -> Fraction:
        """What one of its numbers is worth in the user's values, as far as that is known before they are put on grids."""
        return self.sources[0].worth if self.sources else Fraction(1)

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        """How large its numbers may be, those of its inputs being as `of` says; a guess, from which grids are chosen."""
        return reduce(Reach.joined, map(of, self.sources), Reach())

    def check(self) -> None:
        if not self.sources:
            raise TypeError("it reads no spiking tensor")

    @property
    def takes_fills(self) -> bool:
        """Whether it may read what is filled."""
        return False

    def settle(self) -> None:
        """Find out what is known of it while its sources know: asked of the last of many nodes, each would ask the next."""
        _ = self.is_filled, self.is_divided, self.has_spikes, self.is_mapped, self.is_whole
        _ = self.is_fine, self.is_driven, self.worth

    @cached_property
    def is_filled(self) -> bool:
        """Whether some of its entries stand for minus infinity, on the way to a maximum."""
        return any(node.is_filled for node in self.sources)

    @cached_property
    def is_divided(self) -> bool:
        """Whether it may carry a divisor."""
        return any(node.is_divided for node in self.sources)

    @cached_property
    def has_spikes(self) -> bool:
        """Whether spikes arrive in it, and not real-valued input alone."""
        return any(node.has_spikes for node in self.sources)

    @cached_property
    def is_mapped(self) -> bool:
        """Whether its spikes are on a grid that a map has chosen, without neurons between them."""
        return any(node.is_mapped for node in self.sources)


class SignalNode(SpikingNode):
    """A spiking tensor, or one of real-valued input that is on its way to neurons."""

    def on_grid(self, exponent: int) -> SignalNode:
        """The same, where a map or a table decides its grid: on none that is finer than `2**exponent`."""
        return self

    def __repr__(self) -> str:
        return "a spiking tensor"


class PartsNode(SpikingNode):
    """A tuple of spiking tensors, as `chunk` and `unbind` return.

    Attributes:
        count: how many parts the trace took there to be, on which the forward depends; None: it does not.
        line: the user's line that depends on it.
    """

    count: int | None = None
    line: str = ""

    def __repr__(self) -> str:
        return "a tuple of spiking tensors"


@dataclass(frozen=True, eq=False, repr=False)
class PopulationNode(SignalNode):
    """A population of neurons: whatever it reads, spikes come out of it.

    Attributes:
        name: of the layer.
    """

    name: str

    @cached_property
    def is_whole(self) -> bool:
        return True

    @cached_property
    def is_divided(self) -> bool:
        return False

    @cached_property
    def has_spikes(self) -> bool:
        return True

    @cached_property
    def is_mapped(self) -> bool:
        return False

    @cached_property
    def is_fine(self) -> bool:
        return False

    @cached_property
    def is_driven(self) -> bool:
        return False

    @cached_property
    def worth(self) -> Fraction:
        return Fraction(1)

    def reach(self, of: Callable[[Node], Reach]) -> Reach:
        return Reach(float(self.worth))

    def require_threshold(self, rounded: float, threshold: float, unit: float) -> None:
        """Refuse a threshold that is nothing on the grid of the sums that meet it, which is of this unit."""
        if not rounded > 0:
            raise self.refuse(
                f"its threshold is {threshold:g}, and sums as large as those that meet it are exact to {unit:.2g}; "
                "make the threshold larger, or the weights before it smaller"
            )

    def potential(self, of: Callable[[Node], Reach]) -> Reach:
        """How much its neurons may receive for each spike or wake step, the largest threshold among what spikes bring."""
        received = reduce(Reach.joined, map(of, self.sources), Reach())
        return replace(received, train=received.train + of(self).train)

    def details(self) -> str:
        return repr(self.name)


class ComparingNode(PopulationNode):
    """A population whose counts cannot grow beyond their thresholds, whatever it receives."""

    @abstractmethod
    def compared_with(self, x: Node) -> float:
        """The largest threshold that `x`, one of its inputs, meets, for each level."""
