"""How OpenMP's threads wait is said before torch loads it, wherever an experiment or a test starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from casc_lab.threads import SPINS

ROOT = Path(__file__).parents[2]
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
WATCHED = """
import os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch loads with", os.environ.get("GOMP_SPINCOUNT"), os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)  # enough is known

sys.meta_path.insert(0, Watch())
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def seen(script: Path, *arguments: str, **environment: str) -> str:
    """What the environment says when a script loads torch for the first time."""
    untouched = {name: value for name, value in os.environ.items() if name not in CHOICES}
    command = [sys.executable, "-c", WATCHED, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=untouched | environment)
    lines = [line for line in done.stdout.splitlines() if line.startswith("torch loads")]
    assert lines, done.stderr
    return lines[0].removeprefix("torch loads with ")


@pytest.mark.parametrize("script", sorted((ROOT / "recipes").glob("*.py")), ids=lambda path: path.stem)
def test_a_recipe_says_so_before_torch_loads(script: Path) -> None:
    assert seen(script, "--help") == f"{SPINS} None"


def test_the_command_says_so_before_torch_loads(tmp_path: Path) -> None:
    script = tmp_path / "casc"  # as installed
    script.write_text("import sys\nfrom casc_lab.cli import main\nsys.exit(main())\n", encoding="utf-8")
    assert seen(script, "verify", str(tmp_path)) == f"{SPINS} None"


def test_the_tests_say_so_before_torch_loads() -> None:
    assert seen(ROOT / "tests" / "conftest.py") == f"{SPINS} None"


@pytest.mark.parametrize(
    ("environment", "found"),
    [({"GOMP_SPINCOUNT": "7"}, "7 None"), ({"OMP_WAIT_POLICY": "active"}, "None active")],
)
def test_what_the_environment_says_stays(environment: dict[str, str], found: str) -> None:
    assert seen(ROOT / "recipes" / "agnews_rnn.py", "--help", **environment) == found
