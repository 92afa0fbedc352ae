"""What cannot be exact, why, and what to do instead."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from casc_core.conversion.rules.table import RULES
from casc_core.conversion.tracing.randomness import RANDOM


def _functions(names: str, *owners: Any) -> set[Any]:
    """The functions of these names in some modules (those that this torch has), by default in `torch.nn.functional`."""
    return {getattr(owner, name) for owner in owners or (F,) for name in names.split() if hasattr(owner, name)}


def _with_methods(names: str, *owners: Any) -> set[Any]:
    """The same functions of `torch`, and the methods of these names."""
    return {*names.split(), *_functions(names, torch, *owners)}


UNPREPARED = (
    "it is an activation that spikes cannot reproduce; call casc_core.prepare(model, q=...) first, and train it"
)
_OF_LEVELS = "of levels it is exact: put nn.ReLU() or nn.Hardtanh(-3, 3) before it, which a preparation quantises"
_SMOOTH = (
    "a smooth activation has no spiking equal; replace it by nn.ReLU, or by {} which is nearer to it, then prepare and "
    f"train. Or quantise before it: {_OF_LEVELS}"
)
_SLOPE = "its slope is an argument of a function, or random; use an nn.LeakyReLU() or nn.PReLU() module"
_NORM = (
    "normalisation over features divides by a statistic of the spikes themselves; remove it, or use BatchNorm, whose "
    "statistics are fixed after training"
)
_ATTENTION = (
    "its softmax takes exponentials, which do not travel as spikes; write attention with a ReLU in its place: "
    "torch.relu(q @ k.transpose(-2, -1) * scale) @ v / length, whose products are exact"
)
_LEAVES = (
    "it takes a number out of a spiking tensor, and spikes must travel on as tensors; use torch's operations on it"
)
_PROBABILITY = (
    "exponentials do not travel as spikes; return the logits and apply it to the converted network's output; in an "
    "attention, put torch.relu(scores) / length in its place"
)
_PACKED = (
    "packed sequences hide the layout that neurons need; use casc_seq.RNN and pass it the padded tensor and lengths=..., "
    "which computes the same"
)

RULES.refuse(
    UNPREPARED, nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Threshold, nn.Tanh, nn.Sigmoid, nn.Hardsigmoid, nn.Softsign,
    nn.Hardswish, nn.SiLU, nn.GLU, nn.LeakyReLU, nn.PReLU, trace_overrides=True,
)  # fmt: skip
RULES.refuse(
    UNPREPARED, nn.RNN, nn.GRU, nn.LSTM, F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_",
    torch.tanh, torch.tanh_, F.tanh, "tanh", "tanh_", torch.sigmoid, torch.sigmoid_, F.sigmoid, "sigmoid", "sigmoid_",
    F.hardsigmoid, F.softsign, F.hardswish, F.silu, F.glu, F.leaky_relu, F.leaky_relu_,
)  # fmt: skip
RULES.refuse(_SMOOTH.format("nn.SiLU or nn.Hardswish,"), nn.GELU, nn.Mish, F.gelu, F.mish)
RULES.refuse(
    _SMOOTH.format("nn.LeakyReLU,"), nn.ELU, nn.SELU, nn.CELU, F.elu, F.elu_, F.selu, F.celu, torch.selu, torch.selu_,
    torch.celu, torch.celu_,
)  # fmt: skip
RULES.refuse(
    "a smooth activation has no spiking equal; replace it by nn.ReLU (of -x, where it is negative), then prepare and "
    f"train. Or quantise before it: {_OF_LEVELS}",
    nn.Softplus, nn.LogSigmoid, F.softplus, F.logsigmoid,
)  # fmt: skip
RULES.refuse(
    "write it as relu(x - lambd) - relu(-x - lambd), then prepare and train", nn.Softshrink, F.softshrink, nn.Hardshrink,
    F.hardshrink, "hardshrink",
)  # fmt: skip
RULES.refuse("write it as x - torch.tanh(x), then prepare and train", nn.Tanhshrink, F.tanhshrink)
RULES.refuse(_SLOPE, nn.RReLU, F.prelu, "prelu", F.rrelu)
RULES.refuse(
    _NORM, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LocalResponseNorm,
    nn.RMSNorm, nn.CrossMapLRN2d, F.layer_norm, F.group_norm, F.instance_norm, F.local_response_norm, F.rms_norm,
    F.normalize, torch.norm, "norm", torch.linalg.norm, torch.linalg.vector_norm,
)  # fmt: skip
RULES.refuse(
    _ATTENTION, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.TransformerDecoderLayer,
    nn.TransformerDecoder, nn.Transformer, F.scaled_dot_product_attention, F.multi_head_attention_forward,
)  # fmt: skip
RULES.refuse(
    RANDOM, torch.rand, torch.randn, torch.rand_like, torch.randn_like, torch.randint, torch.randint_like, torch.randperm,
    torch.normal, torch.poisson, torch.binomial, torch.multinomial, torch.bernoulli, torch.native_dropout, torch.rrelu,
    torch.rrelu_, F.gumbel_softmax, F.fractional_max_pool2d, F.fractional_max_pool3d, F.fractional_max_pool2d_with_indices,
    F.fractional_max_pool3d_with_indices, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d, "bernoulli", "bernoulli_",
    "multinomial", "normal_", "uniform_", "random_", "exponential_", "geometric_", "cauchy_", "log_normal_", anywhere=True,
)  # fmt: skip
RULES.refuse(_LEAVES, "item", "tolist", "numpy", "__array__")
RULES.refuse(
    _PROBABILITY, nn.Softmax, nn.Softmin, nn.Softmax2d, nn.LogSoftmax, nn.AdaptiveLogSoftmaxWithLoss, F.softmin,
    *_with_methods("softmax log_softmax", F), *_with_methods("exp exp2 expm1 log log1p log2 log10 logsumexp"),
)  # fmt: skip
RULES.refuse(
    "it needs the indices of a maximum, which do not travel as spikes; enlarge by nn.Upsample or nn.ConvTranspose2d",
    nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d, F.max_unpool1d, F.max_unpool2d, F.max_unpool3d,
)  # fmt: skip
RULES.refuse(
    "roots and powers of spikes are not exact; use an average pool or a maximum pool", nn.LPPool1d, nn.LPPool2d,
    nn.LPPool3d, F.lp_pool1d, F.lp_pool2d, F.lp_pool3d,
)  # fmt: skip
RULES.refuse("it adds up windows that overlap; use nn.ConvTranspose2d", nn.Fold, F.fold)
RULES.refuse(
    "it is transposed in three dimensions; use nn.Upsample(scale_factor=2) and nn.Conv3d", nn.ConvTranspose3d,
    F.conv_transpose3d,
)  # fmt: skip
RULES.refuse("its layout is another than the rest of torch has; use nn.Conv1d", F.conv_tbc, "conv_tbc")
RULES.refuse(
    "it divides by a norm of the spikes themselves; return what it compares, and compare the converted network's outputs",
    nn.CosineSimilarity, nn.PairwiseDistance, F.cosine_similarity, F.pairwise_distance, F.pdist, torch.cdist, torch.dist,
    "dist",
)  # fmt: skip
RULES.refuse(
    "it reads places between entries, which the inputs name; use F.interpolate, or a convolution", F.grid_sample,
    F.affine_grid,
)  # fmt: skip
RULES.refuse(
    "its sizes are not known yet; call the model on a batch once, in which it becomes a layer of known sizes",
    nn.modules.lazy.LazyModuleMixin,
)
RULES.refuse("it makes vectors of ids; use an nn.Embedding, of the unit matrix if need be", F.one_hot)
RULES.refuse(
    "it multiplies in groups, or in types of few bits; use nn.Linear, for each group",
    *_functions("grouped_mm scaled_grouped_mm scaled_mm"),
)
RULES.refuse(
    "a loss is taken of the logits, outside of the network that is converted: return the logits",
    nn.modules.loss._Loss,
    *_functions(
        "binary_cross_entropy binary_cross_entropy_with_logits cosine_embedding_loss cross_entropy ctc_loss "
        "gaussian_nll_loss hinge_embedding_loss huber_loss kl_div l1_loss linear_cross_entropy margin_ranking_loss "
        "mse_loss multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss nll_loss poisson_nll_loss "
        "smooth_l1_loss soft_margin_loss triplet_margin_loss triplet_margin_with_distance_loss"
    ),
)
RULES.refuse(
    _PACKED,
    nn.utils.rnn.pack_padded_sequence,
    nn.utils.rnn.pad_packed_sequence,
    nn.utils.rnn.pack_sequence,
    anywhere=True,
)
RULES.refuse(
    "a loop over cells hides the recurrence; use nn.RNN, nn.GRU or nn.LSTM over the whole sequence", nn.RNNCellBase,
    nn.RNNBase,
)  # fmt: skip
RULES.refuse("use nn.Embedding followed by a sum or a mean over the tokens", nn.EmbeddingBag, F.embedding_bag)
RULES.refuse(
    "it gives places, or an order, which do not travel as spikes; in the middle of a network take a maximum (x.amax(dim)), "
    "at its end return the logits and apply it to the converted network's output",
    torch.argmax, "argmax", torch.argmin, "argmin", torch.topk, "topk", torch.sort, "sort", torch.argsort, "argsort",
)  # fmt: skip
RULES.refuse(
    f"write it as relu(x) + relu(-x), then prepare and train; {_OF_LEVELS}",
    torch.abs,
    "abs",
    "abs_",
    torch.absolute,
    "absolute",
)
RULES.refuse(
    "it orders the entries of a spiking tensor; take a maximum, or a mean",
    *_with_methods("median nanmedian mode kthvalue quantile msort"),
)
RULES.refuse(
    "it compares a spiking tensor, and what it gives would jump. An activation's output may be compared with a number: "
    "torch.relu(x) > 0.5. For x * (x > 0) write torch.relu(x), and write a gate as a * torch.sigmoid(b), which a "
    "preparation rounds; or compute a mask from the inputs alone",
    *_with_methods("eq ne lt le gt ge", operator),
    *_with_methods("sign sgn heaviside isclose logical_not"),
)
RULES.refuse(
    f"rounding jumps; an activation that rounds is casc_core.CQReLU, or casc_core.Rounded; {_OF_LEVELS}",
    *_with_methods("floor ceil round trunc fix frac floor_divide remainder fmod"),
    operator.floordiv,
    operator.mod,
)
RULES.refuse(
    "only sums and products of spikes are exact; put an activation that is (ReLU, sigmoid, tanh) in its place, then "
    f"prepare and train. Or quantise before it: {_OF_LEVELS}",
    *_with_methods("sqrt rsqrt reciprocal sin cos tan asin acos atan sinh cosh erf erfc atan2 hypot prod cumprod"),
)
RULES.refuse(
    "it sums along a dimension step by step; multiply by a matrix of ones below the diagonal: x @ torch.ones(n, n).triu()",
    *_with_methods("cumsum"),
)
RULES.refuse(_NORM, torch.std, "std", torch.var, "var", torch.var_mean, torch.std_mean)
