"""What is compared: a recipe's output folder, or a function of the user's own, with its network and data."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from casc_core.calibrate import calibrate
from casc_core.compare.comparison import Subject
from casc_core.convert import convert
from casc_core.errors import ConfigError, ConversionError, DataError, StorageError
from casc_core.experiment.distributed import ALL, choose_device
from casc_core.experiment.report import Experiment
from casc_core.files import read_whole
from casc_core.numerics import Exact
from casc_core.prepare import levels_of

RESULTS = "results.json"


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
        DataError: the recipe's data is not there. ConversionError: the network cannot be converted.
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
    script = Path(results["script"] or "")
    if not script.is_file():
        raise StorageError(f"the recipe that wrote {folder / RESULTS} is no longer at {script}; run the recipe again")
    recipe = _module_at(script)
    args = _arguments(recipe.options(), results["options"])
    args.out, args.retrain, args.quiet = folder, False, True
    if data is not None:
        args.data = data
    return recipe.experiment(args, choose_device(device), {}, find_only=True), results


def _of_recipe(folder: Path, asked: Asked) -> Subject:
    experiment, results = recipe_of(folder, asked.data, asked.device)
    bits = asked.weight_bits or int(results["options"].get("weight_bits") or Exact().weight_bits)
    snn = convert(experiment.network, experiment.adapter, numerics=Exact(bits))
    shown = {
        "recipe": Path(results["script"]).name,
        "weight_bits": bits,
        "training examples": experiment.train_examples,
    }
    shown |= {name: value for name, value in results["options"].items() if _worth_showing(name, value)}
    return Subject(
        snn,
        experiment.trained,
        _limited(lambda: ((*batch.inputs, batch.labels) for batch in experiment.batches(ALL)), asked.limit),
        experiment.calibration,
        experiment.title,
        experiment.data,
        shown,
    )


def _worth_showing(name: str, value: Any) -> bool:
    return value is not None and name not in (
        "out",
        "data",
        "quiet",
        "retrain",
        "threads",
        "device",
        "sweep",
        "weights",
        "T",
    )


def _results(folder: Path) -> dict[str, Any]:
    path = folder / RESULTS
    if not path.is_file():
        raise StorageError(f"{folder} is not the output folder of a recipe: it holds no {RESULTS}")
    try:
        results = dict(json.loads(read_whole(path)))
        options = dict(results["options"])
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} is damaged, or was not written by a recipe: {error}") from error
    if not isinstance(results.get("script"), str):
        raise StorageError(f"{path} does not say which recipe wrote it; run the recipe again, it finds its network")
    return results | {"options": options}


def _module_at(script: Path) -> ModuleType:
    if str(script.parent) not in sys.path:
        sys.path.insert(0, str(script.parent))  # recipes import what lies beside them
    spec = importlib.util.spec_from_file_location(f"casc_recipe_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _arguments(line: argparse.ArgumentParser, options: dict[str, Any]) -> argparse.Namespace:
    """The recipe's command line with these options; those it no longer has are left out."""
    args = line.parse_args([])
    for action in line._actions:
        value = options.get(action.dest)
        if action.dest in options:
            setattr(args, action.dest, Path(value) if action.type is Path and value is not None else value)
    return args


def _of_function(module: str, function: str, asked: Asked) -> Subject:
    model, batches, calibration = _returned(module, function)
    device = choose_device(asked.device)
    model = model.to(device).eval()
    network, title = model, type(model).__name__
    numerics = Exact(asked.weight_bits or Exact().weight_bits)
    if levels_of(model) is None:
        if asked.q is None:
            raise ConfigError(
                f"{title} has no CQReLU: give --q, the levels that its ReLUs are to have (calibrated on data), or return a "
                "network that was prepared and trained"
            )
        try:
            network = calibrate(model, list(calibration or batches), q=asked.q, adapter=asked.adapter).model
        except ConversionError:
            raise
        title = f"{title}, ReLU calibrated to q={asked.q}"
    snn = convert(network, asked.adapter, numerics=numerics)

    def on_device(some: Iterable[Any]) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
        def of() -> Iterator[tuple[Tensor, ...]]:
            for batch in some:
                parts = batch if isinstance(batch, (tuple, list)) else (batch,)
                yield tuple(part.to(device) if isinstance(part, Tensor) else part for part in parts)

        return of

    return Subject(
        snn,
        model,
        _limited(on_device(batches), asked.limit),
        None if calibration is None else on_device(calibration),
        title,
        f"{module}:{function}",
        {"function": f"{module}:{function}", "q": snn.settings.q, "calibration data": calibration is not None},
    )


def _returned(module: str, function: str) -> tuple[nn.Module, Iterable[Any], Iterable[Any] | None]:
    """What the user's function gives: a network, batches that can be gone through again, and calibration batches."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"there is no module {error.name!r} here; run the command where it can be imported"
        ) from error
    make = getattr(found, function, None)
    if not callable(make):
        raise ConfigError(f"module {module!r} has no function {function!r}")
    returned = make()
    shape = "must return (model, batches) or (model, batches, calibration_batches)"
    if not isinstance(returned, tuple) or len(returned) not in (2, 3) or not isinstance(returned[0], nn.Module):
        raise ConfigError(f"{module}:{function} {shape}; it returns {type(returned).__name__}")
    again = []
    for batches in returned[1:]:
        if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
            raise ConfigError(
                f"{module}:{function} {shape}, batches a list or a DataLoader; got {type(batches).__name__}"
            )
        again.append(list(batches) if isinstance(batches, Iterator) else batches)
    if not again[0] and not hasattr(again[0], "__iter__"):
        raise DataError(f"{module}:{function} returns no batches")
    return returned[0], again[0], again[1] if len(again) > 1 else None


def _limited(
    batches: Callable[[], Iterable[tuple[Tensor, ...]]], limit: int | None
) -> Callable[[], Iterator[tuple[Tensor, ...]]]:
    """The first samples of some batches."""

    def of() -> Iterator[tuple[Tensor, ...]]:
        left = limit
        for batch in batches():
            samples = len(batch[0])
            if left is not None and samples >= left:
                yield tuple(part[:left] if torch.is_tensor(part) and len(part) == samples else part for part in batch)
                return
            left = None if left is None else left - samples
            yield batch

    return of
