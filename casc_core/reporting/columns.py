"""Rows of text in columns, for reports that print."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """The rows with their columns aligned left, the first a header with a rule below.

    >>> print(aligned([("layer", "neurons"), ("rnn", "1,024")]))
    layer  neurons
    -----  -------
    rnn    1,024
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
