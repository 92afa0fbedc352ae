"""Runs in which unchanged layers are not computed again give what runs without memory give."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from casc_core import CQReLU
from casc_core.conversion import remembering as memory
from casc_core.conversion.remembering import remembering


class Network(nn.Module):
    """Layers, a branch that is added in place, an activation in place, one layer twice, and a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.act, self.last = CQReLU(q=4), nn.Linear(6, 3)
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 6))
        self.offset = nn.Parameter(torch.zeros(3))
        self.computed: list[str] = []
        for name, module in self.named_modules():
            if name and not list(module.children()):
                self._tell(name, module)

    def _tell(self, name: str, module: nn.Module) -> None:
        forward = module.forward

        def told(x: Tensor) -> Tensor:
            self.computed.append(name)
            return forward(x)

        module.forward = told

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        y = self.inner(self.act(x))
        y += x
        y = self.inner[0](y)
        self.inner[1](y)  # in place, and its result is not read
        return self.last(self.act(y)) + self.offset


@pytest.fixture
def network() -> Iterator[Network]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield Network().eval()


def edits(network: Network) -> dict[str, object]:
    """What may change between two runs; each makes another network."""
    return {
        "nothing": lambda: None,
        "a bias in place": lambda: network.first.bias.add_(0.3),
        "a statistic": lambda: network.norm.running_mean.add_(0.2),
        "another threshold": lambda: network.act.set_threshold(network.act.effective_threshold * 1.3),
        "thresholds by channel": lambda: network.act.set_threshold(torch.rand(6) + 0.5),
        "a state": lambda: network.load_state_dict(
            {k: v * 1.1 for k, v in copy.deepcopy(network.state_dict()).items()}
        ),
        "a replaced weight": lambda: setattr(network.last, "weight", nn.Parameter(torch.randn(3, 6))),
        "a parameter that no layer has": lambda: network.offset.add_(1.0),
    }


class StopError(Exception):
    pass


@pytest.mark.parametrize("room", [memory.ROOM, 200, 0])
@pytest.mark.parametrize("seed", range(8))
def test_runs_are_those_of_the_network_as_it_is(network, monkeypatch, room, seed):
    monkeypatch.setattr(memory, "ROOM", room)
    generator = torch.Generator().manual_seed(seed)
    batches, change = [(torch.randn(5, 4),), (torch.randn(2, 4),)], list(edits(network).values())
    with remembering(network, batches):
        for _ in range(25):
            change[int(torch.randint(len(change), (), generator=generator))]()
            if torch.rand((), generator=generator) < 0.4:  # a run that is not finished
                hook = network.inner[2].register_forward_hook(lambda *given: (_ for _ in ()).throw(StopError))
                with pytest.raises(StopError):
                    network(*batches[0])
                hook.remove()
            for batch in batches:
                if torch.rand((), generator=generator) < 0.7:
                    assert torch.equal(network(*batch), network(batch[0].clone()))  # of which it knows nothing


def test_what_is_before_a_change_is_not_computed(network):
    batches = [(torch.randn(5, 4),)]
    with remembering(network, batches):
        network(*batches[0])
        network.computed.clear()
        network.last.bias.add_(1.0)
        network(*batches[0])
        # What is written into is made again: the sum in place, and what an activation in place reads.
        assert network.computed == ["inner.0", "inner.1", "inner.2", "inner.0", "inner.1", "last"]
        network.computed.clear()
        network.norm.running_var.add_(1.0)
        network(*batches[0])
        assert network.computed[0] == "norm"


def test_afterwards_the_network_is_as_it_was(network):
    before = {name: vars(module).get("forward") for name, module in network.named_modules()}
    plain = nn.Sequential(nn.Linear(2, 2)).eval()
    with pytest.raises(StopError), remembering(network, []), remembering(plain, []):
        raise StopError
    assert before == {name: vars(module).get("forward") for name, module in network.named_modules()}
    assert "forward" not in vars(plain[0])
    assert not network._forward_pre_hooks


def test_with_gradients_everything_is_computed(network):
    batches = [(torch.randn(5, 4),)]
    with remembering(network, batches):
        network(*batches[0])
        network.computed.clear()
        with torch.enable_grad():
            network(*batches[0]).sum().backward()
    assert network.computed[0] == "first"
    assert network.first.weight.grad is not None


def test_a_single_layer_is_left_alone():
    layer, batch = nn.Linear(2, 1).eval(), torch.ones(1, 2)
    with torch.no_grad(), remembering(layer, [(batch,)]):
        before = layer(batch)
        layer.bias.add_(1.0)
        assert torch.equal(layer(batch), before + 1.0)
