"""Tables in HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, strong: Sequence[int] = ()) -> str:
    """A table whose first column names its rows; rows of these numbers stand out. Cells are text.

    The caption is outside the part that scrolls, so that a phone shows all of it.

    >>> html_table(["method", "T=1"], [["a < b", "1"]], "how").count("&lt;")
    1
    """
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    body = "".join(
        f"<tr{' class=ours' if index in strong else ''}>"
        f'<th scope="row">{html.escape(row[0])}</th>{"".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])}</tr>'
        for index, row in enumerate(rows)
    )
    head = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    said = html.escape(caption)
    return (
        f'<figure class="data"><figcaption>{said}</figcaption><div class="wide" tabindex="0" role="region" '
        f'aria-label="{said}"><table>{head}<tbody>{body}</tbody></table></div></figure>'
    )


def pairs_table(values: Mapping[str, Any], caption: str) -> str:
    """Names and values."""
    return html_table(["", ""], [[str(name), str(value)] for name, value in values.items()], caption)
