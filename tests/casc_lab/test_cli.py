"""What every command shares: one line for a mistake, its exit status, and terminals of every kind."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

import pytest

from casc_core.errors import ConfigError
from casc_lab.cli import answered, main


def status_of(action: Callable[[], int]) -> int:
    return answered(action, "casc: ", "casc: interrupted")


def raising(error: BaseException) -> Callable[[], int]:
    def action() -> int:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("q is 0"), 2, "casc: q is 0"),
        (OSError(36, "File name too long", "aaa"), 2, "casc: [Errno 36] File name too long: 'aaa'"),
        (
            OverflowError("int too big\nto convert"),
            2,
            "casc: a size is too large for this machine: int too big to convert",
        ),
        (KeyboardInterrupt(), 130, "casc: interrupted"),
        (KeyError("ours"), 3, "casc: this should not have happened; see above"),
    ],
)
def test_what_goes_wrong_has_a_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(raising(error)) == status
    *above, last = capsys.readouterr().err.splitlines()
    assert last == line
    assert bool(above) == (status == 3)


@pytest.mark.parametrize(
    "arguments", [[], ["nothing"], ["verify"], ["verify", "x", "--T", "many"], ["verify", "x", "--t", "1", "y"]]
)
def test_a_command_line_that_cannot_be_read_is_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.endswith("; --help lists the options\n")
    assert said.out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "100000"], "casc: --threads must be at most 1,024; got 100000\n"),
        (["--threads", "-1"], "casc: --threads must be at least 1; got -1\n"),
        (["--T", str(10**30)], f"casc: --T must be at most 131,072; got {10**30}\n"),
    ],
)
def test_numbers_out_of_range(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "anything:at_all", *options]) == 2
    assert capsys.readouterr().err == message


def test_a_terminal_that_knows_ascii_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))

    def action() -> int:
        print("▁█ café")
        return 0

    assert status_of(action) == 0
    assert written.getvalue() == b"?? caf?\n"


def test_a_reader_that_has_had_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)

        def action() -> int:
            print("nobody reads this")
            return 1

        assert status_of(action) == 0
        print("nor this, which must not complain at the end", file=closed)


def test_streams_that_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert status_of(raising(ConfigError("nobody hears this"))) == 2
    with sys.stdout as out, sys.stderr as err:
        assert out.name == err.name == os.devnull
