"""Energies and ratios as a reader of a report sees them."""

from __future__ import annotations


def ratio(value: float, unit: float) -> str:
    """How many times as much.

    >>> ratio(3.0, 2.0), ratio(1250.0, 1.0), ratio(1.0, 0.0)
    ('1.50', '1,250', '–')
    """
    if unit == 0.0:
        return "–"
    share = value / unit
    return f"{share:,.{0 if share >= 100 else 1 if share >= 10 else 2 if share >= 1 else 3}f}"


def joules(nano: float) -> str:
    """An energy in a readable unit.

    >>> joules(0.5), joules(1500.0), joules(2.5e6)
    ('500 pJ', '1.5 µJ', '2.5 mJ')
    """
    for factor, unit in ((1e-3, "pJ"), (1.0, "nJ"), (1e3, "µJ"), (1e6, "mJ"), (1e9, "J")):
        if abs(nano) < 999.5 * factor or unit == "J":
            return f"{nano / factor:.3g} {unit}"
    raise AssertionError
