"""Progress: a bar in a terminal, a line a minute in a log, nothing where it is not wanted."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Iterable, Iterator

import pytest
from torch.utils.data import DataLoader, IterableDataset

from casc_lab import progress
from casc_lab.progress import Progress, followed


class Clock:
    """A second for each look at it."""

    def __init__(self) -> None:
        self.seconds = itertools.count(1.0)

    def monotonic(self) -> float:
        return next(self.seconds)


@pytest.fixture(autouse=True)
def _a_clock_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "time", Clock())
    monkeypatch.setattr(Progress, "_last_line", 0.0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(240, "epoch 1/1") as shown:
        for _ in range(240):
            shown.advance("loss=0.5")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "epoch 1/1: 59 of 240 batches, 0:59 gone, 3:01 left, loss=0.5",
        "epoch 1/1: 119 of 240 batches, 1:59 gone, 2:01 left, loss=0.5",
        "epoch 1/1: 179 of 240 batches, 2:59 gone, 1:01 left, loss=0.5",
        "epoch 1/1: 239 of 240 batches, 3:59 gone, 0:01 left, loss=0.5",
    ]


def test_many_short_works_write_a_line_a_minute_together(capsys: pytest.CaptureFixture[str]) -> None:
    for epoch in range(20):
        with Progress(9, f"epoch {epoch + 1}/20") as shown:
            for _ in range(9):
                shown.advance()
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "epoch 6/20",
        "epoch 12/20",
        "epoch 18/20",
    ]


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with Progress(4, "epoch 1/1", done=1, stays=True) as shown:
        assert shown.is_bar
        for _ in range(3):
            shown.advance("loss=0.5")
        shown.remark("validating")
    assert "epoch 1/1: 100%" in screen.getvalue()
    assert "4/4" in screen.getvalue()
    assert "validating" in screen.getvalue()


def test_a_notebook_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream_type = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    monkeypatch.setattr(sys, "stderr", stream_type())
    assert list(followed(range(3), name="evaluating")) == [0, 1, 2]
    assert "evaluating:" in sys.stderr.getvalue()
    assert "%" in sys.stderr.getvalue()


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO(), None])
def test_what_is_not_wanted_is_not_shown(stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(followed(range(300), name="evaluating", shown=False)) == list(range(300))
    assert stream is None or stream.getvalue() == ""


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(90))


@pytest.mark.parametrize(
    ("items", "counted"),
    [(range(90), "59 of 90 batches"), (iter(range(90)), "59 batches"), (DataLoader(Stream()), "59 batches")],
    ids=["sized", "iterator", "loader of a stream"],
)
def test_a_total_is_said_where_it_is_known(
    items: Iterable[object], counted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(list(followed(items))) == 90
    assert capsys.readouterr().err.startswith(f"{counted}, 0:59 gone")
