"""The command `casc`: its parts are found by the entry point group `casc.commands`, so that any package can add one.

Exit status, of recipes too: 0, all is as it should be; 1, something is not exact; 2, a mistake, told in one line; 3, an
error that nobody foresaw, with its traceback; 130, interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import NoReturn

import torch

from casc_core import __version__
from casc_core.errors import CascError, ConfigError
from casc_core.schedule import LARGEST_STEPS

GROUP = "casc.commands"
NOT_EXACT, MISTAKE, UNFORESEEN, INTERRUPTED = 1, 2, 3, 130
MOST_THREADS = 1_024
# What torch says of a tensor that cannot be.
_TOO_LARGE = re.compile("allocate memory|out of memory|[Oo]verflow")


class Parser(argparse.ArgumentParser):
    """A command line that tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISTAKE, f"{self.prog}: error: {message}; --help lists the options\n")


def check_range(option: str, value: int | None, most: int) -> None:
    """Raise `ConfigError` unless the value of an option is None or lies between 1 and `most`."""
    if value is not None and not 1 <= value <= most:
        bound = "at least 1" if value < 1 else f"at most {most:,}"
        raise ConfigError(f"{option} must be {bound}; got {value}")


def settle(threads: int | None, T: int | None) -> None:
    """Let torch use so many CPU threads (None: as many as it likes), and check a number of time steps.

    Raises:
        ConfigError: a number out of its range.
    """
    check_range("--threads", threads, MOST_THREADS)
    check_range("--T", T, LARGEST_STEPS)
    if threads is not None:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Command:
    """A part of the command `casc`.

    Attributes:
        about: one line for `casc --help`.
        description: for its own help.
        add_options: adds its options to its command line.
        run: does it, and gives the exit status.
    """

    about: str
    description: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def commands() -> dict[str, Command]:
    """All that are installed, by name."""
    return {entry.name: entry.load() for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = Parser(prog="casc", description="Exact spiking networks: compare, verify, classify.")
    line.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parts = line.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, command in commands().items():
        part = parts.add_parser(
            name,
            help=command.about,
            description=command.description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        command.add_options(part)
        part.set_defaults(run=command.run)
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, do it, and give the exit status.

    >>> main(["verify", "no-such-folder"])
    2
    """
    given = parser().parse_args(arguments)
    return answered(lambda: int(given.run(given)), "casc: ", "casc: interrupted")


def answered(action: Callable[[], int], before: str, interrupted: str) -> int:
    """Do it and give its exit status; what goes wrong is told in one line on stderr.

    Args:
        action: gives its own exit status.
        before: what a line begins with.
        interrupted: the line for an interruption by the user.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for as long as the process lives
        with contextlib.suppress(AttributeError):  # a stream that takes whatever it is given
            getattr(sys, name).reconfigure(errors="replace")
    try:
        status = action()
        print(end="", flush=True)
    except CascError as error:
        return _told(f"{before}{error}", MISTAKE)
    except KeyboardInterrupt:
        return _told(interrupted, INTERRUPTED)
    except BrokenPipeError:  # whoever read the output has had enough
        with contextlib.suppress(OSError, AttributeError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would complain again
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
