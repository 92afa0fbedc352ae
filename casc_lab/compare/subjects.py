"""What is compared: a recipe's output folder, or a function of the user's own, with its network and data."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from casc_core.conversion.batches import parted
from casc_core.conversion.calibrate import calibrate
from casc_core.conversion.convert import convert
from casc_core.conversion.load import load
from casc_core.conversion.prepare import levels_of
from casc_core.conversion.tracing.trace import arguments_of
from casc_core.errors import ConfigError, InputError, StorageError
from casc_core.numerics import Exact
from casc_core.reporting.predictions import reading
from casc_core.spiking_model import SpikingModel
from casc_core.storage.files import read_whole
from casc_core.storage.strict import of, parsed
from casc_lab.compare.comparison import Subject
from casc_lab.distributed import ALL, choose_device, device_of
from casc_lab.evaluation.report import Experiment

RECIPES = "casc.recipes"
RESULTS, NETWORK = "results.json", "network"
CALIBRATION_SAMPLES = 1_000
# Options that say nothing of the network.
_OF_THE_RUN = frozenset("out data quiet retrain threads device sweep weights T".split())
Batches = Callable[[], Iterable[tuple[Tensor, ...]]]
"""Gives batches anew at each call."""


@dataclass(frozen=True)
class Asked:
    """What the command line says of the subject.

    Attributes:
        what: a recipe's output folder, or `module:function`.
        data: the folder of the recipe's data, if it is not where it was.
        adapter, q: of a network of the user's own.
        weight_bits: of the conversion; None: those of the recipe, or 16.
        limit: so many samples only.
        device: as torch names it, or "auto".
    """

    what: str
    data: str | None = None
    adapter: str | None = None
    q: int | None = None
    weight_bits: int | None = None
    limit: int | None = None
    device: str = "auto"


def subject(asked: Asked) -> Subject:
    """The network and the data.

    Raises:
        StorageError: no such folder, not one of a recipe, or without the trained network.
        ConfigError: no such module or function, it returns something else, or the network needs `q`.
        DataError: the recipe's data is not there. InputError: data that the network cannot take.
        ConversionError: the network cannot be converted.
    """
    if asked.limit is not None and asked.limit < 1:
        raise ConfigError(f"--limit must be at least 1; got {asked.limit}")
    folder = Path(asked.what)
    if folder.is_dir():
        return _of_recipe(folder, asked)
    module, colon, function = asked.what.partition(":")
    if not colon or not module or not function or "/" in module:
        raise StorageError(
            f"there is no folder {asked.what!r}; name the output folder of a recipe, or module:function of your own"
        )
    return _of_function(module, function, asked)


def recipe_of(folder: Path, data: str | None = None, device: str = "auto") -> tuple[Experiment, dict[str, Any]]:
    """The experiment that left this folder, its network found and its data loaded; and its results.

    Raises:
        StorageError, DataError: as `subject`.
    """
    results = _results(folder)
    recipe = recipe_named(results["recipe"], folder / RESULTS)
    args = _arguments(recipe.options(), results["options"], folder / RESULTS)
    args.out, args.retrain, args.quiet = folder, False, True
    if data is not None:
        args.data = data
    return recipe.experiment(args, choose_device(device), {}, find_only=True), results


def _of_recipe(folder: Path, asked: Asked) -> Subject:
    for name, value in (("--q", asked.q), ("--adapter", asked.adapter)):
        if value is not None:
            raise ConfigError(f"{name} is for a network of your own; {folder} has one already")
    experiment, results = recipe_of(folder, asked.data, asked.device)
    bits = _weight_bits(results["options"])
    if asked.weight_bits in (None, bits):
        snn = load(folder / NETWORK, model=experiment.network)  # the one that was saved, and of this very network
    else:
        snn = convert(experiment.network, experiment.adapter, numerics=Exact(asked.weight_bits or bits))
    shown = {"recipe": results["recipe"], "weight bits": asked.weight_bits or bits}
    shown |= {"training examples": experiment.train_examples}
    shown |= {name: value for name, value in results["options"].items() if _worth_showing(name, value)}
    return Subject(
        snn.to(device_of(experiment.network)),
        experiment.trained if experiment.trained is not experiment.network else None,
        _limited(lambda: ((*batch.inputs, batch.labels) for batch in experiment.batches(ALL)), asked.limit),
        experiment.calibration,
        experiment.title,
        experiment.data,
        shown,
    )


def _weight_bits(options: dict[str, Any]) -> int:
    """Bits of a weight with which the recipe converted."""
    bits = options.get("weight_bits") or Exact().weight_bits
    return Exact(bits).weight_bits


def _worth_showing(name: str, value: Any) -> bool:
    return value is not None and name not in _OF_THE_RUN


def _results(folder: Path) -> dict[str, Any]:
    path = folder / RESULTS
    if not path.is_file():
        hint = "; take the folder that it lies in" if (folder / "network.json").is_file() else ""
        raise StorageError(f"{folder} is not the output folder of a recipe: it holds no {RESULTS}{hint}")
    try:
        results = of(dict, parsed(read_whole(path), finite=False), "results")
        options = of(dict, results["options"], "options")
    except (ValueError, KeyError) as error:
        raise StorageError(f"{path} is damaged, or was not written by a recipe: {error}") from error
    # Results of before recipes had names say where the recipe was; what it was called is all that is read of it.
    name = results.get("recipe") or Path(str(results.get("script") or "")).stem
    if not isinstance(name, str) or not name:
        raise StorageError(f"{path} does not say which recipe wrote it; run the recipe again, it finds its network")
    return results | {"options": options, "recipe": name}


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
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return of(bool, value, action.dest)
    if value is None and action.default is None:
        return None
    text = ",".join("none" if each is None else str(each) for each in value) if isinstance(value, list) else str(value)
    if isinstance(value, (bool, dict)):
        raise ValueError("neither a flag nor a table")
    kind = action.type if callable(action.type) else str
    read = kind("none" if value is None else text)
    if action.choices is not None and read not in action.choices:
        raise ValueError("none of its choices")
    return read


def _of_function(module: str, function: str, asked: Asked) -> Subject:
    if asked.data is not None:
        raise ConfigError("--data is for a recipe's folder; your own function says what the data is")
    model, given, calibration = _returned(module, function)
    device = choose_device(asked.device)
    model = model.to(device).eval()
    takes = len(arguments_of(model))
    title, trained, said = type(model).__name__, None, None
    batches = _limited(_checked(given, device, takes, f"{module}:{function}"), asked.limit)
    _try(model, next(iter(batches()), None), takes, f"{module}:{function}")
    some = None if calibration is None else _checked(calibration, device, takes, f"{module}:{function}")
    network, levels = model, levels_of(model)
    if levels is None:
        if asked.q is None:
            raise ConfigError(
                f"{title} has no CQReLU: give --q, the levels that its ReLUs are to have (calibrated on data), or return a "
                "network that was prepared and trained"
            )
        found = calibrate(
            model, list(_limited(some or batches, CALIBRATION_SAMPLES)()), q=asked.q, adapter=asked.adapter
        )
        network, trained, said = found.model, model, str(found)
        title = f"{title}, ReLU calibrated to q={asked.q}"
    elif asked.q not in (None, levels):
        raise ConfigError(f"{title} was prepared with q={levels}; --q {asked.q} is for a network with plain ReLU")
    snn = convert(network, asked.adapter, numerics=Exact(asked.weight_bits or Exact().weight_bits))
    by = "given" if some is not None else "none given: methods that look at data look at the test data"
    return Subject(
        snn,
        trained,
        batches,
        some,
        title,
        f"{module}:{function}",
        {"function": f"{module}:{function}", "q": snn.settings.q, "calibration data": by},
        said,
    )


def _returned(module: str, function: str) -> tuple[nn.Module, Iterable[Any], Iterable[Any] | None]:
    """What the user's function gives: a network, batches that can be gone through again, and calibration batches."""
    where = f"{module}:{function}"
    if module.endswith(".py"):
        raise ConfigError(f"{module} is a file; name its module: {module.removesuffix('.py')}:{function}")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise ConfigError(f"there is no module {module!r} here; run the command where it can be imported")
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the user's module raises
        raise ConfigError(f"importing {module} failed: {_told(error)}") from error
    make = getattr(found, function, None)
    if not callable(make):
        raise ConfigError(f"module {module!r} has no function {function!r}")
    try:
        returned = make()
    except Exception as error:  # whatever the user's function raises
        raise ConfigError(f"{where} failed: {_told(error)}") from error
    shape = "must return (model, batches) or (model, batches, calibration_batches)"
    if not isinstance(returned, tuple) or len(returned) not in (2, 3) or not isinstance(returned[0], nn.Module):
        raise ConfigError(f"{where} {shape}; it returns {type(returned).__name__}")
    if isinstance(returned[0], SpikingModel):
        raise ConfigError(f"{where} returns a converted network; return the ANN, which is converted here")
    again = []
    for batches in returned[1:]:
        if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
            raise ConfigError(f"{where} {shape}, batches a list or a DataLoader; got {type(batches).__name__}")
        if isinstance(batches, tuple) and all(isinstance(part, Tensor) for part in batches):
            batches = [batches]  # one batch, of inputs and labels
        again.append(list(batches) if isinstance(batches, Iterator) else batches)
    return returned[0], again[0], again[1] if len(again) > 1 else None


