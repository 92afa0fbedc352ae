"""What an installation tells a user's type checker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

PACKAGES = ("casc_core", "casc_lab", "casc_seq")
WRONG = "import casc_core\nfrom torch import nn\n\ncasc_core.convert(nn.Linear(1, 1), numerics=3)\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python files that a wheel would hold."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)]
    command += ["build_py", "--build-lib", str(folder / "packages")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "packages"


def checked(installed: Path, file: Path) -> str:
    """What mypy says of a file beside these packages; a cache that stays makes it a matter of a second."""
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache" / "user"), file.name]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(command, cwd=file.parent, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_each_package_says_that_it_is_typed(installed: Path) -> None:
    assert sorted(path.parent.name for path in installed.glob("*/py.typed")) == sorted(PACKAGES)


def test_a_users_file_is_checked(installed: Path, tmp_path: Path) -> None:
    file = tmp_path / "user.py"
    file.write_text((ROOT / "tests" / "support" / "typed_user.py").read_text(encoding="utf-8"), encoding="utf-8")
    assert "Success: no issues found" in checked(installed, file)


def test_a_users_mistake_is_found(installed: Path, tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(WRONG, encoding="utf-8")
    assert 'Argument "numerics" to "convert" has incompatible type "int"' in checked(installed, file)
