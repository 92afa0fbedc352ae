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

_Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@cache
def _onednn() -> _Linear | None:
    """`x W^T + b` by oneDNN; None: this torch has it not."""
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        operator = torch.ops.mkldnn._linear_pointwise.default
        one = torch.ones(1, 1)
        operator(one, one, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    return lambda x, weight, bias: operator(x, weight, bias, "none", [], "")


def is_plain(*tensors: Tensor | None) -> bool:
    """Whether all are float32 numbers in this machine's memory, which code beside torch's own can read."""
    return all(
        t is None or (t.device.type == "cpu" and t.dtype == torch.float32 and type(t) in (Tensor, nn.Parameter))
        for t in tensors
    )


def dense(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear` of matrices, without a gradient.

    >>> dense(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[11.]])
    """
    operator = _onednn() if is_plain(x, weight, bias) and torch.backends.mkldnn.enabled else None
    return F.linear(x, weight, bias) if operator is None else operator(x, weight, bias)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """`grad^T x`, of rows: the gradient of the weights that have made one of the other.

    The product is the faster one of two that are each other's transpose: that with fewer rows of results.

    >>> weight_gradient(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[3., 4.],
            [6., 8.]])
    """
    return dense(grad.t(), x.t()) if grad.shape[1] <= x.shape[1] else dense(x.t(), grad.t()).t()
