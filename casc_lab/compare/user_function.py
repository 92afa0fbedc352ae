"""A function of the user's own that returns a trained network and its data, or calibration data, too."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from casc_core.conversion.calibrate import calibrate
from casc_core.conversion.convert import convert
from casc_core.conversion.prepare import levels_of
from casc_core.conversion.tracing.trace import arguments_of
from casc_core.engine.leaves import leaves
from casc_core.errors import ConfigError, InputError
from casc_core.numerics import AsTrained
from casc_core.reporting.predictions import Measure, reading
from casc_core.spiking_model import SpikingModel
from casc_lab.compare.network_and_data import Batches, NetworkAndData, Request, limited
from casc_lab.distributed import choose_device

CALIBRATION_SAMPLES = 1_000
Measures = Mapping[str, Measure] | None


def from_user_function(module: str, function: str, request: Request) -> NetworkAndData:
    """The network that a function of the user's returns, converted, and its data.

    Raises:
        ConfigError: no such module or function, it returns something else, or the network needs `q`.
        InputError: data that the network cannot take. ConversionError: the network cannot be converted.
    """
    if request.data is not None:
        raise ConfigError("--data is for a recipe's folder; your own function says what the data is")
    model, given, calibration, measures = _returned(module, function)
    device = choose_device(request.device)
    model = model.to(device).eval()
    takes = len(arguments_of(model))
    title, trained, said = type(model).__name__, None, None
    batches = limited(_checked(given, device, takes, f"{module}:{function}"), request.limit)
    _try(model, next(iter(batches()), None), takes, f"{module}:{function}")
    some = None if calibration is None else _checked(calibration, device, takes, f"{module}:{function}")
    network, levels = model, levels_of(model)
    if levels is None:
        if request.q is None:
            raise ConfigError(
                f"{title} has no CQReLU: give --q, the levels that its ReLUs are to have (calibrated on data), or return a "
                "network that was prepared and trained"
            )
        found = calibrate(
            model,
            list(limited(some or batches, CALIBRATION_SAMPLES)()),
            q=request.q,
            adapter=request.adapter,
            measures=measures,
        )
        network, trained, said = found.model, model, str(found)
        title = f"{title}, ReLU calibrated to q={request.q}"
    elif request.q not in (None, levels):
        raise ConfigError(f"{title} was prepared with q={levels}; --q {request.q} is for a network with plain ReLU")
    snn = convert(network, request.adapter, numerics=request.numerics or AsTrained())
    by = "given" if some is not None else "none given: methods that look at data look at the test data"
    return NetworkAndData(
        snn,
        trained,
        batches,
        some,
        title,
        f"{module}:{function}",
        {"function": f"{module}:{function}", "q": snn.settings.q, "calibration data": by},
        said,
        measures,
    )


def _returned(module: str, function: str) -> tuple[nn.Module, Iterable[Any], Iterable[Any] | None, Measures]:
    """What the user's function gives: a network, batches that can be gone through again, calibration batches, measures."""
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
    shape = "must return (model, batches) or (model, batches, calibration_batches), and then perhaps measures by output"
    measures: Measures = None
    if isinstance(returned, tuple) and len(returned) > 2 and isinstance(returned[-1], Mapping):
        *kept, measures = returned
        returned = tuple(kept)
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
    return returned[0], again[0], again[1] if len(again) > 1 else None, measures


def _told(error: Exception) -> str:
    """An error of someone else's code in one line, with its place."""
    trace = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    place = f" (line {trace[-1].lineno} of {Path(trace[-1].filename).name})" if trace else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"


def _checked(batches: Iterable[Any], device: torch.device, takes: int, where: str) -> Batches:
    """Batches as tuples of tensors: inputs, and labels if there are any.

    Raises, when gone through:
        InputError: one is something else.
    """

    def tensor(part: Any) -> Tensor:
        if not isinstance(part, (Tensor, np.ndarray)):
            raise InputError(
                f"{where}: a batch must be a tensor, or a tuple of the network's inputs and then labels; it holds "
                f"{type(part).__name__}"
            )
        return torch.as_tensor(part).to(device)

    def labels(part: Any) -> Any:
        if isinstance(part, Mapping):
            return {name: labels(each) for name, each in part.items()}
        if isinstance(part, (tuple, list)):
            return tuple(map(labels, part))
        return None if part is None else tensor(part)

    def of() -> Iterator[tuple[Any, ...]]:
        for batch in batches:
            parts = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
            further = [part for part in parts[takes + 1 :] if isinstance(part, (Tensor, np.ndarray))]
            yield (*map(tensor, parts[:takes]), *map(labels, (*parts[takes : takes + 1], *further)))

    return of


def _try(model: nn.Module, batch: tuple[Any, ...] | None, takes: int, where: str) -> None:
    """The network on a first batch: an error here is reported as the user's."""
    if batch is None:
        raise InputError(f"{where} returns no batch")
    try:
        with torch.no_grad():
            logits = model(*batch[:takes])
    except Exception as error:  # whatever the user's forward raises
        shapes = ", ".join(f"{part.dtype} {list(part.shape)}" for part in batch[:takes])
        raise InputError(f"{where}: the network does not take its first batch, {shapes}: {_told(error)}") from error
    if any(isinstance(each, Tensor) and not bool(torch.isfinite(each).all()) for each in leaves(logits)):
        raise InputError(
            f"{where}: the network gives NaN or infinite values on its first batch; check inputs and weights"
        )
    labels = batch[takes] if len(batch) > takes else None
    if isinstance(labels, Tensor) and isinstance(logits, Tensor) and logits.dim():
        try:
            reading(logits.shape, labels).checked(labels, logits.shape)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
