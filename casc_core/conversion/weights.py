"""What a model's parameters and buffers must be: finite float32 or float64 numbers that are at hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from casc_core.errors import ConversionError

_REAL = (torch.float32, torch.float64)


def refuse_weights(model: nn.Module) -> None:
    """Raise `ConversionError` for the first parameter or buffer that holds no numbers, or none that can be kept exactly.

    >>> refuse_weights(nn.Linear(2, 2, dtype=torch.bfloat16))
    Traceback (most recent call last):
    casc_core.errors.ConversionError: weight is torch.bfloat16; give the model float32 weights with model.float()
    """
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        why = _unusable(tensor)
        if why is not None:
            raise ConversionError(f"{name} {why}")


def _unusable(tensor: Tensor) -> str | None:
    if nn.parameter.is_lazy(tensor):
        return "has no shape yet; call the model once, so that its lazy modules see an input"
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return f"is a {type(tensor).__name__}, not a plain tensor; load its numbers into the plain model"
    if tensor.is_meta:
        return "is on the meta device and holds no numbers; load the weights on a real device first"
    if tensor.is_quantized:
        return f"is quantised ({tensor.dtype}); take the model as it was before that quantisation"
    if tensor.layout is not torch.strided:
        return f"has the layout {tensor.layout}; make it a plain tensor with to_dense()"
    if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype not in _REAL):
        remedy = (
            "hold its real and imaginary parts"
            if tensor.is_complex()
            else "give the model float32 weights with model.float()"
        )
        return f"is {tensor.dtype}; {remedy}"
    if tensor.is_floating_point() and not bool(tensor.detach().isfinite().all()):
        bad = tensor.detach()[~tensor.detach().isfinite()][0]
        return (
            f"holds {float(bad)}: weights must be finite. The training has diverged; lower the learning rate or clip the "
            "gradients"
        )
    return None
