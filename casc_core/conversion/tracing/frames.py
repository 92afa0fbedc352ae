"""The user's frame on the stack, and the line that it is executing."""

from __future__ import annotations

import linecache
import os
import sys
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
    """The user's line that is being executed: `file:line: code`."""
    frame = user_frame()
    if frame is None:
        return "unknown line"
    file = frame.f_code.co_filename
    return f"{file}:{frame.f_lineno}: {linecache.getline(file, frame.f_lineno).strip()}"
