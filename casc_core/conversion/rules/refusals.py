"""What cannot be exact, why, and what to do instead."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from casc_core.conversion.rules.reduction import INDICES
from casc_core.conversion.rules.table import RULES
from casc_core.conversion.tracing.randomness import RANDOM

UNPREPARED = (
    "it is an activation that spikes cannot reproduce; call casc_core.prepare(model, q=...) first, and train it"
)
_SMOOTH = "a smooth activation has no spiking equal; replace it by nn.ReLU, then prepare and train"
_SLOPE = "its slope is an argument of a function, or random; use an nn.LeakyReLU() or nn.PReLU() module"
_NORM = (
    "normalisation over features divides by a statistic of the spikes themselves; remove it, or use BatchNorm, whose "
    "statistics are fixed after training"
)
_ATTENTION = "attention multiplies spike trains with each other; use a recurrent layer or a pooling in its place"
_LEAVES = (
    "it takes a number out of a spiking tensor, and spikes must travel on as tensors; use torch's operations on it"
)
_PROBABILITY = "exponentials do not travel as spikes; return the logits and apply it to the converted network's output"
_PACKED = (
    "packed sequences hide the layout that neurons need; use casc_seq.RNN and pass it the padded tensor and lengths=..., "
    "which computes the same"
)

RULES.refuse(
    UNPREPARED, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Threshold, nn.Tanh, nn.Sigmoid, nn.Hardsigmoid, nn.Softsign,
    nn.Hardswish, nn.SiLU, nn.LeakyReLU, nn.PReLU, nn.RNN, nn.GRU, nn.LSTM, F.relu, F.relu_, torch.relu,
    torch.relu_, "relu", "relu_",
    torch.tanh, torch.tanh_, F.tanh, "tanh", "tanh_", torch.sigmoid, torch.sigmoid_, F.sigmoid, "sigmoid", "sigmoid_",
    F.hardsigmoid, F.softsign, F.hardswish, F.silu, F.leaky_relu, F.leaky_relu_,
)  # fmt: skip
RULES.refuse(
    _SMOOTH, nn.GELU, nn.ELU, nn.SELU, nn.CELU, nn.Softplus, nn.Mish, nn.LogSigmoid, F.gelu, F.elu, F.selu, F.celu,
    F.softplus, F.mish, F.logsigmoid,
)  # fmt: skip
RULES.refuse(_SLOPE, nn.RReLU, F.prelu, F.rrelu)
RULES.refuse(
    _NORM, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LocalResponseNorm,
    nn.RMSNorm, F.layer_norm, F.group_norm, F.instance_norm, F.local_response_norm, F.rms_norm, F.normalize,
)  # fmt: skip
RULES.refuse(
    _ATTENTION, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.TransformerDecoderLayer,
    nn.Transformer, F.scaled_dot_product_attention,
)  # fmt: skip
RULES.refuse(
    RANDOM, torch.rand, torch.randn, torch.rand_like, torch.randn_like, torch.randint, torch.randint_like, torch.randperm,
    torch.normal, torch.poisson, torch.binomial, torch.multinomial, torch.bernoulli, torch.native_dropout, torch.rrelu,
    torch.rrelu_, F.gumbel_softmax, F.fractional_max_pool2d, F.fractional_max_pool3d, "bernoulli", "bernoulli_",
    "multinomial", "normal_", "uniform_", "random_", "exponential_", "geometric_", "cauchy_", "log_normal_",
)  # fmt: skip
RULES.refuse(_LEAVES, "item", "tolist", "numpy", "__array__")
RULES.refuse(
    _PROBABILITY, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, F.softmax, F.log_softmax, torch.softmax, torch.log_softmax,
    "softmax", "log_softmax", torch.exp, "exp",
)  # fmt: skip
RULES.refuse(
    INDICES, F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.adaptive_max_pool1d_with_indices,
    F.adaptive_max_pool2d_with_indices,
)  # fmt: skip
RULES.refuse(_PACKED, nn.utils.rnn.pack_padded_sequence, nn.utils.rnn.pad_packed_sequence, nn.utils.rnn.pack_sequence)
RULES.refuse(
    "a loop over cells hides the recurrence; use nn.RNN, nn.GRU or nn.LSTM over the whole sequence", nn.RNNCell, nn.GRUCell,
    nn.LSTMCell,
)  # fmt: skip
RULES.refuse("use nn.Embedding followed by a sum or a mean over the tokens", nn.EmbeddingBag, F.embedding_bag)
RULES.refuse(
    "it gives places, which do not travel as spikes; return the logits and apply it to the converted network's output",
    torch.argmax, "argmax", torch.argmin, "argmin", torch.topk, "topk", torch.sort, "sort", torch.argsort, "argsort",
)  # fmt: skip
RULES.refuse(
    "write it as relu(x) + relu(-x), then prepare and train", torch.abs, "abs", "abs_", torch.absolute, "absolute"
)
RULES.refuse(_NORM, torch.std, "std", torch.var, "var", torch.var_mean, torch.std_mean)
RULES.refuse(
    "write it as a product: a, b = x.chunk(2, dim), then a * torch.sigmoid(b), which a preparation rounds",
    nn.GLU,
    F.glu,
)
