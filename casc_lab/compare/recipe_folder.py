"""A recipe's output folder: its network as it was saved, and its data."""

from __future__ import annotations

import argparse
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from casc_core.conversion.convert import convert
from casc_core.conversion.load import load
from casc_core.errors import ConfigError, StorageError
from casc_core.numerics import Exact, Numerics, of_bits
from casc_core.storage.strict import of
from casc_lab.compare.network_and_data import NetworkAndData, Request, limited
from casc_lab.distributed import ALL, choose_device, device_of
from casc_lab.evaluation.accuracy import Batch
from casc_lab.evaluation.report import Experiment
from casc_lab.evaluation.results_folder import NETWORK, RESULTS, results_of

RECIPES = "casc.recipes"
# Options that say nothing of the network.
_OF_THE_RUN = frozenset("out data quiet retrain threads device sweep weights T".split())


def recipe_of(folder: Path, data: str | None = None, device: str = "auto") -> tuple[Experiment, dict[str, Any]]:
    """The experiment that left this folder, its network found and its data loaded; and its results.

    Raises:
        StorageError: no such folder, not one of a recipe, or without the trained network.
        DataError: the recipe's data is not there.
    """
    results = _results(folder)
    recipe = recipe_named(results["recipe"], folder / RESULTS)
    args = _arguments(recipe.options(), results["options"], folder / RESULTS)
    args.out, args.retrain, args.quiet = folder, False, True
    if data is not None:
        args.data = data
    return recipe.experiment(args, choose_device(device), {}, find_only=True), results


def from_recipe_folder(folder: Path, request: Request) -> NetworkAndData:
    """The network that a recipe left in its output folder, and its test set.

    Raises:
        ConfigError: options that are for a network of the user's own. StorageError, DataError: as `recipe_of`.
    """
    for name, value in (("--q", request.q), ("--adapter", request.adapter)):
        if value is not None:
            raise ConfigError(f"{name} is for a network of your own; {folder} has one already")
    experiment, results = recipe_of(folder, request.data, request.device)
    numerics = _numerics(results["options"])
    if request.numerics is None or request.numerics == numerics:
        snn = load(folder / NETWORK, model=experiment.network)  # the one that was saved, and of this very network
    else:
        snn = convert(experiment.network, experiment.adapter, numerics=request.numerics)
    shown = {"recipe": results["recipe"], "weights": str(snn.settings.numerics)}
    shown |= {"training examples": experiment.train_examples}
    shown |= {name: value for name, value in results["options"].items() if _worth_showing(name, value)}

    def parts(batch: Batch) -> tuple[Any, ...]:
        return (*batch.inputs, batch.labels) if experiment.metric.labelled else batch.inputs

    return NetworkAndData(
        snn.to(device_of(experiment.network)),
        experiment.trained if experiment.trained is not experiment.network else None,
        limited(lambda: map(parts, experiment.batches(ALL)), request.limit),
        experiment.calibration,
        experiment.title,
        experiment.data,
        shown,
        measures=experiment.metric.measures,
    )


def _numerics(options: dict[str, Any]) -> Numerics:
    """The arithmetic with which the recipe converted."""
    return of_bits(options["weight_bits"]) if "weight_bits" in options else Exact()


def _worth_showing(name: str, value: Any) -> bool:
    return value is not None and name not in _OF_THE_RUN


def _results(folder: Path) -> dict[str, Any]:
    with results_of(folder) as results:
        # Results of before recipes had names say where the recipe was; what it was called is all that is read of it.
        name = results.get("recipe") or Path(str(results.get("script") or "")).stem
    if not isinstance(name, str) or not name:
        where = folder / RESULTS
        raise StorageError(f"{where} does not say which recipe wrote it; run the recipe again, it finds its network")
    return results | {"recipe": name}


def recipe_named(name: str, where: Path) -> Any:
    """The installed recipe of this name: a module with `options` and `experiment`.

    Args:
        where: what says so.

    Raises:
        StorageError: none is called so.
    """
    installed = {entry.name: entry for entry in entry_points(group=RECIPES)}
    if name not in installed:
        raise StorageError(
            f"{where}: no installed recipe is called {name!r:.80}; there are: {', '.join(sorted(installed)) or 'none'}. "
            f"Recipes are found by the entry point group {RECIPES}: install the package that has it, or run it again"
        )
    return installed[name].load()


def _arguments(line: argparse.ArgumentParser, options: dict[str, Any], where: Path) -> argparse.Namespace:
    """The recipe's command line with these options; those it no longer has are left out."""
    args = line.parse_args([])
    for action in line._actions:
        if action.dest in options:
            try:
                value = _option(action, options[action.dest])
            except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
                raise StorageError(
                    f"{where}: the option {action.dest!r} cannot be {options[action.dest]!r:.80}; run the recipe again"
                ) from error
            setattr(args, action.dest, value)
    return args


def _option(action: argparse.Action, value: Any) -> Any:
    """What the command line would have made of a value."""
    if value is None and action.default in (None, argparse.SUPPRESS):
        return None
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return of(bool, value, action.dest)
    text = ",".join("none" if each is None else str(each) for each in value) if isinstance(value, list) else str(value)
    if isinstance(value, (bool, dict)):
        raise ValueError("neither a flag nor a table")
    kind = action.type if callable(action.type) else str
    read = kind("none" if value is None else text)
    if action.choices is not None and read not in action.choices:
        raise ValueError("none of its choices")
    return read
