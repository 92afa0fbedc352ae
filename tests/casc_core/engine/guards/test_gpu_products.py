"""Products on a GPU that round are refused."""

from __future__ import annotations

import pytest
import torch
from on_device import CASES, moved
from pretend_device import pretend_device

from casc_core.engine.float64 import in_float64
from casc_core.engine.guards import gpu_products
from casc_core.engine.guards.gpu_products import require_exact_products, sums_exactly
from casc_core.errors import ExactnessError


@pytest.fixture(autouse=True)
def _anew():
    sums_exactly.cache_clear()
    yield
    sums_exactly.cache_clear()


@pytest.mark.parametrize(("kind", "narrow"), [(torch.float32, torch.bfloat16), (torch.float64, torch.float32)])
def test_a_type_that_is_emulated_on_fewer_bits_is_found(kind, narrow, monkeypatch):
    with pretend_device() as device:
        assert sums_exactly(device, kind)
        sums_exactly.cache_clear()
        plain = torch.Tensor.__matmul__

        def emulated(x, y):
            low = plain(x.to(narrow).to(kind), y.to(narrow).to(kind))
            return low if x.dtype == kind and x.is_cuda else plain(x, y)

        monkeypatch.setattr(torch.Tensor, "__matmul__", emulated)
        with pytest.raises(ExactnessError, match=f"round {kind}"):
            require_exact_products(device)


def test_a_network_does_not_run_where_products_round(monkeypatch):
    snn, inputs = CASES["three layers, Exact(weight_bits=8)"]()
    monkeypatch.setattr(gpu_products, "sums_exactly", lambda device, kind: False)
    snn(*inputs)
    with pretend_device() as device, pytest.raises(ExactnessError, match="run the network on the CPU"):
        snn.to(device)(*moved(inputs, device))


def test_float64_is_evaluated_without_cudnn():
    assert torch.backends.cudnn.enabled
    with in_float64(), in_float64():
        assert not torch.backends.cudnn.enabled
    assert torch.backends.cudnn.enabled
