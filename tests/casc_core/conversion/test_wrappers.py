"""What wraps a model makes way for the model; what hides it is refused by name, with the remedy."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import casc_core
from casc_core import ConversionError
from casc_core.conversion.wrappers import bare

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


class Holder(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.act, self.out = inner, nn.ReLU(), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.inner(x)))


@contextlib.contextmanager
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def distributed(model: nn.Module) -> nn.Module:
    with one_process():
        return nn.parallel.DistributedDataParallel(model)


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": lambda model: torch.compile(model, backend="eager"),  # type: ignore[dict-item]
    "compiled in place": compiled_in_place,
    "data parallel": nn.DataParallel,
    "distributed": distributed,
    "averaged": torch.optim.swa_utils.AveragedModel,
    "twice": lambda model: nn.DataParallel(torch.optim.swa_utils.AveragedModel(model)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_the_model_inside_is_converted(name: str) -> None:
    wrapped = WRAPPERS[name](mlp())
    prepared = casc_core.prepare(wrapped, q=4)
    assert type(prepared) is nn.Sequential
    expected = casc_core.convert(casc_core.prepare(mlp(), q=4))(X)
    assert torch.equal(casc_core.convert(WRAPPERS[name](prepared))(X), expected)
    with pytest.warns(UserWarning, match="was not trained"):
        assert torch.equal(casc_core.convert(wrapped, q=4)(X), expected)
    assert casc_core.calibrate(wrapped, [X], q=4).samples == len(X)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_inside_a_model_makes_way(name: str) -> None:
    inner = WRAPPERS[name](mlp())
    model = Holder(inner)
    prepared = casc_core.prepare(model, q=4).eval()
    assert type(prepared.inner) is nn.Sequential
    assert model.inner is inner
    assert casc_core.verify(casc_core.convert(prepared), X).exact


def test_a_shared_module_stays_shared() -> None:
    inner = nn.DataParallel(nn.Linear(4, 4))
    copied = bare(nn.ModuleList([inner, nn.ModuleDict({"again": inner}), inner.module]))
    assert copied[0] is copied[1]["again"] is copied[2]
    assert copied[0] is not inner.module


def test_an_averaged_model_that_is_loaded_again(tmp_path: object) -> None:
    prepared = casc_core.prepare(mlp(), q=4)
    casc_core.convert(prepared).save(f"{tmp_path}/network")
    averaged = torch.optim.swa_utils.AveragedModel(prepared)
    assert casc_core.verify(casc_core.load(f"{tmp_path}/network", model=averaged), X).exact


def quantised(model: nn.Module) -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear})


def pruned(model: nn.Module) -> nn.Module:
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


def with_old_norm(model: nn.Module, kind: Callable[..., nn.Module]) -> nn.Module:
    kind(model[0])
    return model


def forward_on_the_instance(model: nn.Module, where: Callable[[nn.Module], nn.Module]) -> nn.Module:
    part = where(model)
    own = type(part).forward
    part.forward = lambda input: 2 * own(part, input)
    return model


class CallsTwice(nn.Sequential):
    def __call__(self, input: Tensor) -> Tensor:
        return 2 * super().__call__(input)


def with_a_lock(model: nn.Module) -> nn.Module:
    model.lock = threading.Lock()
    return model


def fully_sharded(model: nn.Module) -> nn.Module:
    with one_process():
        return dist.fsdp.FullyShardedDataParallel(model, device_id="cpu")


HIDDEN = {
    "scripted": (torch.jit.script, r"'\(the model\)': RecursiveScriptModule .*take the module that was scripted"),
    "traced": (lambda model: torch.jit.trace(model, X), r"TopLevelTracedModule .*take the module that was scripted"),
    "sharded": (fully_sharded, "FullyShardedDataParallel cannot be converted: its parameters are spread over processes"),
    "quantised": (quantised, "module '0': Linear cannot be converted: it is quantised"),
    "pruned": (pruned, r"module '0' has a forward hook.*L1Unstructured; .*prune\.remove\(module, 'weight'\)"),
    "weight norm": (
        lambda model: with_old_norm(model, nn.utils.weight_norm),
        r"module '0' has a forward hook.*WeightNorm; call .*remove_weight_norm, or use .*parametrizations\.weight_norm",
    ),
    "spectral norm": (
        lambda model: with_old_norm(model, nn.utils.spectral_norm), r"SpectralNorm; call .*remove_spectral_norm",
    ),
    "forward of a layer": (lambda model: forward_on_the_instance(model, lambda m: m[0]), "'0' is called by what stands"),
    "forward of the model": (lambda model: forward_on_the_instance(model, lambda m: m), "is called by what stands outside"),
    "call": (lambda model: CallsTwice(*model), "model.*' is called by what stands outside the forward of its class"),
    "exported": (
        lambda model: torch.export.export(model, (X,)).module(), "was made by torch.export.*take the module that was",
    ),
    "lock": (with_a_lock, "Sequential cannot be copied.*neither results of earlier calls nor locks"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", HIDDEN)
def test_what_hides_a_module_is_refused_by_name_and_with_a_remedy(kind: str) -> None:
    make, message = HIDDEN[kind]
    for step in (casc_core.prepare, casc_core.convert):
        with pytest.raises(ConversionError, match=message):
            step(make(mlp()), q=4)


@pytest.mark.parametrize("register", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_a_hook_of_all_modules_is_refused_until_it_is_removed(register: str) -> None:
    def hook(module: nn.Module, *tensors: object) -> None:
        return None

    handle = getattr(nn.modules.module, register)(hook)
    try:
        with pytest.raises(ConversionError, match=r"all modules have a forward hook.*hook; remove it by its handle"):
            casc_core.prepare(mlp(), q=4)
    finally:
        handle.remove()
    casc_core.prepare(mlp(), q=4)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.act, self.fc = nn.Parameter(torch.randn(8, 4)), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(F.linear(x, self.weight)))


@pytest.mark.parametrize(
    "kind", [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal]
)
@pytest.mark.parametrize("own", [False, True])
def test_parametrized_weights_are_taken_as_they_are(kind: Callable[..., nn.Module], own: bool) -> None:
    torch.manual_seed(0)
    model = Own() if own else mlp()
    kind(model if own else model[0])
    prepared = casc_core.prepare(model, q=4).eval()
    assert casc_core.verify(casc_core.convert(prepared), X).exact
    found = casc_core.convert(prepared, numerics="as trained").reference(X)
    torch.testing.assert_close(found, prepared(X).detach())


def test_a_parametrized_recurrent_layer_is_refused() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.fc = nn.RNN(4, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rnn(x)[0][:, -1])

    model = Recurrent()
    parametrizations.weight_norm(model.rnn, "weight_hh_l0")
    with pytest.raises(ConversionError, match=r"'rnn': ParametrizedRNN has parametrizations.*remove_parametrizations"):
        casc_core.prepare(model, q=2)
