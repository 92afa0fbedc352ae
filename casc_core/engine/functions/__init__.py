"""The functions that a program may call, by name: on its inputs (tokens, lengths, masks), or on a signal's layout.

A saved network names them, so only what is registered here can ever be called by one that is loaded. To let programs call
another, register it in `registered`.
"""

from casc_core.engine.functions.calls import call, check_room, count_made, filled_with, foreseen
from casc_core.engine.functions.reading import ATTRIBUTES, DTYPES, FIELDS, FLOATING, may_read, require_floating
from casc_core.engine.functions.registered import follow_join, followed
from casc_core.engine.functions.table import FUNCTIONS, Function, name_of

REARRANGING = frozenset(name for name, function in FUNCTIONS.items() if function.rearranges)
"""Those that may be called on signals."""
FILLING = frozenset(f"{owner}.{name}" for owner in ("Tensor", "torch") for name in ("tril", "triu")) | {
    "F.pad",
    "F.unfold",
}
"""Those of them that put zeros between the entries of their argument."""

__all__ = [
    "ATTRIBUTES",
    "DTYPES",
    "FIELDS",
    "FILLING",
    "FLOATING",
    "FUNCTIONS",
    "REARRANGING",
    "Function",
    "call",
    "check_room",
    "count_made",
    "filled_with",
    "follow_join",
    "followed",
    "foreseen",
    "may_read",
    "name_of",
    "require_floating",
]
