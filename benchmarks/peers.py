"""The same feed-forward network in two other simulators: SpikingJelly and sinabs. Both are optional.

Neither is needed in full. What their neurons import at run time is `loguru` (SpikingJelly) and `pbr`, `nir` and
`nirtorch` (sinabs); the rest of what they ask for (torchvision, samna, ...) may stay away:

    pip install "loguru>=0.7,<1" pbr nir nirtorch
    pip install --no-deps spikingjelly==2.0.0 sinabs==3.1.3

Both convert as their documentation does: every activation becomes a population of IF neurons with soft reset, the input
comes at every step, the readout is the mean over steps. A CQReLU with threshold 1 is the rate of an IF neuron with
threshold 1 that spikes once a step at most, so the weights carry over as they are. The layers before the first
activation are computed once, the input being the same at every step: to the advantage of the peers.
"""

from __future__ import annotations

import copy
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import casc_core

SPIKINGJELLY, SINABS = "SpikingJelly", "sinabs"


@dataclass(frozen=True)
class Peer:
    """A network in another simulator.

    Attributes:
        simulate: `(x, steps)` to the readout `[batch, classes]`, the mean over the steps.
        last: its last population.
        over_time: `(output of the last population, steps)` to the spikes of each neuron in all steps of that output.
    """

    simulate: Callable[[Tensor, int], Tensor]
    last: nn.Module
    over_time: Callable[[Tensor, int], Tensor]

    def with_counts(self, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        """The readout, and the spike count of each neuron of the last population."""
        counts: list[Tensor] = []
        hook = self.last.register_forward_hook(lambda _, __, spikes: counts.append(self.over_time(spikes, steps)))
        try:
            logits = self.simulate(x, steps)
        finally:
            hook.remove()
        return logits, torch.stack(counts).sum(0)


def version(package: str) -> str:
    """`" 2.0.0"`, or nothing if it is not installed."""
    try:
        return f" {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def found(model: nn.Sequential) -> dict[str, Peer | str]:
    """The network in every peer, in each of its modes, by name; else why it is not there."""
    return {**spikingjelly(model), **sinabs(model)}


def spikingjelly(model: nn.Sequential) -> dict[str, Peer | str]:
    """The network in SpikingJelly, in its two step modes."""
    names = [f"{SPIKINGJELLY}{version('spikingjelly')}, {mode}-step" for mode in ("single", "multi")]
    try:
        from spikingjelly.activation_based import functional, layer, neuron
    except ImportError as error:
        return dict.fromkeys(names, _missing(error))
    first, rest = parts(model)

    def network(step_mode: str) -> tuple[nn.Sequential, nn.Module]:
        spiking = nn.Sequential()
        for original in rest:
            if isinstance(original, casc_core.CQReLU):
                spiking.append(last := neuron.IFNode(v_threshold=1.0, v_reset=None))
            else:
                spiking.append(_in_spikingjelly(layer, original))
        functional.set_step_mode(spiking, step_mode)
        return spiking.eval(), last

    step_by_step, last_of_single = network("s")
    all_at_once, last_of_multi = network("m")

    def single(x: Tensor, steps: int) -> Tensor:
        functional.reset_net(step_by_step)
        current = first(x)
        total: Tensor = step_by_step(current)
        for _ in range(steps - 1):
            total = total + step_by_step(current)
        return total / steps

    def multi(x: Tensor, steps: int) -> Tensor:
        functional.reset_net(all_at_once)
        current = first(x)
        mean: Tensor = all_at_once(current.expand(steps, *current.shape)).mean(0)
        return mean

    peers = (
        Peer(single, last_of_single, lambda spikes, steps: spikes),
        Peer(multi, last_of_multi, lambda spikes, steps: spikes.sum(0)),
    )
    return dict(zip(names, peers, strict=True))


def _in_spikingjelly(layer: Any, original: nn.Module) -> nn.Module:
    """The module of the same name that knows step modes, with the same settings and weights."""
    settings = {name: getattr(original, name) for name in _SETTINGS[type(original)]}
    result: nn.Module = getattr(layer, type(original).__name__)(**settings)
    result.load_state_dict(original.state_dict())
    return result


_SETTINGS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("in_features", "out_features"),
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding"),
    nn.MaxPool2d: ("kernel_size", "stride"),
    nn.AdaptiveAvgPool2d: ("output_size",),
    nn.Flatten: (),
}


def sinabs(model: nn.Sequential) -> dict[str, Peer | str]:
    """The network in sinabs, by its `from_model`: batch and time in one dimension, one spike a step at most."""
    name = f"{SINABS}{version('sinabs')}, IAF"
    try:
        from sinabs.activation import SingleSpike
        from sinabs.from_torch import from_model
        from sinabs.layers import IAFSqueeze
    except ImportError as error:
        return {name: _missing(error)}
    first, rest = parts(model)
    with_relu = nn.Sequential(*[nn.ReLU() if isinstance(m, casc_core.CQReLU) else copy.deepcopy(m) for m in rest])
    network = from_model(with_relu, batch_size=1, spike_fn=SingleSpike, min_v_mem=None).spiking_model.eval()
    populations = [module for module in network.modules() if isinstance(module, IAFSqueeze)]

    def simulate(x: Tensor, steps: int) -> Tensor:
        for population in populations:
            population.reset_states()
            population.batch_size = len(x)
        current = first(x).repeat_interleave(steps, 0)
        mean: Tensor = network(current).unflatten(0, (-1, steps)).mean(1)
        return mean

    return {name: Peer(simulate, populations[-1], lambda spikes, steps: spikes.unflatten(0, (-1, steps)).sum(1))}


def parts(model: nn.Sequential) -> tuple[nn.Sequential, nn.Sequential]:
    """What comes before the first activation, which real-valued input reaches, and the rest."""
    modules = [module for module in model if not isinstance(module, nn.Identity)]  # where a batch norm was folded
    at = next(index for index, module in enumerate(modules) if isinstance(module, casc_core.CQReLU))
    return nn.Sequential(*modules[:at]).eval(), nn.Sequential(*modules[at:])


def _missing(error: ImportError) -> str:
    return f"not installed ({error.name})" if error.name else "not installed"
