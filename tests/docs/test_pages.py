"""The README is short, links lead somewhere, and every public name is documented."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version
from types import ModuleType

import pytest
from pages import ROOT, blocks, outside_blocks

import casc_core
import casc_core.extend
import casc_core.operations
import casc_seq
from casc_lab.cli import main

README = (ROOT / "README.md").read_text(encoding="utf-8")
OF_THE_ROOT = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
FIRST_SCREEN = 35


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site's builder make them."""
    headings = re.findall(r"^#+ (.+)$", outside_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert len(README.encode()) <= 8192


def test_python_is_on_the_first_screen() -> None:
    first = next(block for block in blocks(README) if block.language == "python")
    assert first.line + first.text.count("\n") <= FIRST_SCREEN
    assert first.text.count("\n") <= 10


@pytest.mark.parametrize("page", OF_THE_ROOT)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        assert (ROOT / path).is_file(), target
        assert not anchor or anchor in anchors((ROOT / path).read_text(encoding="utf-8")), target


@pytest.mark.parametrize(
    "package", [casc_core, casc_core.extend, casc_core.operations, casc_seq], ids=lambda package: package.__name__
)
def test_every_public_name_is_in_the_reference(package: ModuleType) -> None:
    page = (ROOT / "docs" / "reference" / f"{package.__name__}.md").read_text(encoding="utf-8")
    listed = re.findall(rf"^::: {re.escape(package.__name__)}\.(\w+)$", page, re.MULTILINE)
    public = [each for each in package.__all__ if each != "__version__"]
    assert sorted(listed) == sorted(public)
    assert all(inspect.getdoc(getattr(package, each)) for each in public)


def test_one_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert casc_core.__version__ == version("casc")
    assert re.search(rf'^version = "{casc_core.__version__}"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert re.search(rf"^version: {casc_core.__version__}$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert f"## {casc_core.__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"casc {casc_core.__version__}\n"
