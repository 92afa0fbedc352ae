"""What a forward asks of its tensors has, while it is traced, the answer of a plain run, or is refused with its line."""

from __future__ import annotations

import linecache
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import casc_core
from casc_core.conversion.tracing.kinds import kind_of
from casc_core.conversion.tracing.stand_ins import Builtins
from casc_core.errors import ConversionError

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)) * 0.7

ANSWERED = """
if isinstance(x, Tensor): x = x * 2
if type(x) is torch.Tensor: x = x * 2
if type(x) in (torch.Tensor,): x = x * 2
if type(x).__name__ == "Tensor": x = x * 2
if x.__class__ is torch.Tensor: x = x * 2
if issubclass(type(x), torch.Tensor): x = x * 2
if torch.is_tensor(x) and not torch.is_tensor(x.shape): x = x * 2
if torch.overrides.is_tensor_like(x): x = x * 2
if isinstance(x, fx.Proxy): x = x * 2
if isinstance(x, (list, tuple)): x = x[0]
if not isinstance(x, (int, float, dict, type(None), nn.Parameter)): x = x * 2
if hasattr(x, "detach"): x = x * 2
if not hasattr(x, "foo"): x = x * 2
if getattr(x, "foo", None) is None: x = x * 2
if not callable(x): x = x * 2
if callable(self.fc) and callable(x.relu): x = x * 2
if isinstance(x.shape, tuple) and isinstance(x.shape[0], int): x = x * 2
if isinstance(x.size(), torch.Size) and not isinstance(x.shape[1] / 2, int): x = x * 2
if isinstance(x.dtype, torch.dtype) and isinstance(x.device, torch.device): x = x * 2
if isinstance(x.chunk(2, 1), tuple) and isinstance(x.max(1), tuple) and isinstance(x.max(), Tensor): x = x * 2
if isinstance(self.fc(x), Tensor) and isinstance(F.max_pool1d(x, 2), Tensor): x = x * 2
if isinstance(self.weight, nn.Parameter) and type(self.weight) is nn.Parameter: x = x * 2
if isinstance(self.weight * 2, Tensor) and self.weight.size(0) == 4: x = x * 2
if isinstance(x, typing.Iterable) and not isinstance(x, typing.Sequence): x = x * 2
if x is not None and not self.training: x = x * 2
if not torch.is_grad_enabled(): x = x * 2
if torch.jit.is_scripting() or torch.compiler.is_compiling(): x = x * 2
assert isinstance(x, Tensor)
x = x * int(isinstance(x, Tensor))
x = {True: x * 2, False: x}[isinstance(x, Tensor)]
f = {torch.Tensor: lambda t: t * 2}.get(type(x), lambda t: t); x = f(x)
print(x, x.shape, type[int], isinstance(type(3), type), type("A", (), {})); x = x * 2
match x:
    case [a, b]: x = a
    case Tensor(): x = x * 2
try: x = x.foo
except AttributeError: x = x * 2
x = dispatched(x)
x = elsewhere.doubled(x)
"""
REFUSED = """
if x.dtype == torch.float32: x = x * 2
if x.dtype is torch.float32: x = x * 2
if torch.float32 is not x.dtype: x = x * 2
if str(x.dtype) == "torch.float32": x = x * 2
if "cuda" in str(x.device): x = x * 2
if f"{x.dtype}" == "torch.float32": x = x * 2
if repr(x).startswith("tensor"): x = x * 2
if {torch.float32: True}.get(x.dtype, False): x = x * 2
if {4: True}.get(x.shape[1], False): x = x * 2
if x.grad_fn is None: x = x * 2
if x.requires_grad: x = x * 2
if x.is_cuda: x = x * 2
if x.device.type == "cpu": x = x * 2
if x.is_floating_point(): x = x * 2
if torch.is_complex(x): x = x * 2
if x.is_contiguous(): x = x * 2
if isinstance(x, torch.FloatTensor): x = x * 2
if len(x) > 3: x = x * 2
if len(x.shape) == 2: x = x * 2
if x in (None, 0): x = x * 2
if x.min() > -100: x = x * 2
if self.weight.sum() > -100: x = x * 2
match x.shape:
    case (n, c): x = x * 2
match x.dtype:
    case torch.float32: x = x * 2
try: n = len(x)
except Exception: n = 2
try: x = x * 2 if x.min() > -100 else x
except Exception: x = x * 2
try: rows = [row for row in x]
except Exception: x = x * 2
"""


def _bodies(text: str) -> list[str]:
    """A body of lines that belong together begins with a line that is not indented, nor an `except`."""
    bodies: list[str] = []
    for line in text.strip().splitlines():
        if line.startswith((" ", "except")):
            bodies[-1] += f"\n{line}"
        else:
            bodies.append(line)
    return bodies


