"""The pages of the documentation, as the tests read them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
NOT_RUN = "<!-- not run:"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: what stands behind the fence.
        text: its lines, without the indentation of the fence.
        line: the line of the page on which `text` begins, from 1.
        follows: it stands right behind the block before it.
        runs: it is not marked as one that is not to be run.
    """

    language: str
    text: str
    line: int
    follows: bool
    runs: bool


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page in order."""
    found, end = [], 0
    for match in _FENCE.finditer(page):
        between = page[end : match.start()]
        text = "".join(line.removeprefix(match["indent"]) for line in match["text"].splitlines(keepends=True))
        line = page.count("\n", 0, match.start("text")) + 1
        marked = between.rstrip().rpartition("\n")[2].strip().startswith(NOT_RUN)
        found.append(Block(match["language"], text, line, bool(found) and not between.strip(), not marked))
        end = match.end()
    return found


def outside_blocks(page: str) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", page)


def name(page: Path) -> str:
    """How a test calls a page."""
    return str(page.relative_to(ROOT))
