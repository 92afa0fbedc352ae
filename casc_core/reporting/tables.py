"""Rows of text as a table: aligned for a terminal, or in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """The rows with their columns aligned left, the first a header with a rule below.

    >>> print(text_table([("layer", "neurons"), ("rnn", "1,024")]))
    layer  neurons
    -----  -------
    rnn    1,024
    """
    widths = _widths(rows)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The rows in Markdown, the first a header; the first column is aligned left, the others right.

    >>> print(markdown_table([["q", "ANN"], ["8", "94.62"]]))
    | q |   ANN |
    |---|------:|
    | 8 | 94.62 |
    """
    widths = _widths(rows)
    lines = ["| " + " | ".join(_markdown_cells(row, widths)) + " |" for row in rows]
    rules = ["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]
    lines.insert(1, f"|{'|'.join(rules)}|")
    return "\n".join(lines)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column."""
    return [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]


def _markdown_cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = zip(row, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
