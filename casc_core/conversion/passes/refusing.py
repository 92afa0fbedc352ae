"""Errors raised in a pass, reported as refusals of the operation that they were raised at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from casc_core.conversion.graph import Place
from casc_core.errors import CascError


@contextmanager
def refusing(place: Place | None) -> Iterator[None]:
    """Within the block, an error becomes the refusal of this operation, whose arguments caused it.

    Raises:
        ConversionError: something went wrong that is no error of ours.
    """
    try:
        yield
    except CascError:
        raise
    except Exception as error:
        if place is None:
            raise
        raise place.refuse(f"it fails on its arguments ({type(error).__name__}: {error})") from error
