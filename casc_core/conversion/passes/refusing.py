"""Errors that arise in a pass, told of the operation that they arise at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from casc_core.conversion.graph import Place
from casc_core.errors import CascError


@contextmanager
def refusing(place: Place | None) -> Iterator[None]:
    """Within, whatever the user's arguments make of an operation refuses it.

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
