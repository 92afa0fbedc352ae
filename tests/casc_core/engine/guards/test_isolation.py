"""What torch has been told about the precision of products: it reaches no exact product, and is put back as it was."""

from __future__ import annotations

import itertools
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import casc_core
from casc_core import CQReLU
from casc_core.engine.guards import isolation as precision
from casc_core.engine.guards.isolation import undisturbed

SETTINGS = [("generic", "all"), *itertools.product(("cuda", "mkldnn"), ("all", "matmul", "conv", "rnn"))]
NEW = pytest.mark.skipif(not hasattr(torch._C, "_get_fp32_precision_getter"), reason="torch sets one precision for all")


def raw():
    """What has been set, not what is in force: each setting with all above it unset. And the one for all backends."""
    found, above = {}, {}
    for setting in SETTINGS:
        found[setting] = torch._C._get_fp32_precision_getter(*setting)
        if setting[1] == "all":
            above[setting] = found[setting]
            torch._C._set_fp32_precision_setter(*setting, "none")
    for setting, value in above.items():
        torch._C._set_fp32_precision_setter(*setting, value)
    try:
        return found, torch.get_float32_matmul_precision()
    except RuntimeError:
        return found, None


def in_force():
    return {torch._C._get_fp32_precision_getter("mkldnn", kind) for kind in ("matmul", "conv")}


@pytest.fixture(autouse=True)
def _as_it_was():
    legacy = torch.get_float32_matmul_precision()
    found = raw()[0] if hasattr(torch._C, "_get_fp32_precision_getter") else {}
    yield
    torch.set_float32_matmul_precision(legacy)
    for setting, value in found.items():
        torch._C._set_fp32_precision_setter(*setting, value)


def backends(setting, value):
    return lambda: torch._C._set_fp32_precision_setter(*setting, value)


def allow_tf32():
    torch.backends.cuda.matmul.allow_tf32 = True


TOLD = {
    "nothing": lambda: None,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "TF32 on GPUs": allow_tf32,
    **{f"{setting} {value}": backends(setting, value) for setting in SETTINGS for value in ("ieee", "tf32")},
    "all bfloat16": backends(("generic", "all"), "bf16"),
    "bfloat16 on CPUs": backends(("mkldnn", "matmul"), "bf16"),
}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    snn = casc_core.convert(nn.Sequential(nn.Linear(40, 30), CQReLU(4), nn.Linear(30, 5)))
    x = torch.randn(16, 40)
    return snn, x, snn(x)


@NEW
@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("second", ["nothing", "high", "('generic', 'all') tf32", "('mkldnn', 'all') ieee"])
@pytest.mark.filterwarnings("ignore:.*TF32:UserWarning")
def test_no_product_is_rounded_and_all_is_put_back(network, told, second):
    TOLD[told]()
    TOLD[second]()
    before = raw()
    assert undisturbed(in_force) <= {"none", "ieee"}
    assert raw() == before
    snn, x, expected = network
    assert torch.equal(snn(x), expected)
    assert raw() == before
    with pytest.raises(ZeroDivisionError):
        undisturbed(lambda: 1 // 0)
    assert raw() == before


@NEW
def test_on_a_gpu_its_products_are_exact_too(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    before = raw()
    for setting in (("cuda", "matmul"), ("cuda", "conv")):
        assert undisturbed(lambda setting=setting: torch._C._get_fp32_precision_getter(*setting)) in ("none", "ieee")
    assert before[0]["cuda", "conv"] == "tf32", "torch's own default"
    assert raw() == before


def test_a_torch_that_sets_one_precision_for_all(monkeypatch):
    monkeypatch.setattr(precision, "_by_backend", lambda: False)
    torch.set_float32_matmul_precision("medium")
    assert torch.backends.cudnn.allow_tf32
    seen = undisturbed(lambda: (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
    assert seen == ("highest", False)
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("medium", True)


@pytest.mark.parametrize("numerics", [casc_core.AsTrained(), casc_core.Exact(8)], ids=str)
def test_a_readout_that_is_computed_last_is_isolated_too(numerics):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 16, 3, padding=1), CQReLU(4), nn.Conv2d(16, 5, 3)
    snn, x = casc_core.convert(nn.Sequential(*layers), numerics=numerics), torch.randn(4, 3, 9, 9)
    calls = (snn, snn.reference, lambda x: snn.simulate(x, T=6).logits)
    expected = [call(x) for call in calls]
    with torch.autocast("cpu"):
        assert all(torch.equal(call(x), before) for call, before in zip(calls, expected, strict=True))
        assert casc_core.verify(snn, x).exact


def test_gradients_and_autocast_are_as_they_were():
    def inside():
        return torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")

    with torch.autocast("cpu"):
        assert undisturbed(inside) == (False, False)
        assert inside() == (True, True)
        with torch.no_grad():
            assert undisturbed(inside) == (False, False)
            assert inside() == (False, True)
    assert inside() == (True, False)


@NEW
def test_threads_see_exact_products_and_the_last_one_puts_them_back():
    torch.set_float32_matmul_precision("medium")
    before, met, found = raw(), threading.Barrier(4), []

    def run(number):
        for _ in range(50):
            undisturbed(lambda: found.append(in_force() <= {"none", "ieee"}))
        undisturbed(lambda: (met.wait(), found.append(in_force() <= {"none", "ieee"})))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4 * 51
    assert raw() == before


@NEW
def test_a_forked_process_leaves_behind_what_other_threads_were_doing():
    torch.set_float32_matmul_precision("medium")
    before, state = raw(), precision._Precision()
    state.enter(object())
    assert raw() != before
    state.lock.acquire()
    state.begin_anew()
    assert raw() == before
    token = object()
    state.enter(token)
    state.leave(token)
    assert raw() == before


# Python looks at interrupts after calls, so never between the end of such a block and the release of its lock.
LOCKED = {
    number
    for number, line in enumerate(Path(precision.__file__).read_text().splitlines(), 1)
    if line.strip() == "with self.lock:"
}


class InterruptedAt:
    """Raises KeyboardInterrupt at the n-th line that is run in the module of precision."""

    def __init__(self, line):
        self.left = line

    def __call__(self, frame, event, arg):
        if frame.f_code.co_filename != precision.__file__:
            return None
        if event == "line" and frame.f_lineno not in LOCKED:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
        return self


@NEW
@pytest.mark.parametrize("told", ["medium", "all bfloat16", "('mkldnn', 'all') tf32", "nothing"])
def test_an_interrupt_at_any_line_leaves_nothing_behind(told):
    TOLD[told]()
    before, tracing, interrupted = raw(), sys.gettrace(), 0
    for line in itertools.count(1):
        at = InterruptedAt(line)
        try:
            with torch.autocast("cpu"):
                try:
                    sys.settrace(at)
                    undisturbed(lambda: None)
                finally:
                    sys.settrace(tracing)
                    state = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        except KeyboardInterrupt:
            interrupted += 1
        assert state == (True, True), line
        assert raw() == before, line
        assert not precision._PRECISION.inside, line
        if at.left > 0:
            break
    assert interrupted == line - 1 > 20
