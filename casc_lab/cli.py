"""The command `casc`: its parts are found by the entry point group `casc.commands`, so that any package can add one.

A part is loaded when it is called, and torch with it: `casc --help` reads each one's line from its source.

Exit status, of recipes too: 0, all is as it should be; 1, something is not exact; 2, a mistake, reported in one line; 3, an
error that nobody foresaw, with its traceback; 130, interrupted.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

GROUP = "casc.commands"
NOT_EXACT, MISTAKE, UNFORESEEN, INTERRUPTED = 1, 2, 3, 130
# What torch says of a tensor that cannot be.
_TOO_LARGE = re.compile("allocate memory|out of memory|[Oo]verflow")


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help with the default of each option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        has_default = action.default is not None and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


class Parser(argparse.ArgumentParser):
    """A command line that reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: error: {message}; --help lists the options\n")


@dataclass(frozen=True)
class Command:
    """A part of the command `casc`.

    Attributes:
        about: one line for `casc --help`; written as a string where the entry point's name is assigned, it is read from
            there, and the module need not be loaded for it.
        description: for its own help.
        add_options: adds its options to its command line.
        run: does it, and gives the exit status.
    """

    about: str
    description: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class _Part(Parser):
    """The command line of one part, which is loaded when it is called."""

    def __init__(self, *, entry: EntryPoint, **options: Any) -> None:
        super().__init__(**options, formatter_class=HelpFormatter)
        self.entry: EntryPoint | None = entry

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.entry is not None:
            command = self._load(self.entry)
            self.entry, self.description = None, command.description
            command.add_options(self)
            self.set_defaults(run=command.run)
        return super().parse_known_args(args, namespace)

    def _load(self, entry: EntryPoint) -> Command:
        try:
            command: Command = entry.load()
        except Exception as error:  # whatever the module of someone else raises
            self.exit(MISTAKE, f"casc: the command {entry.name!r} {_unloadable(error)}\n")
        return command


def commands() -> dict[str, EntryPoint]:
    """All that are installed, by name; none of them is loaded."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = Parser(prog="casc", description="Exact spiking networks: compare, verify, classify, detect.")
    line.add_argument("--version", action="version", version=f"%(prog)s {version('casc')}")
    parts = line.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Part)
    for name, entry in commands().items():
        parts.add_parser(name, entry=entry, help=about(entry).replace("%", "%%"))
    return line


def about(entry: EntryPoint) -> str:
    """A command's line for `casc --help`, from its source; only where it does not stand there is the command loaded.

    >>> about(EntryPoint("verify", "casc_lab.compare.command:verification", GROUP))
    'compare a converted network with its quantised ANN, neuron by neuron'
    """
    written = _written(_source(entry.module), entry.attr)
    if written is not None:
        return written
    try:
        return str(entry.load().about)
    except Exception as error:  # one that is broken does not break the others
        return _unloadable(error)


def _unloadable(error: Exception) -> str:
    return f"cannot be loaded; reinstall its package ({type(error).__name__}: {' '.join(str(error).split())})"


def _source(module: str) -> str:
    """The source of a module, found without running it or the packages that it lies in; empty if there is none."""
    top, *inner = module.split(".")
    try:
        spec = find_spec(top)
        if spec is None:
            return ""
        places = [Path(folder, *inner) for folder in spec.submodule_search_locations or ()]
        files = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
        files += [Path(spec.origin or "")] if not inner else []
        return next(file.read_text(encoding="utf-8") for file in files if file.is_file())
    except (ImportError, OSError, StopIteration, ValueError):
        return ""


def _written(source: str, name: str) -> str | None:
    """What a `Command` that is assigned to `name` says of itself, if it stands there as a string.

    >>> _written('command = Command("do it", "It does it.", options, run)', "command")
    'do it'
    """
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError):
        return None
    for statement in statements:
        match statement:
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Call(args=given, keywords=named)) if (
                target == name
            ):
                said = [*given[:1], *(word.value for word in named if word.arg == "about")]
                texts = [one.value for one in said if isinstance(one, ast.Constant) and isinstance(one.value, str)]
                return texts[0] if texts else None
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, run the command, and return the exit status.

    >>> main(["verify", "no-such-folder"])
    2
    """
    given = parser().parse_args(arguments)
    return answered(lambda: int(given.run(given)), "casc: ", "casc: interrupted")


def answered(action: Callable[[], int], before: str, interrupted: str) -> int:
    """Run an action and return its exit status; an error is reported in one line on stderr.

    Args:
        action: returns its own exit status.
        before: what that line begins with.
        interrupted: the line for an interruption by the user.
    """
    with _somewhere_to_write():
        return _answered(action, before, interrupted)


@contextlib.contextmanager
def _somewhere_to_write() -> Iterator[None]:
    """Within the block, an output that whoever started the process has closed leads nowhere; none raises for a letter."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.ExitStack() as afterwards:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                setattr(sys, name, nowhere)
                afterwards.callback(setattr, sys, name, None)
            with contextlib.suppress(AttributeError):  # a stream that takes whatever it is given
                getattr(sys, name).reconfigure(errors="replace")
        yield


def _answered(action: Callable[[], int], before: str, interrupted: str) -> int:
    from casc_core.errors import CascError, NotExactError  # here, because it loads torch: `casc --help` does without

    try:
        status = action()
        print(end="", flush=True)
    except CascError as error:
        return _told(f"{before}{error}", NOT_EXACT if isinstance(error, NotExactError) else MISTAKE)
    except KeyboardInterrupt:
        return _told(interrupted, INTERRUPTED)
    except BrokenPipeError:  # whoever read the output has had enough
        with contextlib.suppress(OSError, AttributeError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would raise again
        return 0
    except OSError as error:  # a file system that will not
        return _told(f"{before}{error}", MISTAKE)
    except Exception as error:  # status 1 would say that something is not exact
        if isinstance(error, (MemoryError, OverflowError)) or _TOO_LARGE.search(str(error)):
            return _told(f"{before}a size is too large for this machine: {' '.join(str(error).split())}", MISTAKE)
        traceback.print_exc()
        return _told(f"{before}this should not have happened; see above", UNFORESEEN)
    return status


def _told(line: str, status: int) -> int:
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
