"""What every command shares: one line for a mistake, its exit status, and terminals of every kind."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest

from casc_core.errors import ConfigError
from casc_lab import cli
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

    def action() -> int:
        assert sys.stdout.name == sys.stderr.name == os.devnull
        print("nobody hears this")
        raise ConfigError("nor this")

    assert status_of(action) == 2
    assert sys.stdout is sys.stderr is None


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_do_not_load_torch(option: str) -> None:
    code = f"""
import sys
from casc_lab.cli import main
try:
    main([{option!r}])
except SystemExit as stopped:
    assert stopped.code == 0, stopped.code
assert not {{"torch", "numpy", "casc_core", "casc_seq"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    if option == "--version":
        assert said == f"casc {version('casc')}"
    else:
        for line in (
            "compare run every conversion method on a trained network, and write a report",
            "verify compare a converted network with its quantised ANN, neuron by neuron",
            "classify classify a text in spikes, and show how",
        ):
            assert line in said


THEIRS = """
import sys
from casc_lab.cli import Command

def options(line):
    line.add_argument("name")

def run(args):
    print("hello", args.name)
    return 0

def made():
    return Command("made elsewhere, 100%", "", options, run)

hello = Command("greet 100% of you", "Greets.", options, run)
named = Command(description="Greets.", add_options=options, run=run, about="greet by name")
late = made()
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands of someone else's package, two of them broken, beside one of ours."""
    package = tmp_path / "their_package"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "commands.py").write_text(THEIRS, encoding="utf-8")
    (package / "broken.py").write_text("raise RuntimeError('no\\nlicence')", encoding="utf-8")
    (package / "garbled.py").write_text("command = Command(", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    places = {
        "hello": "their_package.commands:hello",
        "named": "their_package.commands:named",
        "late": "their_package.commands:late",
        "broken": "their_package.broken:command",
        "garbled": "their_package.garbled:command",
        "gone": "their_lost_package:command",
        "verify": "casc_lab.compare.command:verification",
    }
    entries = [EntryPoint(name, value, cli.GROUP) for name, value in places.items()]
    monkeypatch.setattr(cli, "entry_points", lambda group: entries)
    yield
    for name in [name for name in sys.modules if name.startswith("their_package")]:
        del sys.modules[name]


@pytest.mark.usefixtures("theirs")
def test_help_lists_commands_of_other_packages_and_broken_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    for line in (
        "hello greet 100% of you",
        "named greet by name",
        "late made elsewhere, 100%",
        "broken cannot be loaded; reinstall its package (RuntimeError: no licence)",
        "garbled cannot be loaded; reinstall its package (SyntaxError: ",
        "gone cannot be loaded; reinstall its package (ModuleNotFoundError: No module named 'their_lost_package')",
        "verify compare a converted network",
    ):
        assert line in said


@pytest.mark.usefixtures("theirs")
@pytest.mark.parametrize("name", ["hello", "named", "late"])
def test_a_command_of_another_package_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "you"]) == 0
    assert capsys.readouterr().out == "hello you\n"


@pytest.mark.usefixtures("theirs")
def test_a_broken_command_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["broken", "you"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "casc: the command 'broken' cannot be loaded; reinstall its package (RuntimeError: no licence)\n"
    )
