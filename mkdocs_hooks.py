"""What the build of the documentation needs of its own.

Public names are documented where they are defined. `::: casc_core.convert` on a page of the reference means a function, but
a module has the same name, and a reader of source files finds that first. So each name is looked up as Python does.

Examples in docstrings are doctests, which Markdown would take for quotations. They become blocks of code.
"""

from __future__ import annotations

import importlib
import re
from types import ModuleType
from typing import Any

import griffe

_DOCTEST = re.compile(r"^>>> .*\n(?:.+\n?)*", re.MULTILINE)
_DIRECTIVE = re.compile(r"^::: (?P<package>[\w.]+)\.(?P<name>\w+)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with each public name replaced by the place of its definition, under a heading that is its name."""
    return _DIRECTIVE.sub(_defined, markdown)


def _defined(match: re.Match[str]) -> str:
    value = getattr(importlib.import_module(match["package"]), match["name"])
    if isinstance(value, ModuleType):
        return f"::: {value.__name__}"
    if not hasattr(value, "__qualname__"):  # a constant, which does not know where it is from
        return match[0]
    return f"::: {value.__module__}.{value.__qualname__}"


class Doctests(griffe.Extension):
    """Fences the doctests of every docstring."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object of a package as it is read."""
        if obj.docstring is not None:
            obj.docstring.value = _DOCTEST.sub(
                lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", obj.docstring.value
            )
