"""The steps of a calibration: each changes thresholds, biases or running statistics of a prepared network."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from casc_core.activation import SMALLEST_THRESHOLD, CQReLU
from casc_core.conversion.activation_values import Histogram, watched
from casc_core.conversion.affine_sources import AffineSources, Place, output_place
from casc_core.conversion.batches import output_of
from casc_core.engine.structure import Returned, outputs_of
from casc_core.errors import InputError

CANDIDATES, RATIO = 32, 0.9
"""Thresholds that are tried for a channel: the largest activation, and each time so much less."""
SCALES = (0.9, 1.0 / 0.9)
"""What the thresholds of a layer are scaled by, again and again while that helps."""
MOST_SCALINGS, SAMPLES_FOR_SCALES = 4, 256
"""Of 128, 256 and 512 samples, 256 left the least error on other images (ResNet20 on CIFAR-10, q = 8, two draws)."""


@dataclass
class Calibrating:
    """A network in the course of its calibration.

    Attributes:
        prepared: with CQReLUs; the steps change it.
        plain: the same with ReLUs, as it was trained.
        batches: the inputs of the calibration set.
        histograms: of the plain network's activations, by activation.
        sources: which layer's bias moves which activation's input.
        returned: what the network returns.
    """

    prepared: nn.Module
    plain: nn.Module
    batches: list[tuple[Any, ...]]
    histograms: dict[str, Histogram]
    sources: AffineSources
    returned: Returned

    def activation(self, name: str) -> CQReLU:
        module = self.prepared.get_submodule(name)
        assert isinstance(module, CQReLU)
        return module

    def threshold(self, name: str) -> Tensor:
        """The activation's threshold, of one number or `[channels]`."""
        return torch.as_tensor(self.activation(name).effective_threshold).clone()

    def set_threshold(self, name: str, threshold: Tensor) -> None:
        """Give the activation another; one number is kept as a number."""
        device = next((parameter.device for parameter in self.prepared.parameters()), threshold.device)
        self.activation(name).set_threshold(threshold.to(device) if threshold.dim() else float(threshold))

    def set_percentiles(self, percentile: float) -> None:
        """Count the plain network's activations, and give each activation their percentile."""
        watched(self.plain, list(self.histograms), self.batches, lambda name, value: self.histograms[name].add(value))
        for name, histogram in self.histograms.items():
            self.set_threshold(name, histogram.percentile(percentile))

    def snapshot(self) -> Callable[[], None]:
        """Call what this returns, and the network is again as it is now."""
        values = copy.deepcopy(self.prepared.state_dict())
        thresholds = {name: self.threshold(name) for name in self.sources.activations}

        def restore() -> None:
            for name, threshold in thresholds.items():
                self.set_threshold(name, threshold)
            self.prepared.load_state_dict(values)

        return restore

    @torch.no_grad()
    def outputs(self, network: nn.Module) -> list[dict[str, Tensor]]:
        """Its logits by output, batch by batch.

        Raises:
            InputError: for these inputs it returns something else than it was read to return.
        """
        try:
            return [self.returned.readouts_in(output_of(network, batch)) for batch in self.batches]
        except ValueError as error:
            raise InputError(f"the network returns {error}") from error

    def errors(self, found: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> dict[str, float]:
        """By output, `|a - b| / |a|`, `a` the expected one, in the Euclidean norm."""
        errors = {}
        for name in self.returned.readouts:
            pairs = [(a[name], b[name]) for a, b in zip(expected, found, strict=True)]
            part = sum(float((a - b).double().square().sum()) for a, b in pairs)
            errors[name] = math.sqrt(part / max(sum(float(a.double().square().sum()) for a, _ in pairs), 1e-30))
        return errors

    def error(self, found: list[dict[str, Tensor]], expected: list[dict[str, Tensor]]) -> float:
        """The root mean square of the outputs' errors."""
        return root_mean_square(self.errors(found, expected).values())


def root_mean_square(values: Collection[float]) -> float:
    """Of one value, the value itself.

    >>> root_mean_square([0.1]), root_mean_square([3.0, 4.0, 0.0, 0.0])
    (0.1, 2.5)
    """
    if len(values) == 1:
        return next(iter(values))
    return math.sqrt(sum(value * value for value in values) / len(values))


def least_error_thresholds(state: Calibrating) -> None:
    """Each threshold the candidate whose rounding makes the least squared error of the plain network's activations."""
    for name, histogram in state.histograms.items():
        activation = state.activation(name)
        largest = histogram.percentile(100.0).double()
        tried = torch.stack([largest * RATIO**power for power in range(CANDIDATES)])
        errors = torch.stack([histogram.rounding_error(each, activation.q, activation.half_step) for each in tried])
        best = tried.gather(0, errors.argmin(0, keepdim=True))[0]
        state.set_threshold(name, best.float().clamp_min(SMALLEST_THRESHOLD))


def match_batch_norms(state: Calibrating) -> None:
    """Running statistics of each batch norm such that its output has the mean and variance of the plain network's."""
    expected = _moments(state, state.plain, state.sources.batch_norms)
    for path in state.sources.batch_norms:
        norm = state.prepared.get_submodule(path)
        assert isinstance(norm, _BatchNorm)
        if norm.running_mean is None or norm.running_var is None:
            continue
        (mean, variance), (own_mean, own_variance) = expected[path], _moments(state, state.prepared, (path,))[path]
        weight = torch.ones_like(mean) if norm.weight is None else norm.weight.detach().double()
        bias = torch.zeros_like(mean) if norm.bias is None else norm.bias.detach().double()
        usable = (variance > 0) & (own_variance > 0) & (weight != 0)
        scale = (variance / own_variance).sqrt()
        before = norm.running_var.double() + norm.eps
        shift = (bias - scale * bias - mean + scale * own_mean) * before.sqrt() / (weight * scale)
        norm.running_mean.copy_(torch.where(usable, norm.running_mean.double() + shift, norm.running_mean.double()))
        after = (before / scale.square() - norm.eps).clamp_min(0.0)
        norm.running_var.copy_(torch.where(usable, after, norm.running_var.double()))


@torch.no_grad()
def correct_biases(state: Calibrating) -> None:
    """The mean of each channel of an activation's input, and of each output, is put back to the plain network's.

    Layer by layer: what is put back in one changes the means of those behind it.
    """
    biases: dict[Place, tuple[nn.Module, Tensor]] = {}
    for place in state.sources.layers:
        source = _bias_before(state, place)
        if source is not None:
            biases[place] = source
    expected = _input_means(state, state.plain, biases)
    for place, (layer, bias) in biases.items():
        found = _input_means(state, state.prepared, {place: (layer, bias)})
        if place in expected and place in found and found[place].shape == bias.shape:
            bias.add_(expected[place] - found[place])


def scale_by_output(state: Calibrating) -> None:
    """Thresholds of each layer scaled, as long as that lowers the error of the logits on the first samples."""
    kept, some = 0, []
    for batch in state.batches:
        if kept < SAMPLES_FOR_SCALES:
            some.append(batch)
            kept += len(batch[0])
    few = replace(state, batches=some)
    expected = few.outputs(few.plain)
    least = few.error(few.outputs(few.prepared), expected)
    for name in state.sources.activations:
        for scale in SCALES:
            for _ in range(MOST_SCALINGS):
                before = state.threshold(name)
                state.set_threshold(name, before * scale)
                error = few.error(few.outputs(few.prepared), expected)
                if error >= least:
                    state.set_threshold(name, before)
                    break
                least = error


STEPS: dict[str, Callable[[Calibrating], None]] = {
    "thresholds": least_error_thresholds,
    "batch norm": match_batch_norms,
    "biases": correct_biases,
    "scale": scale_by_output,
}
"""In the order in which they are taken."""


def _bias_before(state: Calibrating, place: Place) -> tuple[nn.Module, Tensor] | None:
    """A layer with a bias whose output is a summand of the activation's input, and the bias."""
    for path in state.sources.layers.get(place, ()):
        layer = state.prepared.get_submodule(path)
        bias = dict(layer.named_parameters(recurse=False)).get("bias")
        if bias is not None:
            return layer, bias
    return None


def _input_means(
    state: Calibrating, network: nn.Module, places: dict[Place, tuple[nn.Module, Tensor]]
) -> dict[Place, Tensor]:
    """By place: the mean of each channel of its input, in float64."""
    sums: dict[Place, Any] = {}
    last = next(reversed(places), None)
    calls: Counter[str] = Counter()

    def add(place: Place, value: Any) -> None:
        if place not in places or not isinstance(value, Tensor) or value.dim() < 2:
            return
        channel = value.dim() - 1 if isinstance(places[place][0], nn.Linear) else 1
        others = [dim for dim in range(value.dim()) if dim != channel]
        total, count = value.sum(others, dtype=torch.float64), value.numel() // value.shape[channel]
        before, number = sums.get(place, (0.0, 0))
        sums[place] = before + total, number + count

    def see(name: str) -> Callable[..., None]:
        def count(module: nn.Module, inputs: Any) -> None:
            place = name, calls[name]
            calls[name] += 1
            add(place, inputs[0])
            if place == last:
                raise _Enough

        return count

    names = {name for name, _ in places if name}
    with _removed([network.get_submodule(name).register_forward_pre_hook(see(name)) for name in names]):
        for batch in state.batches:
            calls.clear()
            result = _through(network, batch)
            for number, output in enumerate([] if result is None else outputs_of(state.sources.structure, result)):
                add(output_place(number), output)
    return {place: total / count for place, (total, count) in sums.items()}


def _moments(state: Calibrating, network: nn.Module, paths: tuple[str, ...]) -> dict[str, tuple[Tensor, Tensor]]:
    """By batch norm: mean and variance of each channel of its output, in float64."""
    sums: dict[str, list[Any]] = {path: [0.0, 0.0, 0] for path in paths}

    def see(path: str) -> Callable[..., None]:
        def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
            others = [dim for dim in range(output.dim()) if dim != 1]
            sums[path][0] = sums[path][0] + output.sum(others, dtype=torch.float64)
            sums[path][1] = sums[path][1] + output.double().square().sum(others)
            sums[path][2] += output.numel() // output.shape[1]
            if path == paths[-1]:
                raise _Enough

        return add

    with _removed([network.get_submodule(path).register_forward_hook(see(path)) for path in paths]):
        for batch in state.batches:
            _through(network, batch)
    found = {}
    for path, (total, squares, count) in sums.items():
        mean = total / count
        found[path] = mean, (squares / count - mean.square()).clamp_min(0.0)
    return found


class _Enough(BaseException):
    """Ends a forward whose rest is not needed; no error, so no handler of the network's takes it for one."""


@torch.no_grad()
def _through(network: nn.Module, batch: tuple[Any, ...]) -> Any:
    """The output, or None: a hook has had enough."""
    try:
        return output_of(network, batch)
    except _Enough:
        return None


@contextmanager
def _removed(handles: list[Any]) -> Iterator[None]:
    """Whatever happens, the hooks are gone afterwards."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
