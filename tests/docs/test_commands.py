"""What a page names is there: commands with their options, files, links."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PAGES, ROOT, name, outside_blocks

from casc_lab import cli

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.py"))
STARTS = ("python ", "casc ", "make ", "torchrun ", "pip install ", ".ci/run", "CASC_KERNELS=", "PYTHON=")
OTHERS = {"--no-deps", "--nproc-per-node", "--inplace", "--help", "--version"}
"""Options of programs that are not ours."""


def code(page: str) -> Iterator[str]:
    """Each piece of inline code, and each line of code that is set off by its indentation."""
    page = outside_blocks(page)
    yield from (match[1].replace("\n", " ") for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", page))
    yield from (line[4:] for line in page.splitlines() if re.match(r"    [^ |\-*>]", line))


def commands(page: str) -> Iterator[str]:
    """Each command line that a page shows."""
    for piece in code(page):
        for line in piece.split(" && "):
            line = line.strip().removeprefix(".venv/bin/")
            if line.startswith(STARTS) and "..." not in line:
                yield line


def recipe(stem: str) -> argparse.ArgumentParser:
    """The command line of a recipe."""
    line: argparse.ArgumentParser = importlib.import_module(stem).options()
    return line


def known_options() -> set[str]:
    """Every option of a recipe, of `casc`, of a benchmark and of a tool."""
    lines = [recipe(stem) for stem in RECIPES]
    for entry in cli.commands().values():
        line = argparse.ArgumentParser()
        entry.load().add_options(line)
        lines.append(line)
    found = {option for line in lines for action in line._actions for option in action.option_strings}
    for path in (*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "tools").glob("*.py")):
        found |= set(re.findall(r'"(--[\w-]+)"', path.read_text(encoding="utf-8")))
    return found | OTHERS


def check(command: str) -> None:
    """Fail unless the command exists and takes these options."""
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S+", words[0]):
        words = words[1:]
    if not words:  # a variable that is spoken of
        return
    program, arguments = words[0], words[1:]
    if program == "make":
        rules = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{re.escape(target)}:", rules, re.MULTILINE) for target in arguments), command
    elif program == "casc":
        _check_casc(arguments)
    elif program == "pip":
        extras = re.findall(r"\.\[([\w,]+)\]", command)
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        assert all(
            re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in ",".join(extras).split(",") if extra
        )
    elif program in ("python", "torchrun"):
        _check_python(arguments[2:] if program == "torchrun" else arguments)
    else:
        assert (ROOT / program).is_file(), command


def _check_casc(arguments: list[str]) -> None:
    if arguments in (["--version"], ["--help"]):
        return
    if len(arguments) == 1:  # spoken of, not shown
        assert arguments[0] in cli.commands()
    else:
        cli.parser().parse_args(arguments)


def _check_python(arguments: list[str]) -> None:
    if arguments[0] == "-I":  # of the interpreter itself
        arguments = arguments[1:]
    script = Path(arguments[0])
    if arguments[0] == "-c":
        compile(arguments[1], "-c", "exec")
    elif arguments[0] != "-m":
        assert (ROOT / script).is_file(), script
        if script.parts[0] == "recipes":
            recipe(script.stem).parse_args(arguments[1:])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_exist_and_take_their_options(page: Path) -> None:
    for command in commands(page.read_text(encoding="utf-8")):
        try:
            check(command)
        except SystemExit as error:
            raise AssertionError(f"{name(page)}: {command}") from error


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_options_that_are_spoken_of_exist(page: Path) -> None:
    known = known_options()
    for piece in code(page.read_text(encoding="utf-8")):
        assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", piece)) <= known, piece


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_spoken_of_exist(page: Path) -> None:
    for piece in code(page.read_text(encoding="utf-8")):
        for path in re.findall(r"(?<![\w./])(?:casc_\w+|recipes|benchmarks|docs|tests|tools)/[\w./-]*\w", piece):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize(
    "command",
    [
        "make nothing",
        "casc nothing",
        "casc compare results/demo --nothing",
        "python recipes/nothing.py",
        "python recipes/cifar_cnn.py --nothing 1",
        'pip install -e ".[nothing]"',
        "torchrun --nproc-per-node 4 recipes/cifar_cnn.py --q x",
    ],
)
def test_what_does_not_exist_is_found(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        check(command)


def test_the_commands_of_the_readme_are_seen() -> None:
    seen = list(commands((ROOT / "README.md").read_text(encoding="utf-8")))
    assert any(command.startswith("make demo") for command in seen)
    assert any(command.startswith("python recipes/cifar_cnn.py --model resnet20") for command in seen)
    assert any(command.startswith("casc compare results/demo") for command in seen)
