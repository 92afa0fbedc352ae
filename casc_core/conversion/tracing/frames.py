"""The user's frame on the stack, and the line that it is executing."""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import torch

_WRITTEN_BY_CODE = ("<frozen", "<eval_with_key", "<string>")
LIBRARIES = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parents[2]}{os.sep}", *_WRITTEN_BY_CODE)
"""What the names of files begin with that belong to torch, to this library, or to nobody."""


def is_users(frame: FrameType) -> bool:
    """Whether a frame belongs neither to torch nor to this library."""
    return not frame.f_code.co_filename.startswith(LIBRARIES)


def user_frame() -> FrameType | None:
    """The innermost frame on the stack that is the user's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_users(frame):
        frame = frame.f_back
    return frame


def user_line() -> str:
    """The user's line that is being executed, for an error: `file:line: code`."""
    return _said(Path)


def kept_line() -> str:
    """The same for a network, which is saved and given away: its file as `in_project` names it."""
    return _said(in_project)


def _said(named: Callable[[str], Path]) -> str:
    frame = user_frame()
    if frame is None:
        return "unknown line"
    file = frame.f_code.co_filename
    return f"{named(file)}:{frame.f_lineno}: {linecache.getline(file, frame.f_lineno).strip()}"


def in_project(file: str) -> Path:
    """A source file as seen from the package or the project that it is in: nothing of the machine that it lies on.

    That is from the innermost of the folders that Python imports from, the working folder, and what holds its outermost
    package; of a file in none of them, its name.

    >>> in_project(torch.nn.__file__), in_project("/tmp/ipykernel_1/3.py")
    (PosixPath('torch/nn/__init__.py'), PosixPath('3.py'))
    """
    path = Path(file).absolute()
    package = path.parent
    while (package / "__init__.py").exists():
        package = package.parent
    folders = {Path(entry).absolute() for entry in ("", *sys.path)} | ({package} if package != path.parent else set())
    within = [path.relative_to(each) for each in folders if path.is_relative_to(each) and each != each.parent]
    return min(within, key=lambda each: len(each.parts), default=Path(path.name))
