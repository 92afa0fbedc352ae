"""Rules of linear layers and embeddings."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from casc_core.conversion.graph import InputNode, LinearMap, SignalNode, TableLookup
from casc_core.conversion.passes.read import Reader
from casc_core.conversion.rules.table import RULES
from casc_core.engine.ops import Layout


def linear_map(reader: Reader, x: SignalNode, weight: Tensor, bias: Tensor | None, name: str) -> SignalNode:
    """`x @ weight.T + bias`; later passes fold into it the factors, normalisations and tables before and behind it.

    Args:
        x: the signal that it reads.
        weight: `[outputs, inputs]`; a parameter, or computed from parameters.
        bias: `[outputs]`, or None.
        name: that errors give it, such as `reader.name`.
    """
    return reader.add(LinearMap(x, weight.detach().double(), None if bias is None else bias.detach().double(), name))


def parameters(reader: Reader, weight: Any, bias: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a functional call, which must be parameters as they stand."""
    known, known_bias = reader.constant(weight), reader.constant(bias)
    if known is None or (bias is not None and known_bias is None):
        raise reader.refuse(
            "its weights are computed in the forward, and only parameters as they stand can be snapped; compute them once, "
            "after training, and hold the result as a parameter"
        )
    return known, known_bias


@RULES.module(nn.Linear, trace_overrides=True)
def _linear_module(reader: Reader, module: nn.Linear, input: Any) -> SignalNode:
    return linear_map(reader, reader.signal(input), module.weight, module.bias, reader.name)


def linear_call(reader: Reader, input: Any, weight: Any, bias: Any) -> SignalNode:
    """`F.linear` with parameters, a matrix of weights or a vector."""
    known, known_bias = parameters(reader, weight, bias)
    if known.dim() == 2:
        return linear_map(reader, reader.signal(input), known, known_bias, reader.name)
    result = linear_map(reader, reader.signal(input), known.unsqueeze(0), known_bias, reader.name)
    return reader.apply(Layout(function="torch.squeeze"), result, -1)


@RULES.module(nn.Embedding)
def _embedding(reader: Reader, module: nn.Embedding, input: Any) -> SignalNode:
    return _embedded(reader, input, module.weight, module.max_norm)


@RULES.function(F.embedding)
def _embedding_call(
    reader: Reader, input: Any, weight: Any, padding_idx: int | None = None, max_norm: float | None = None,
    norm_type: float = 2.0, scale_grad_by_freq: bool = False, sparse: bool = False,
) -> SignalNode:  # fmt: skip
    return _embedded(reader, input, parameters(reader, weight, None)[0], max_norm)


def _embedded(reader: Reader, tokens: Any, table: Tensor, max_norm: float | None) -> SignalNode:
    if max_norm is not None:
        raise reader.refuse(
            "max_norm rescales the table while it runs; renormalise the weights once and set max_norm=None"
        )
    if not isinstance(tokens, InputNode):
        raise reader.refuse("its token ids come from spiking neurons; an embedding can only read the input")
    return reader.add(TableLookup(tokens, table.detach().double(), reader.name))
