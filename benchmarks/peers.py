"""The same feed-forward network in two other simulators: SpikingJelly and sinabs. Both are optional.

Neither is needed in full. What their neurons import at run time is `loguru` (SpikingJelly) and `pbr`, `nir` and
`nirtorch` (sinabs); the rest of what they ask for (torchvision, samna, ...) may stay away:

    pip install "loguru>=0.7,<1" pbr nir nirtorch
    pip install --no-deps spikingjelly==2.0.0 sinabs==3.1.3
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

Simulate = Callable[[], Tensor]
SPIKINGJELLY, SINABS = "SpikingJelly", "sinabs"


def version(package: str) -> str:
    """`" 2.0.0"`, or nothing if it is not installed."""
    try:
        return f" {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def spikingjelly(model: nn.Sequential, x: Tensor, steps: int) -> dict[str, Simulate | str]:
    """The network as IF neurons with soft reset in SpikingJelly, in its two step modes; else why there is none.

    A CQReLU with threshold 1 is the rate of an IF neuron with threshold 1, so the weights carry over as they are. The
    input is a constant current: the first layer is computed once, to the advantage of the peer.
    """
    names = [f"{SPIKINGJELLY}{version('spikingjelly')}, {mode}-step" for mode in ("single", "multi")]
    try:
        from spikingjelly.activation_based import functional, layer, neuron
    except ImportError as error:
        return dict.fromkeys(names, _missing(error))
    linear = _linear(model)

    def network(step_mode: str) -> nn.Sequential:
        spiking = nn.Sequential()
        for original in linear[1:]:
            copy = layer.Linear(original.in_features, original.out_features)
            copy.load_state_dict(original.state_dict())
            spiking.extend([neuron.IFNode(v_threshold=1.0, v_reset=None), copy])
        functional.set_step_mode(spiking, step_mode)
        return spiking.eval()

    step_by_step, all_at_once = network("s"), network("m")

    def single() -> Tensor:
        functional.reset_net(step_by_step)
        current = linear[0](x)
        total: Tensor = step_by_step(current)
        for _ in range(steps - 1):
            total = total + step_by_step(current)
        return total / steps

    def multi() -> Tensor:
        functional.reset_net(all_at_once)
        mean: Tensor = all_at_once(linear[0](x).expand(steps, -1, -1)).mean(0)
        return mean

    return dict(zip(names, (single, multi), strict=True))


def sinabs(model: nn.Sequential, x: Tensor, steps: int) -> dict[str, Simulate | str]:
    """The network as IAF neurons with soft reset, one spike per step at most, in sinabs; else why there is none."""
    name = f"{SINABS}{version('sinabs')}, IAF"
    try:
        from sinabs.activation import SingleSpike
        from sinabs.layers import IAF
    except ImportError as error:
        return {name: _missing(error)}
    linear = _linear(model)
    neurons = [IAF(spike_threshold=torch.tensor(1.0), spike_fn=SingleSpike) for _ in linear[1:]]
    spiking = nn.Sequential(*[module for pair in zip(neurons, linear[1:], strict=True) for module in pair]).eval()

    def simulate() -> Tensor:
        for population in neurons:
            population.reset_states()
        current = linear[0](x)
        mean: Tensor = spiking(current.unsqueeze(1).expand(-1, steps, -1)).mean(1)
        return mean

    return {name: simulate}


def _linear(model: nn.Sequential) -> list[nn.Linear]:
    layers = [module for module in model if isinstance(module, nn.Linear)]
    assert all(before.out_features == after.in_features for before, after in pairwise(layers))
    return layers


def _missing(error: ImportError) -> str:
    return f"not installed ({error.name})" if error.name else "not installed"
