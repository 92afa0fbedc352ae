"""An installation tells a user's type checker of its types; `mypy` checks a user's file, tests/support/typed_user.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pages import ROOT

PACKAGES = ("casc_core", "casc_lab", "casc_seq")


def test_each_package_says_that_it_is_typed(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    command += ["build_py", "--build-lib", str(tmp_path / "packages")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.parent.name for path in tmp_path.glob("packages/*/py.typed")) == sorted(PACKAGES)
