"""Networks on another device give the CPU's bits; of what they compute, nothing is made elsewhere."""

from __future__ import annotations

import pytest
import torch
from forwards import FORWARDS
from on_device import CASES, differences, moved, unlike
from pretend_device import Elsewhere, pretend_device
from user_models import LENGTHS, TOKENS, user_model

import casc_core
from casc_core.engine import kernels
from casc_core.errors import InputError

# Together they go through every operation that makes tensors of its own; the others take longer.
USUAL = {
    "two topics", "average pool, unequal windows", "average pool, padding not counted", "interpolation to a size",
    "product with a mean", "parts joined", "text rnn, mean+max", "text gru, mean",
    "three layers, Exact(weight_bits=16)", "three layers, OPI", "text, OPI", "text, SRP", "three layers, IF, continuous",
    "GRU from half a threshold", "convolutions, transposed", "thresholds by channel",
}  # fmt: skip
LONG = {"text lstm, last", "LSTM with a state"}  # the pretended device looks at every call of torch


@pytest.mark.parametrize(
    "name", [*sorted(USUAL), *(pytest.param(name, marks=pytest.mark.slow) for name in sorted(LONG))]
)
def test_a_network_has_the_same_bits_there_and_back(name):
    with pretend_device() as device:
        assert differences(CASES[name](), device) == []


def test_the_usual_networks_are_there():
    assert set(CASES) >= USUAL | LONG


def test_a_batch_is_split_there_after_it_was_split_on_the_cpu(tmp_path):
    snn, inputs = CASES["text rnn, mean+max"]()
    snn.memory_limit = 1
    expected = snn(*inputs)
    with pretend_device() as device:
        snn.to(device)
        found = snn(*moved(inputs, device))
        assert isinstance(found, Elsewhere)
        assert torch.equal(found.cpu(), expected)
        snn.save(tmp_path / "network")
    loaded = casc_core.load(tmp_path / "network")
    assert torch.equal(loaded(*inputs), expected)


def test_tokens_and_lengths_may_stay_on_the_cpu():
    snn, (tokens, lengths) = CASES["text gru, mean"]()
    expected = snn(tokens, lengths)
    with pretend_device() as device:
        snn.to(device)
        assert torch.equal(snn(tokens.to(device), lengths).cpu(), expected)


def test_an_analysis_there_is_that_of_the_cpu():
    snn, (images,) = CASES["three layers, Exact(weight_bits=16)"]()
    expected = casc_core.analyse(snn, [images], T=4)
    with pretend_device() as device:
        found = casc_core.analyse(snn.to(device), [images.to(device)], T=4)
    assert list(unlike(expected, found)) == []


def test_a_tensor_that_a_forward_makes_on_the_cpu_is_named():
    forward, _, sizes = FORWARDS["optional_len"]
    snn = casc_core.convert(casc_core.prepare(user_model(forward, **sizes), q=4).eval())
    with pretend_device() as device:
        snn.to(device)
        with pytest.raises(InputError, match=r"makes without device= is on the CPU: make it with device=x\.device"):
            snn(TOKENS.to(device), LENGTHS.to(device))


def test_the_pretend_device_refuses_what_a_gpu_refuses():
    with pretend_device() as device:
        there, here = torch.ones(3, device=device), torch.ones(3)
        for refused in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[there.long()],
            lambda: there.index_select(0, torch.tensor([0])),
            lambda: torch.lcm(there.long(), torch.ones(3, dtype=torch.int64)),
        ):
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                refused()
        assert (there + torch.tensor(1.0)).device == (there * 2).sum().device == there.new_zeros(2).device == device
        assert there[torch.tensor([0, 2])].device == torch.as_tensor(2, device=device).device == device
        assert there.is_cuda
        assert there.cpu().device == torch.tensor(2.0).device == torch.device("cpu")
        assert not kernels.ready(there)
        with pytest.raises(RuntimeError, match="not supported"):
            there.numpy()
