"""A recipe run in this process, in one of its own as a user runs it, or in two that work together."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

from casc_lab import command

RECIPES = Path(__file__).parents[2] / "recipes"
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run_here(recipe: ModuleType, *arguments: object) -> None:
    """A recipe in this process, which need not load torch again; SystemExit where it would exit with a status."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{recipe.__name__}.py", *map(str, arguments)])
        try:
            command.run(recipe.options(), recipe.main)
        finally:
            torch.set_num_threads(threads)


def run_script(recipe: str, *arguments: object) -> None:
    """The file of a recipe in this process, as Python runs it when its path is given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [recipe, *map(str, arguments)])
        runpy.run_path(str(RECIPES / recipe), run_name="__main__")


def run_recipe(recipe: str, *arguments: object, launcher: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """A recipe in a process of its own, or in those that a launcher starts."""
    words = [sys.executable, "-W", "error", *launcher, str(RECIPES / recipe), *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env=dict(os.environ), check=False, timeout=300)
