"""A model without what only wraps it (compiled, parallel, averaged); what hides a module from a trace is refused."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn

from casc_core.conversion.weights import refuse_weights
from casc_core.errors import ConversionError

# By name, since importing them all would take longer than a conversion.
_INSIDE = {
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
}
_HIDDEN = {
    "torch.jit.": "TorchScript keeps no Python code that could be traced; take the module that was scripted or traced",
    "torch.distributed.fsdp.": "its parameters are spread over processes; gather them (a full state_dict), load them into "
    "the module as it was before it was wrapped, and take that",
    "torch.ao.nn.": "it is quantised for other arithmetic; take the model as it was before that quantisation",
}


def bare(model: nn.Module) -> nn.Module:
    """A deep copy of `model` in which the wrappers of `torch.compile`, `DataParallel`, `DistributedDataParallel` and
    `AveragedModel`, around it and inside it, have made way for what they wrap.

    Raises:
        ConversionError: a module hides what it does (TorchScript, FSDP, a hook), a weight is none that can be kept
            exactly, or the model cannot be copied.

    >>> bare(nn.DataParallel(nn.Sequential(nn.DataParallel(nn.ReLU()))))
    Sequential(
      (0): ReLU()
    )
    """
    inside = _inside(model)
    refuse_weights(inside)
    everywhere = _every(nn.modules.module._global_forward_pre_hooks, nn.modules.module._global_forward_hooks)
    if everywhere:
        raise ConversionError(
            f"all modules have a forward hook, which a conversion would leave out: {_name(everywhere[0])}; remove it by "
            "its handle before you prepare or convert, or do what it does in a forward"
        )
    for name, module in inside.named_modules():
        what = _hiding(module)
        if what is not None:
            raise ConversionError(f"module {name or '(the model)'!r}{what}")
    copies: dict[int, Any] = {}
    try:
        for module in reversed(list(inside.modules())):  # what is inside another comes first
            if _inside(module) is not module:
                copies[id(module)] = copy.deepcopy(_inside(module), copies)
        return copy.deepcopy(inside, copies)
    except Exception as error:  # whatever the user's modules hold
        raise ConversionError(
            f"{type(inside).__name__} cannot be copied ({type(error).__name__}: {error}): let its modules hold neither "
            "results of earlier calls nor locks, files or generators"
        ) from error


def _hiding(module: nn.Module) -> str | None:
    """How `module` hides what it does from a trace, if it does, and the remedy."""
    for kind in _kinds(module):
        for start, why in _HIDDEN.items():
            if kind.startswith(start):
                return f": {type(module).__name__} cannot be converted: {why}"
    if any("_create_stateful_graph_module" in _name(hook) for hook in _hooks(module)):
        return ": it was made by torch.export, whose graph is of one call; take the module that was exported"
    hooks = _hooks(module)
    return f" has a forward hook, which a conversion would leave out: {_remedy(hooks[0])}" if hooks else None


def _hooks(module: nn.Module) -> list[Any]:
    return _every(module._forward_pre_hooks, module._forward_hooks)


def _every(*hooks: Mapping[int, Any]) -> list[Any]:
    return [hook for each in hooks for hook in each.values()]


def _name(hook: Any) -> str:
    return str(getattr(hook, "__qualname__", type(hook).__name__))


_OLD_NORMS = {"WeightNorm": "weight_norm", "SpectralNorm": "spectral_norm"}


def _remedy(hook: Any) -> str:
    """The name of a hook, and what to do about it."""
    kind = type(hook).__name__
    if kind in _OLD_NORMS:
        name = _OLD_NORMS[kind]
        return f"{kind}; call torch.nn.utils.remove_{name}, or use torch.nn.utils.parametrizations.{name}"
    if type(hook).__module__ == "torch.nn.utils.prune":
        return f"{kind}; make the pruning permanent with torch.nn.utils.prune.remove(module, {hook._tensor_name!r})"
    return f"{_name(hook)}; remove it, or do what it does in a forward"


def _inside(module: nn.Module) -> nn.Module:
    """What `module` wraps, at last; itself if it is no wrapper."""
    attribute = next((_INSIDE[kind] for kind in _kinds(module) if kind in _INSIDE), None)
    return module if attribute is None else _inside(getattr(module, attribute))


def _kinds(module: nn.Module) -> list[str]:
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__]
