"""The command line: common options, mistakes in one line, and what an interruption says."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from casc_core.errors import DataError
from casc_lab import command, distributed


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in distributed.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def line(tmp_path: Path, plain: bool = False) -> argparse.ArgumentParser:
    parser = command.parser("What it does.")
    command.add_options(parser, q=8, T=16, data="a folder", out=str(tmp_path / "out"), seed=3, plain=plain)
    return parser


def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> argparse.Namespace:
    seen: list[argparse.Namespace] = []
    monkeypatch.setattr(sys, "argv", ["recipe", *arguments])
    command.run(line(tmp_path, plain=True), lambda args, device: seen.append(args))
    return seen[0]


def test_defaults_and_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ran(tmp_path, monkeypatch)
    assert (found.q, found.T, found.seed, found.data, found.device) == (8, 16, 3, None, "auto")
    assert found.out == tmp_path / "out"
    assert found.out.is_dir()
    found = ran(tmp_path, monkeypatch, "--q", "none", "--T", "4", "--threads", "2", "--weight-bits", "8", "--quiet")
    assert (found.q, found.T, found.weight_bits, found.quiet, torch.get_num_threads()) == (None, 4, 8, True, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--T", "0"], "error: --T must be at least 1; got 0"),
        (["--threads", "0"], "error: --threads must be at least 1; got 0"),
        (["--T", str(10**30)], "error: --T must be at most 131,072; got 1000"),
        (["--threads", "100000"], "error: --threads must be at most 1,024; got 100000"),
        (["--T", "many"], "error: argument --T: invalid int value: 'many'"),
        (["--no-such-option"], "error: unrecognized arguments: --no-such-option"),
        (["--weight-bits", "1"], "error: weight_bits"),
        (["--device", "gpu"], "error: no device is called 'gpu'"),
        (["--out", "/dev/null/out"], "error: cannot write /dev/null/out"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        ran(tmp_path, monkeypatch, *arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (DataError("no such file"), 2, "error: no such file\n"),
        (MemoryError("1 TB"), 2, "error: a size is too large for this machine: 1 TB\n"),
        (
            RuntimeError("DefaultCPUAllocator: can't\nallocate memory"),
            2,
            "error: a size is too large for this machine: Default",
        ),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to go on where it was\n"),
        (ZeroDivisionError("a fault of ours"), 3, "a fault of ours\nerror: this should not have happened; see above\n"),
    ],
)
def test_errors_and_interruptions(
    error: BaseException,
    status: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["recipe"])

    def main(args: argparse.Namespace, device: torch.device) -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        command.run(line(tmp_path), main)
    assert stopped.value.code == status
    said = capsys.readouterr().err
    assert words in said
    assert ("Traceback" in said) == (status == 3)


def test_half_an_environment_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(SystemExit) as stopped:
        ran(tmp_path, monkeypatch)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: RANK is set but not WORLD_SIZE")


@pytest.mark.parametrize(("text", "found"), [("8", [8]), ("none,64,8", [None, 64, 8]), ("None", [None])])
def test_levels(text: str, found: list[int | None]) -> None:
    assert command.level_list(text) == found


def test_a_second_run_in_the_same_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["recipe"])
    ran: list[str] = []

    def first(args: argparse.Namespace, device: torch.device) -> None:
        # A lock of this very process, opened anew, stands for that of another one.
        with pytest.raises(SystemExit) as refused:
            command.run(line(tmp_path), lambda args, device: ran.append("second"))
        assert refused.value.code == 2
        said = capsys.readouterr().err
        assert f"out is in use by process {os.getpid()} on " in said
        assert "choose another folder" in said
        ran.append("first")

    command.run(line(tmp_path), first)
    command.run(line(tmp_path), lambda args, device: ran.append("third"))
    assert ran == ["first", "third"]
    assert list((tmp_path / "out").iterdir()) == []
