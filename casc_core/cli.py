"""The command `casc`: its parts are found by the entry point group `casc.commands`, so that any package can add one.

Exit status: 0, all is as it should be; 1, something is not exact; 2, a mistake, told in one line; 3, an error that nobody
foresaw, with its traceback; 130, interrupted.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points

from casc_core import __version__
from casc_core.errors import CascError

GROUP = "casc.commands"
NOT_EXACT, MISTAKE, UNFORESEEN, INTERRUPTED = 1, 2, 3, 130


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
    line = argparse.ArgumentParser(prog="casc", description="Exact spiking networks: compare, verify, classify.")
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
    try:
        status: int = given.run(given)
    except CascError as error:
        print(f"casc: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("casc: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read the output has had enough
        sys.stderr.close()
        return 0
    except Exception:  # status 1 would say that something is not exact
        traceback.print_exc()
        print("casc: this should not have happened; see above", file=sys.stderr)
        return UNFORESEEN
    return status


if __name__ == "__main__":
    sys.exit(main())
