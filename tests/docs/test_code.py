"""The Python of every page runs, block after block in one namespace, and prints what the page says it prints."""

from __future__ import annotations

import doctest
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import torch
from pages import PAGES, Block, blocks, name

RUN = [page for page in PAGES if any(block.language == "python" for block in blocks(page.read_text(encoding="utf-8")))]
CHECKER = doctest.OutputChecker()
AS_FAR_AS_SAID = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def run(page: list[Block], where: str) -> None:
    """Run the Python of a page; a block `text` right behind one says what it prints, `...` for what may differ."""
    space: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    for block in page:
        if block.language == "python" and block.runs:
            # Tracebacks name the line of the page.
            code = compile("\n" * (block.line - 1) + block.text, where, "exec")
            with redirect_stdout(StringIO()) as out:
                exec(code, space)
            printed = out.getvalue()
        elif block.language == "text" and block.follows:
            same = CHECKER.check_output(block.text, printed, AS_FAR_AS_SAID)
            assert same, f"{where}:{block.line} says\n{block.text}\nprinted was\n{printed}"


@pytest.mark.parametrize("page", RUN, ids=name)
def test_python_on_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    run(blocks(page.read_text(encoding="utf-8")), name(page))


def test_both_tutorials_and_the_readme_are_run() -> None:
    assert {"README.md", "docs/tutorials/text_classifier.md", "docs/tutorials/cnn.md"} <= set(map(name, RUN))


@pytest.mark.parametrize(
    ("page", "error"),
    [
        ("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", AssertionError),
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", AssertionError),
        ("- an item:\n\n  ```python\n  1 / 0\n  ```\n", ZeroDivisionError),
    ],
)
def test_a_page_that_is_wrong_is_found(page: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        run(blocks(page), "page")


def test_what_is_marked_is_not_run() -> None:
    run(blocks("<!-- not run: needs a network trained before -->\n```python\n1 / 0\n```\n"), "page")
