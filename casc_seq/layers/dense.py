"""Products of matrices in training, by the faster of two libraries.

torch multiplies float32 matrices with MKL, whose widest instructions are for Intel's processors. oneDNN, which torch brings
too, has them for all: on others it takes half as long.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A call of oneDNN takes as long as some million multiplications.
_WORTH_ONEDNN = 2**20


class _OneDNN:
    """`x W^T + b` of float32 matrices by oneDNN."""

    def __init__(self) -> None:
        self.linear = torch.ops.mkldnn._linear_pointwise.default
        self.packed = torch.ops.mkldnn._reorder_linear_weight.default

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        product: Tensor = self.linear(x, weight, bias, "none", [], "")
        return product


@cache
def _onednn() -> _OneDNN | None:
    """None: this torch has it not."""
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        onednn, one = _OneDNN(), torch.ones(1, 1)
        onednn(one, onednn.packed(one, 1), None)
    except (AttributeError, RuntimeError):
        return None
    return onednn


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether all are float32 numbers in this machine's memory, which code beside torch's own can read."""
    return all(
        t is None or (t.device.type == "cpu" and t.dtype == torch.float32 and type(t) in (Tensor, nn.Parameter))
        for t in tensors
    )


def _chosen(rows: int, weight: Tensor, *others: Tensor | None) -> _OneDNN | None:
    """oneDNN, where it is there and worth a call."""
    is_worth_it = rows * weight.numel() >= _WORTH_ONEDNN and torch.backends.mkldnn.enabled
    return _onednn() if is_worth_it and is_plain(weight, *others) else None


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` of matrices, without a gradient.

    >>> dense(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[11.]])
    """
    onednn = _chosen(x.shape[0], weight, x, bias)
    return F.linear(x, weight, bias) if onednn is None else onednn(x, weight, bias)


def dense_of(weight: Tensor, bias: Tensor | None, rows: int) -> Callable[[Tensor], Tensor]:
    """The same of one weight and many `x`, of some `rows` and of the weight's type: it is laid out for that once.

    >>> dense_of(torch.tensor([[3.0, 4.0]]), None, rows=1)(torch.tensor([[1.0, 2.0]]))
    tensor([[11.]])
    """
    onednn = _chosen(rows, weight, bias)
    if onednn is None:
        return lambda x: F.linear(x, weight, bias)
    packed, linear = onednn.packed(weight.contiguous(), rows), onednn
    return lambda x: linear(x, packed, bias)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """`grad^T x`, of rows: the gradient of the weights that have made one of the other.

    The product is the faster one of two that are each other's transpose: that with fewer rows of results.

    >>> weight_gradient(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[3., 4.],
            [6., 8.]])
    """
    return dense(grad.t(), x.t()) if grad.shape[1] <= x.shape[1] else dense(x.t(), grad.t()).t()
