"""How far long work has come, on stderr: a bar in a terminal, a line a minute in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import ClassVar, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
LOG_SECONDS = 60.0
"""From one line in a log to the next."""


def can_draw() -> bool:
    """Whether a bar can be drawn over and over on stderr: in a terminal, and in a notebook that says it is none."""
    stream = sys.stderr
    return stream is not None and (stream.isatty() or type(stream).__module__.startswith("ipykernel."))


class Progress:
    """How many of its batches some work has gone through; use it as a context.

    Args:
        total: batches of the work; None: unknown.
        name: what is done.
        done: batches gone through before.
        shown: False: nothing is written.
        stays: whether its bar is left in the terminal at the end.

    Attributes:
        is_bar: whether it is drawn, its name beside it.

    >>> with Progress(3, "epoch 1/2", shown=False) as progress:
    ...     for _ in range(3):
    ...         progress.advance("loss=0.5")
    >>> progress.done
    3
    """

    # Many short works together write a line a minute, too.
    _last_line: ClassVar[float] = time.monotonic()

    def __init__(
        self, total: int | None = None, name: str = "", *, done: int = 0, shown: bool = True, stays: bool = False
    ) -> None:
        self.total, self.name, self.done, self.note = total, name, done, ""
        self._first, self._started = done, time.monotonic()
        self.is_bar = shown and can_draw()
        self._logs = shown and not self.is_bar
        self._bar = tqdm(
            total=total, initial=done, desc=name or None, unit=" batches", leave=stays, disable=not self.is_bar
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def rename(self, name: str) -> None:
        """Say what is done from now on."""
        self.name = name
        self._bar.set_description(name)

    def remark(self, note: str) -> None:
        """Say something beside it."""
        self.note = note
        self._bar.set_postfix_str(note)

    def advance(self, note: str | None = None) -> None:
        """One more batch is done.

        Args:
            note: what to say beside it from now on; None: what was said before.
        """
        self.done += 1
        if note is not None:
            self.note = note
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update()
        now = time.monotonic()
        if self._logs and now - Progress._last_line >= LOG_SECONDS:
            Progress._last_line = now
            print(self.line(now - self._started), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """What a log says after this many seconds.

        >>> progress = Progress(600, "epoch 1/3", done=100, shown=False)
        >>> progress.done = 200
        >>> progress.line(60.0)
        'epoch 1/3: 200 of 600 batches, 1:00 gone, 4:00 left'
        """
        counted = f"{self.done:,}" + ("" if self.total is None else f" of {self.total:,}")
        parts = [f"{counted} batches", f"{_clock(seconds)} gone"]
        if self.total is not None and self.done > self._first:
            parts.append(f"{_clock(seconds * (self.total - self.done) / (self.done - self._first))} left")
        parts += [self.note] if self.note else []
        return (f"{self.name}: " if self.name else "") + ", ".join(parts)


def followed(items: Iterable[Item], total: int | None = None, name: str = "", *, shown: bool = True) -> Iterator[Item]:
    """The items, each a batch of some work.

    Args:
        items: gone through once.
        total: how many there are; None: as many as they say themselves, if they do.
        name, shown: as `Progress` takes them.

    >>> list(followed("ab", shown=False))
    ['a', 'b']
    """
    if total is None and isinstance(items, Sized):
        with contextlib.suppress(TypeError):  # a loader that reads a stream has no length after all
            total = len(items)
    with Progress(total, name, shown=shown) as progress:
        for item in items:
            yield item
            progress.advance()


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> _clock(59.6), _clock(3725.0)
    ('1:00', '1:02:05')
    """
    whole = round(seconds)
    minutes, hours = whole // 60, whole // 3600
    return f"{hours}:{minutes % 60:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
