"""What a traced forward returns: its outputs, and where they stand in it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from casc_core.conversion.graph import InputNode, Node, PartsNode, SignalNode
from casc_core.engine.structure import Output, Structure, described, structure_of
from casc_core.errors import ConversionError


@dataclass(frozen=True)
class Unreadable:
    """A result that spikes cannot carry; whatever reads it is refused, and `why`."""

    why: str


def outputs_of(returned: Any, kind: str) -> tuple[tuple[Node, ...], Structure]:
    """The outputs in what a forward returns, and where they stand in it; one at two places is one.

    Args:
        kind: what the model is called in messages.

    Raises:
        ConversionError: what it returns cannot be converted.
    """
    outputs: dict[Node, int] = {}

    def number(value: Any) -> int:
        if isinstance(value, Unreadable):
            raise ConversionError(f"the forward of {kind} returns what cannot be converted exactly: {value.why}")
        if not isinstance(value, (SignalNode, InputNode)):
            raise ConversionError(
                f"the forward of {kind} returns {_describe(value)}, which is neither a tensor nor a number, a string "
                "or None: return tensors, in tuples, lists, dicts, named tuples and dataclasses"
            )
        return outputs.setdefault(value, len(outputs))

    try:
        structure = structure_of(returned, number)
    except ValueError as error:
        raise ConversionError(f"the forward of {kind} returns what cannot be given back: {error}") from error
    if not any(isinstance(output, SignalNode) for output in outputs):
        raise ConversionError(
            f"the forward of {kind} must return what the network computes: a tensor, its logits, or tensors in tuples, "
            f"lists, dicts, named tuples and dataclasses; it returns {_described(structure, outputs)}"
        )
    return tuple(outputs), structure


def _describe(value: Any) -> str:
    return "a tuple of as many parts as its input's size makes" if isinstance(value, PartsNode) else repr(value)


def _described(structure: Structure, outputs: Collection[Node]) -> str:
    single = isinstance(structure, Output)
    of_inputs = "a function of its inputs alone" if single else f"{described(structure)}, functions of its inputs alone"
    return of_inputs if outputs else described(structure)