def _model(body: str, folder: Path, activation: str = "self.relu(self.fc(x))") -> nn.Module:
    """A model in a module of its own, whose forward begins with `body`."""
    source = f"""
import functools, typing
import torch, torch.nn.functional as F
from torch import Tensor, fx, nn
import elsewhere

@functools.singledispatch
def dispatched(x): return x
@dispatched.register
def _(x: Tensor): return x * 2

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.relu, self.out = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
{textwrap.indent(body, " " * 8)}
        return self.out({activation})
"""
    file = folder / "asking.py"
    file.write_text(source)
    linecache.checkcache(str(file))
    names: dict[str, Any] = {"__file__": str(file), "__name__": "asking"}
    torch.manual_seed(0)
    exec(compile(source, str(file), "exec"), names)
    model: nn.Module = names["Model"]()
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "elsewhere.py").write_text(
        "import torch\n\ndef doubled(x): return x * 2 if isinstance(x, torch.Tensor) else x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "elsewhere", raising=False)
    return tmp_path


def _apart(model: nn.Module) -> float:
    snn = casc_core.convert(casc_core.prepare(model, q=64, threshold=4.0).eval())
    report = casc_core.verify(snn, X)
    assert report.exact, str(report)
    with torch.no_grad():
        return float((snn(X) - model(X.clone())).abs().max())


@pytest.mark.parametrize("body", _bodies(ANSWERED))
def test_the_answer_is_that_of_a_plain_run(body: str, folder: Path) -> None:
    # A prepared copy whose activations were called as functions is made of a trace; training is another way there.
    activation = "self.relu(self.fc(x))" if "training" in body or "grad" in body else "F.relu(self.fc(x))"
    assert _apart(_model(body, folder, activation)) < 0.1  # of a branch left out: 0.2 or more


@pytest.mark.parametrize("body", _bodies(REFUSED))
def test_what_only_a_run_knows_is_refused_with_its_line(body: str, folder: Path) -> None:
    with pytest.raises(ConversionError, match=rf"asking\.py:\d+: ({'|'.join(map(re.escape, _stripped(body)))})"):
        casc_core.prepare(_model(body, folder), q=4)


def _stripped(body: str) -> list[str]:
    return [line.strip() for line in body.splitlines()]


def test_unpacking_an_input_is_checked_when_the_network_runs(folder: Path) -> None:
    body = "try:\n    x, y = x\nexcept ValueError:\n    x = x * 2"
    snn = casc_core.convert(casc_core.prepare(_model(body, folder), q=4).eval())
    with pytest.raises(casc_core.InputError, match=r"takes apart into 2 falls into 5 .*\n.*x, y = x"):
        snn(X)


def test_the_modules_of_a_forward_have_their_own_names_again(folder: Path) -> None:
    model = _model("x = elsewhere.doubled(x)", folder)
    casc_core.prepare(model, q=4)
    for names in (type(model).forward.__globals__, vars(__import__("elsewhere"))):
        assert not {"isinstance", "type", "callable"} & names.keys()


def test_a_name_of_the_users_own_stays_it() -> None:
    names: dict[str, Any] = {"__file__": "/users/own.py", "type": "mine"}
    exec("def forward(x): return type", names)
    with Builtins() as answers:
        answers.answer_in(names["forward"])
        assert names["forward"](3) == "mine"
    assert names["type"] == "mine"


def test_kinds_of_what_a_trace_records() -> None:
    def forward(x: Any, y: Any) -> Any:
        return (
            x, x.shape, x.shape[1:], x.size(0), x.numel() * 2, x.shape[0] / 2, x.shape[0] > 2, x.dtype, x.T, x.max(1),
            x.max(1).values, x.split(2), x.split(2)[0], x.split(2)[:1], torch.sort(x), x.is_floating_point(), x.item(),
            torch.where(x > 0, x, y), F.max_pool1d(x, 2), F.max_pool1d(x, 2, return_indices=True), x + y, x.is_cuda,
        )  # fmt: skip

    (output,) = (node for node in fx.symbolic_trace(forward).graph.nodes if node.op == "output")
    kinds = [kind_of(node, nn.Identity()) for node in output.args[0]]
    returned = torch.return_types
    assert kinds == [
        Tensor, torch.Size, torch.Size, int, int, float, bool, torch.dtype, Tensor, returned.max, Tensor, tuple, Tensor,
        tuple, returned.sort, bool, float, Tensor, Tensor, tuple, Tensor, bool,
    ]  # fmt: skip
