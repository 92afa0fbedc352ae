"""Forked processes, threads and interrupts: the same answers, no waiting for ever, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from engines import COMPILED
from torch import nn
from user_cnns import Head, cnn, conv

import casc_core
from casc_core import CQReLU
from casc_core.engine import kernels
from casc_core.engine.products import spike_product as product
from casc_seq.layers.rnn import RNN

FORKED = """
import multiprocessing, sys, torch
from torch import nn
import casc_core
from casc_core import CQReLU
from casc_core.engine import kernels

torch.manual_seed(0)
torch.set_num_threads(2)
def layers(*last):
    convolutions = nn.Conv2d(3, 32, 3, padding=1), CQReLU(4), nn.Conv2d(32, 32, 3, padding=1), CQReLU(4)
    return casc_core.convert(nn.Sequential(*convolutions, *last))

networks, x = [layers(nn.Flatten(), nn.Linear(8192, 5)), layers(nn.Conv2d(32, 5, 3))], torch.randn(32, 3, 16, 16)
expected = [snn(x) for snn in networks]

def answer():
    for choice in {None, kernels.instructions()}:
        with kernels.using(choice):
            for snn, before in zip(networks, expected):
                if not (torch.equal(snn(x), before) and torch.equal(snn.simulate(x).logits[-1], before)):
                    sys.exit(3)
        if torch.get_num_threads() != 2:
            sys.exit(4)

child = multiprocessing.get_context("fork").Process(target=answer)
child.start()
child.join(60)
if child.is_alive():
    child.kill()
    sys.exit("the child waits for ever")
sys.exit(child.exitcode)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="processes fork elsewhere in other ways")
def test_a_forked_process_answers():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def residual(self, x):
    x = self.act(self.a(x))
    return self.head(self.act(self.b(x) + x))


class Texts(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.rnn, self.fc = nn.Embedding(20, 8), RNN(8, 40, batch_first=True, q=4), nn.Linear(40, 3)

    def forward(self, tokens):
        return self.fc(self.rnn(self.embedding(tokens))[0].max(1).values)


def networks():
    torch.manual_seed(0)
    image = cnn(residual, a=conv(), b=conv(6), act=CQReLU(4), head=Head())
    images = [torch.randn(n, 3, size, size) for n, size in ((1, 8), (3, 8), (8, 12), (2, 20))]
    texts = [torch.randint(0, 20, shape) for shape in ((1, 4), (5, 9), (16, 3), (2, 12))]
    return [(casc_core.convert(image), images), (casc_core.convert(Texts().eval()), texts)]


@pytest.mark.parametrize("which", [0, 1])
def test_threads_on_one_network(which):
    """Batches of several shapes, answers, references and simulations at once, on a network that has never run before."""
    alone, inputs = networks()[which]
    calls = (lambda snn, x: snn(x), lambda snn, x: snn.reference(x), lambda snn, x: snn.simulate(x, T=6).logits)
    expected = [[call(alone, x) for x in inputs] for call in calls]
    for choice in (None, *COMPILED[-1:]):
        snn, _ = networks()[which]
        start = threading.Barrier(4)

        def work(number, snn=snn, choice=choice, start=start):
            start.wait()
            with kernels.using(choice):
                for turn in range(number, number + 12):
                    kind, shape = turn % len(calls), turn // 2 % len(inputs)
                    assert torch.equal(calls[kind](snn, inputs[shape]), expected[kind][shape]), (kind, shape)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))


@pytest.mark.skipif(not COMPILED, reason="installed without compiled kernels")
def test_what_one_thread_asks_for_is_its_own():
    inside, seen = threading.Event(), threading.Event()
    usual, found = kernels.instructions(), []

    def other():
        with kernels.using(None), product.only("float"):
            inside.set()
            seen.wait(10)
            found.append(kernels.instructions())

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    assert kernels.instructions() == usual
    assert product._forced.get() == ()
    with kernels.using("plain"):
        seen.set()
        thread.join()
        assert kernels.instructions() == "plain"
    assert found == [None]


class Interrupted:
    """Counts the lines run in the library; raises KeyboardInterrupt at the n-th."""

    def __init__(self, line=0):
        self.run, self.line = 0, line
        self.folder = str(Path(casc_core.__file__).parent)

    def __call__(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(self.folder) or frame.f_code.co_filename.endswith("precision.py"):
            return None  # that file is interrupted at every line in a test of its own
        if event == "line":
            self.run += 1
            if self.run == self.line:
                raise KeyboardInterrupt
        return self


def traced(tracer, call):
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        call()
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("which", [0, 1])
def test_an_interrupt_leaves_the_network_as_it_was(which):
    (snn, inputs), x = networks()[which], networks()[which][1][1]
    expected, readouts = snn(x), snn.simulate(x).logits
    counter = Interrupted()
    traced(counter, lambda: snn.simulate(x))
    for number in range(25):
        fresh = networks()[which][0] if number % 5 == 0 else snn
        with pytest.raises(KeyboardInterrupt):
            traced(Interrupted(1 + number * counter.run // 25), lambda fresh=fresh: fresh.simulate(x))
        assert torch.is_grad_enabled()
        assert torch.equal(fresh(x), expected)
        assert torch.equal(fresh.simulate(x).logits, readouts)
        assert fresh(inputs[0]).shape[0] == 1