def _told(error: Exception) -> str:
    """An error of someone else's code in one line, with its place."""
    trace = traceback.extract_tb(error.__traceback__)
    place = f" (line {trace[-1].lineno} of {Path(trace[-1].filename).name})" if trace else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _checked(batches: Iterable[Any], device: torch.device, takes: int, where: str) -> Batches:
    """Batches as tuples of tensors: inputs, and labels if there are any.

    Raises, when gone through:
        InputError: one is something else.
    """

    def of() -> Iterator[tuple[Tensor, ...]]:
        for batch in batches:
            inputs, labels = parted(batch, takes)
            tensors = []
            for part in (*inputs, *(() if labels is None else (labels,))):
                if not isinstance(part, (Tensor, np.ndarray)):
                    raise InputError(
                        f"{where}: a batch must be a tensor, or a tuple of the network's inputs and then labels; it holds "
                        f"{type(part).__name__}"
                    )
                tensors.append(torch.as_tensor(part).to(device))
            yield tuple(tensors)

    return of


def _try(model: nn.Module, batch: tuple[Tensor, ...] | None, takes: int, where: str) -> None:
    """The network on a first batch: what fails here is told as the user's."""
    if batch is None:
        raise InputError(f"{where} returns no batch")
    try:
        with torch.no_grad():
            logits = model(*batch[:takes])
    except Exception as error:  # whatever the user's forward raises
        shapes = ", ".join(f"{part.dtype} {list(part.shape)}" for part in batch[:takes])
        raise InputError(f"{where}: the network does not take its first batch, {shapes}: {_told(error)}") from error
    if isinstance(logits, Tensor) and not bool(torch.isfinite(logits).all()):
        raise InputError(
            f"{where}: the network gives NaN or infinite values on its first batch; check inputs and weights"
        )
    if len(batch) > takes and isinstance(logits, Tensor) and logits.dim():
        labels = batch[takes]
        try:
            reading(logits.shape, labels).checked(labels, logits.shape)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error


def _limited(batches: Batches, limit: int | None) -> Batches:
    """The first samples of some batches, taken once, so that each method sees the same; None: all of them."""
    if limit is None:
        return batches
    kept: list[tuple[Tensor, ...]] = []

    def of() -> Iterable[tuple[Tensor, ...]]:
        left = limit if not kept else 0
        for batch in batches() if left else ():
            samples = len(batch[0])
            kept.append(tuple(part[:left] if len(part) == samples else part for part in batch))
            left -= samples
            if left <= 0:
                break
        return kept

    return of
