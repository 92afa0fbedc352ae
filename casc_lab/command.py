"""What the command lines of all experiments share: options, devices and processes, and how mistakes are reported."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from casc_core.engine.run import LARGEST_TOTAL
from casc_core.errors import ConfigError
from casc_core.numerics import of_bits
from casc_core.schedule import LARGEST_STEPS
from casc_core.storage.files import require_writable, sole_use
from casc_lab.cli import HelpFormatter, Parser, answered
from casc_lab.distributed import choose_device, from_main, launched, processes

MOST_THREADS = 1_024
Main = Callable[[argparse.Namespace, torch.device], None]


def parser(description: str) -> argparse.ArgumentParser:
    """An empty command line whose help shows defaults."""
    return Parser(description=description, formatter_class=HelpFormatter)


def check_range(option: str, value: int | None, most: int, least: int = 1) -> None:
    """Raise `ConfigError` unless the value of an option is None or lies between `least` and `most`.

    >>> check_range("--T", 0, 8)
    Traceback (most recent call last):
    casc_core.errors.ConfigError: --T must be at least 1; got 0
    """
    if value is not None and not least <= value <= most:
        bound = f"at least {least}" if value < least else f"at most {most:,}"
        raise ConfigError(f"{option} must be {bound}; got {value}")


def check_steps(T: int | None) -> None:
    """Raise `ConfigError` unless `--T` is a number of time steps, or None."""
    check_range("--T", T, LARGEST_STEPS)


def check_levels(option: str, q: int | None) -> None:
    """Raise `ConfigError` unless an option is a number of levels that a network can be converted with, or None."""
    check_range(option, q, LARGEST_TOTAL)


def limit_threads(count: int | None) -> None:
    """Let torch use this many CPU threads; None: as many as it likes.

    Raises:
        ConfigError: a number out of its range.
    """
    check_range("--threads", count, MOST_THREADS)
    if count is not None:
        torch.set_num_threads(count)


def levels(text: str) -> int | None:
    """A number of levels, or "none": plain ReLU.

    >>> levels("8"), levels("none")
    (8, None)
    """
    return None if text.lower() == "none" else int(text)


def level_list(text: str) -> list[int | None]:
    """Numbers of levels between commas.

    >>> level_list("none,64,8")
    [None, 64, 8]
    """
    return [levels(part) for part in text.split(",")]


def add_options(
    to: argparse.ArgumentParser, *, q: int, T: int, data: str, out: str, seed: int, plain: bool = False
) -> None:
    """Add the options that every experiment has.

    Args:
        to: the command line.
        q, T, out, seed: defaults.
        data: help of `--data`.
        plain: whether a network with plain ReLU will do.
    """
    add = to.add_argument
    about_q = "levels of the CQReLU activation"
    if plain:
        add("--q", type=levels, default=q, help=f"{about_q}, or 'none': train with plain ReLU")
    else:
        add("--q", type=int, default=q, help=about_q)
    add("--T", type=int, default=T, help="largest number of time steps in the table")
    add("--data", help=data)
    add("--out", type=Path, default=Path(out), help="output folder")
    add(
        "--weight-bits",
        type=int,
        help="bits of a converted weight, for hardware and speed; unset: the weights as trained",
    )
    add("--seed", type=int, default=seed)
    add("--threads", type=int, help="CPU threads of each process")
    add("--device", default="auto", help="cpu, cuda, or auto: a GPU if there is one")
    add("--retrain", action="store_true", help="train anew even if the model is there")
    add("--quiet", action="store_true", help="print no progress")


def run(line: argparse.ArgumentParser, main: Main) -> None:
    """Read the command line, check what can be checked, and run `main(options, device)`.

    A mistake becomes one line on stderr, and the exit status is that of `casc_lab.cli`. Under `torchrun` each process
    comes here.
    """
    args = line.parse_args()

    def run_it() -> int:
        check(args)
        with processes(args.device) as device, contextlib.ExitStack() as held:
            # All processes of a run share its output folder; the first of them keeps other runs out.
            from_main(lambda: held.enter_context(sole_use(args.out)))
            main(args, device)
        return 0

    who = _who()
    again = f"{who}interrupted; run the same command again to go on where it was"
    status = answered(run_it, f"{who}error: ", again)
    if status:
        sys.exit(status)


def check(args: argparse.Namespace) -> None:
    """Refuse at once what would fail after hours.

    Raises:
        ConfigError: an option out of its range. StorageError: the output folder cannot be written.
    """
    limit_threads(args.threads)
    check_steps(args.T)
    check_levels("--q", args.q)
    of_bits(args.weight_bits)
    require_writable(args.out)
    here = launched()
    choose_device(args.device, None if here is None else here[1])


def _who() -> str:
    """Which process speaks, if there are several."""
    try:
        here = launched()
    except ConfigError:
        return ""
    return "" if here is None or here[0].rank == 0 else f"process {here[0].rank}: "
