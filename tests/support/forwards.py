"""Forwards as users write them, each with the inputs it takes and the sizes of the model that it belongs to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from user_models import LENGTHS, TOKENS

FORWARDS: dict[str, tuple] = {}
ROWS = (torch.randn(7, 5, generator=torch.Generator().manual_seed(2)) * 64).round() / 64
SEQUENCES = (torch.randn(7, 6, 4, generator=torch.Generator().manual_seed(2)) * 64).round() / 64
START = (torch.rand(1, 7, 5, generator=torch.Generator().manual_seed(3)) * 64).round() / 64


def case(*inputs, **sizes):
    def register(forward):
        assert forward.__name__ not in FORWARDS
        FORWARDS[forward.__name__] = (forward, inputs or (TOKENS,), sizes)
        return forward

    return register


def real(tokens, lengths):
    """Mask of the real positions `[B, L]`."""
    return torch.arange(tokens.shape[1])[None, :] < lengths[:, None]


@case()
def sum_over_tokens(self, tokens):
    return self.fc(self.states(tokens).sum(1))


@case()
def mean_over_tokens(self, tokens):
    return self.fc(self.states(tokens).mean(1))


@case()
def mean_over_two_dims(self, tokens):
    return self.fc(self.rnn(self.emb(tokens))[0].unsqueeze(1).mean((1, 2)))


@case()
def relu_after_mean(self, tokens):
    return self.fc(self.act(self.h(self.states(tokens).mean(1))))


@case(TOKENS, LENGTHS)
def masked_mean(self, tokens, lengths):
    o = self.states(tokens)
    m = (real(tokens, lengths)).unsqueeze(-1).float()
    return self.fc((o * m).sum(1) / lengths.unsqueeze(1))


@case(TOKENS, LENGTHS)
def relu_after_masked_mean(self, tokens, lengths):
    o = self.states(tokens)
    m = (real(tokens, lengths)).unsqueeze(-1).float()
    return self.fc(self.act(self.h((o * m).sum(1) / lengths.unsqueeze(1))))


@case(TOKENS)
def mask_from_tokens(self, tokens):
    m = (tokens != 0).unsqueeze(-1)
    return self.fc((self.states(tokens) * m).sum(1) / m.sum(1).clamp(min=1))


@case(TOKENS)
def float_mask_from_tokens(self, tokens):
    m = (tokens != 0).float()
    return self.fc((self.states(tokens) * m.unsqueeze(2)).sum(dim=1) / m.sum(1, keepdim=True))


@case()
def max_values(self, tokens):
    return self.fc(self.states(tokens).max(dim=1).values)


@case()
def max_unpacked(self, tokens):
    v, _ = self.states(tokens).max(1)
    return self.fc(v)


@case()
def torch_max_unpacked(self, tokens):
    v, _ = torch.max(self.states(tokens), 1)
    return self.fc(v)


@case()
def amax(self, tokens):
    return self.fc(self.states(tokens).amax(1))


@case()
def torch_amax(self, tokens):
    return self.fc(torch.amax(self.states(tokens), dim=1))


@case(TOKENS, LENGTHS)
def masked_fill_inf_max(self, tokens, lengths):
    pad = torch.arange(tokens.size(1)).unsqueeze(0) >= lengths.unsqueeze(1)
    return self.fc(self.states(tokens).masked_fill(pad.unsqueeze(-1), float("-inf")).max(1).values)


@case(TOKENS, LENGTHS)
def masked_fill_zero_max(self, tokens, lengths):
    pad = torch.arange(tokens.size(1)).unsqueeze(0) >= lengths.unsqueeze(1)
    return self.fc(self.states(tokens).masked_fill(pad.unsqueeze(-1), 0.0).max(1).values)


@case(TOKENS, LENGTHS)
def masked_fill_huge_max(self, tokens, lengths):
    pad = torch.arange(tokens.size(1)).unsqueeze(0) >= lengths.unsqueeze(1)
    return self.fc(self.states(tokens).masked_fill(pad.unsqueeze(-1), -1e9).max(1).values)


@case(TOKENS, LENGTHS)
def max_of_linear_masked(self, tokens, lengths):
    pad = torch.arange(tokens.size(1)).unsqueeze(0) >= lengths.unsqueeze(1)
    return self.fc(self.h(self.states(tokens)).masked_fill(pad.unsqueeze(-1), float("-inf")).max(1).values)


@case(TOKENS, LENGTHS)
def sum_of_linear_masked(self, tokens, lengths):
    pad = torch.arange(tokens.size(1)).unsqueeze(0) >= lengths.unsqueeze(1)
    return self.fc(self.h(self.states(tokens)).masked_fill(pad.unsqueeze(-1), 0).sum(1))


@case()
def last_token(self, tokens):
    return self.fc(self.states(tokens)[:, -1])


@case()
def last_token_sliced(self, tokens):
    return self.fc(self.states(tokens)[:, -1, :])


@case(TOKENS, LENGTHS)
def last_by_gather(self, tokens, lengths):
    o = self.states(tokens)
    i = (lengths - 1).view(-1, 1, 1).expand(-1, 1, o.size(2))
    return self.fc(o.gather(1, i).squeeze(1))


@case(TOKENS, LENGTHS)
def last_by_torch_gather(self, tokens, lengths):
    o = self.states(tokens)
    i = (lengths - 1).view(-1, 1, 1).expand(-1, -1, o.shape[-1])
    return self.fc(torch.gather(o, 1, i).squeeze(1))


@case(TOKENS, LENGTHS)
def last_by_index(self, tokens, lengths):
    o = self.states(tokens)
    return self.fc(o[torch.arange(o.shape[0]), lengths - 1])


@case(width=10)
def cat_of_pools(self, tokens):
    o = self.states(tokens)
    return self.fc(torch.cat([o.mean(1), o.max(1).values], 1))


@case(width=10)
def cat_of_token_and_relu(self, tokens):
    o = self.states(tokens)
    return self.fc(torch.cat((o[:, 0], self.act(self.h(o[:, -1]))), dim=-1))


@case()
def stack(self, tokens):
    o = self.states(tokens)
    return self.fc(torch.stack([o[:, 0], o[:, -1]], 1).sum(1))


@case()
def stack0(self, tokens):
    o = self.states(tokens)
    return self.fc(torch.stack([o[:, 0], o[:, -1]]).sum(0))


@case(width=9)
def cat_drive_and_spikes(self, tokens):
    e = self.emb(tokens)
    o = self.rnn(e)[0]
    return self.fc(torch.cat([o, e], -1).sum(1))


@case()
def add_branches(self, tokens):
    o = self.states(tokens)
    return self.fc(self.act(self.h(o[:, 0])) + self.act2(self.h2(o[:, 1])))


@case()
def residual(self, tokens):
    o = self.states(tokens)[:, -1]
    return self.fc(o + self.act(self.h(o)))


@case()
def residual_rnn(self, tokens):
    o = self.states(tokens)
    return self.fc((o + self.act(self.h(o))).mean(1))


@case()
def scale_1_3(self, tokens):
    return self.fc(self.act(self.h(self.states(tokens).sum(1) * (1 / 3))))


@case()
def scale_neg(self, tokens):
    return self.fc(self.act(self.h(self.states(tokens).sum(1) * -0.5)))


@case()
def rdiv_neg_into_relu_directly(self, tokens):
    return self.fc(self.act(-self.h(self.states(tokens)[:, 0])))


@case()
def scaled_into_relu_directly(self, tokens):
    return self.fc(self.act(self.h(self.states(tokens)[:, 0]) * (1 / 3)))


@case()
def times_third_add(self, tokens):
    o = self.states(tokens)
    return self.fc(self.act(self.h(o[:, 0]) * (1 / 3) + o[:, 1]))


@case()
def sub(self, tokens):
    o = self.states(tokens)
    return self.fc(o[:, 0] - o[:, 1])


@case()
def sub_torch_alpha(self, tokens):
    o = self.states(tokens)
    return self.fc(torch.add(o[:, 0], o[:, 1], alpha=2) - torch.sub(o[:, 2], o[:, 3], alpha=0.5))


@case()
def neg_max(self, tokens):
    return self.fc((-self.states(tokens)).max(1).values)


@case(TOKENS, LENGTHS)
def neg_fill_max(self, tokens, lengths):
    pad = torch.arange(tokens.size(1)).unsqueeze(0) >= lengths.unsqueeze(1)
    return self.fc((-self.states(tokens)).masked_fill(pad.unsqueeze(-1), float("-inf")).amax(1))


@case(bidirectional=True)
def chunk(self, tokens):
    a, b = self.states(tokens).chunk(2, dim=-1)
    return self.fc(a[:, -1] + b[:, 0])


@case(bidirectional=True)
def torch_chunk(self, tokens):
    a, b = torch.chunk(self.states(tokens), 2, -1)
    return self.fc(a[:, -1] + b[:, 0])


@case(bidirectional=True)
def split(self, tokens):
    a, b = self.states(tokens).split(5, dim=2)
    return self.fc(a[:, -1] + b[:, 0])


@case(bidirectional=True)
def torch_split(self, tokens):
    a, b = torch.split(self.states(tokens), [5, 5], 2)
    return self.fc((a - b).mean(1))


@case()
def unbind(self, tokens):
    x = self.rnn(self.emb(tokens))[1].unbind(0)
    return self.fc(x[0])


@case(layers=2)
def unbind2(self, tokens):
    a, b = self.rnn(self.emb(tokens))[1].unbind(0)
    return self.fc(a + b)


@case(bidirectional=True)
def view_bi(self, tokens):
    o = self.states(tokens)
    o = o.view(o.size(0), o.size(1), 2, 5)
    return self.fc(o[:, -1, 0] + o[:, 0, 1])


@case(bidirectional=True)
def slices_bi(self, tokens):
    o = self.states(tokens)
    return self.fc(o[:, -1, :5] + o[:, 0, 5:])


@case(width=30)
def reshape(self, tokens):
    o = self.states(tokens)
    return self.fc(o.reshape(o.shape[0], -1))


@case(width=30)
def flatten_fn(self, tokens):
    return self.fc(torch.flatten(self.states(tokens), 1))


@case(width=30)
def flatten_method(self, tokens):
    return self.fc(self.states(tokens).flatten(1))


@case(width=30)
def flatten(self, tokens):
    return self.fc(self.flat(self.states(tokens)))


@case()
def permute_amp(self, tokens):
    return self.fc(self.maxpool(self.states(tokens).permute(0, 2, 1)).squeeze(-1))


@case()
def permute_aap(self, tokens):
    return self.fc(self.meanpool(self.states(tokens).transpose(1, 2)).squeeze(2))


@case()
def f_amp(self, tokens):
    return self.fc(F.adaptive_max_pool1d(self.states(tokens).transpose(1, 2), 1).squeeze(2))


@case()
def t(self, tokens):
    return self.fc(self.states(tokens)[:, -1].T.t())


@case()
def mt(self, tokens):
    return self.fc(self.states(tokens).mT.amax(-1))


@case()
def dropout(self, tokens):
    return self.fc(self.drop(self.states(tokens)[:, -1]))


@case()
def f_dropout(self, tokens):
    return self.fc(F.dropout(self.states(tokens)[:, -1], 0.5, self.training))


@case()
def f_dropout_kw(self, tokens):
    return self.fc(F.dropout(self.states(tokens)[:, -1], p=0.5, training=self.training))


@case()
def f_relu(self, tokens):
    return self.fc(F.relu(self.h(self.states(tokens)[:, -1])))


@case()
def torch_relu(self, tokens):
    return self.fc(torch.relu(self.h(self.states(tokens)[:, -1])))


@case()
def x_relu(self, tokens):
    return self.fc(self.h(self.states(tokens)[:, -1]).relu())


@case()
def torch_tanh(self, tokens):
    return self.fc(torch.tanh(self.h(self.states(tokens)[:, -1])))


@case()
def f_relu_dropout(self, tokens):
    return self.fc(F.dropout(F.relu(self.h(self.states(tokens)[:, -1])), 0.3, training=self.training))


@case()
def relu_twice(self, tokens):
    return self.fc(self.act(self.h2(self.act(self.h(self.states(tokens)[:, -1])))))


@case()
def relu_on_spikes(self, tokens):
    return self.fc(self.act(self.states(tokens)[:, -1]))


@case()
def two_linear(self, tokens):
    return self.fc(self.h(self.states(tokens)[:, -1]))


@case()
def three_linear_relu(self, tokens):
    return self.fc(self.act(self.h2(self.h(self.states(tokens)).mean(1))))


@case()
def linear_on_embedding_relu(self, tokens):
    return self.fc(self.act(self.rnn(self.emb(tokens))[0].sum(1)))


@case()
def embedding_call(self, tokens):
    return self.fc(
        self.states(tokens)[:, -1] + self.h2(self.act(F.pad(F.embedding(tokens, self.emb.weight), (0, 1)).sum(1)))
    )


@case()
def param_add(self, tokens):
    return self.fc(self.act(self.h(self.states(tokens)[:, -1]) + self.gain))


@case()
def buf_add(self, tokens):
    return self.fc(self.states(tokens)[:, -1] + self.offset)


@case(width=5)
def param_add_last(self, tokens):
    return self.fc(self.states(tokens)[:, -1]) + self.gain[:3]


@case(batch_first=False)
def time_major_state(self, tokens):
    _, h = self.rnn(self.emb(tokens.t()))
    return self.fc(h[-1])


@case(batch_first=False)
def time_major_mean(self, tokens):
    o, _ = self.rnn(self.emb(tokens).transpose(0, 1))
    return self.fc(o.mean(0))


@case(batch_first=False)
def time_major_max(self, tokens):
    o, _ = self.rnn(self.emb(tokens).permute(1, 0, 2))
    return self.fc(o.max(0)[0])


@case()
def hx_zeros(self, tokens):
    h0 = torch.zeros(1, tokens.size(0), 5)
    o, _ = self.rnn(self.emb(tokens), h0)
    return self.fc(o[:, -1])


@case(TOKENS, START)
def hx_given(self, tokens, h0):
    o, _ = self.rnn(self.emb(tokens), h0)
    return self.fc(o[:, -1])


@case()
def hn_squeeze(self, tokens):
    _, h = self.rnn(self.emb(tokens))
    return self.fc(h.squeeze(0))


@case(layers=2)
def hn_1(self, tokens):
    _, h = self.rnn(self.emb(tokens))
    return self.fc(h[-1])


@case(layers=2, bidirectional=True, width=10)
def hn_cat(self, tokens):
    _, h = self.rnn(self.emb(tokens))
    return self.fc(torch.cat((h[-2], h[-1]), dim=1))


@case(layers=2, bidirectional=True, width=10)
def hn_cat2(self, tokens):
    _, h = self.rnn(self.emb(tokens))
    return self.fc(torch.cat((h[-2, :, :], h[-1, :, :]), dim=1))


@case(layers=2, bidirectional=True, width=10)
def hn_view(self, tokens):
    _, h = self.rnn(self.emb(tokens))
    h = h.view(2, 2, -1, 5)[-1]
    return self.fc(torch.cat([h[0], h[1]], 1))


@case(bidirectional=True, width=10)
def hn_permute(self, tokens):
    _, h = self.rnn(self.emb(tokens))
    return self.fc(h.permute(1, 0, 2).reshape(tokens.size(0), -1))


@case(bidirectional=True, width=10)
def hn_permute2(self, tokens):
    _, h = self.rnn(self.emb(tokens))
    return self.fc(h.transpose(0, 1).contiguous().view(-1, 10))


@case(bidirectional=True)
def hn_sum(self, tokens):
    _, h = self.rnn(self.emb(tokens))
    return self.fc(h.sum(0))


@case(bidirectional=True)
def hn_mean(self, tokens):
    _, h = self.rnn(self.emb(tokens))
    return self.fc(h.mean(dim=0))


@case(ROWS)
def float_linear(self, x):
    return self.fc(self.act(self.h(x)))


@case(ROWS)
def float_linear_direct_relu(self, x):
    return self.fc(self.act(x))


@case(SEQUENCES)
def float_rnn(self, x):
    return self.fc(self.rnn(x)[0].mean(1))


@case(SEQUENCES)
def float_rnn_scaled(self, x):
    return self.fc(self.rnn(x * 0.5)[0].mean(1))


@case(TOKENS)
def emb_scaled(self, tokens):
    return self.fc(self.rnn(self.emb(tokens) * 0.5)[0].mean(1))


@case(TOKENS)
def emb_scaled_sqrt(self, tokens):
    return self.fc(self.rnn(self.emb(tokens) * 2.0)[0].mean(1))


@case(TOKENS)
def emb_plus_pos(self, tokens):
    return self.fc(self.rnn(self.emb(tokens) + self.emb(torch.arange(tokens.shape[1])))[0].mean(1))


@case(TOKENS)
def emb_dropout(self, tokens):
    return self.fc(self.rnn(self.drop(self.emb(tokens)))[0].mean(1))


@case(TOKENS, LENGTHS)
def optional_len(self, tokens, lengths=None):
    o = self.states(tokens)
    if lengths is None:
        return self.fc(o.mean(1))
    m = (real(tokens, lengths)).unsqueeze(-1)
    return self.fc((o * m).sum(1) / lengths[:, None])


@case()
def keepdim(self, tokens):
    return self.fc(self.states(tokens).mean(1, keepdim=True).squeeze(1))


@case()
def torch_mean(self, tokens):
    return self.fc(torch.mean(self.states(tokens), dim=1))


@case()
def torch_sum(self, tokens):
    return self.fc(torch.sum(self.states(tokens), 1))


@case(TOKENS, LENGTHS)
def mean_of_mean_times(self, tokens, lengths):
    o = self.states(tokens)
    a = o.sum(1) / lengths[:, None]
    b = o.max(1).values
    return self.fc(self.act(self.h(a) + self.h2(b)))


@case(TOKENS, LENGTHS, width=10)
def cat_mean_max_masked_relu(self, tokens, lengths):
    o = self.states(tokens)
    a = o.sum(1) / lengths[:, None]
    b = o.max(1).values
    return self.fc(torch.cat([a, b], 1))


@case()
def select_method(self, tokens):
    return self.fc(self.states(tokens).select(1, -1))


@case()
def narrow(self, tokens):
    return self.fc(self.states(tokens).narrow(1, 1, 3).mean(1))


@case()
def slice_mean(self, tokens):
    return self.fc(self.states(tokens)[:, 1:-1].mean(1))


@case()
def flip(self, tokens):
    return self.fc(self.states(tokens).flip(1)[:, 0])


@case()
def step_slices(self, tokens):
    return self.fc(self.states(tokens)[:, ::2].mean(1))


@case()
def ellipsis(self, tokens):
    return self.fc(self.states(tokens)[..., -1, :])


@case()
def two_sums(self, tokens):
    o = self.states(tokens)
    return self.fc(sum([o[:, 0], o[:, 1], o[:, 2]]))


@case()
def loop_cells_static(self, tokens):
    o = self.states(tokens)
    acc = o[:, 0]
    for i in range(1, 4):
        acc = acc + o[:, i]
    return self.fc(acc)


@case(TOKENS, LENGTHS)
def masked_by_method_mul(self, tokens, lengths):
    m = (tokens > 0).long()
    o = self.states(tokens) * m[..., None]
    return self.fc(o.sum(1) / m.sum(1)[:, None].float())


@case(TOKENS)
def mask_type_as(self, tokens):
    o = self.states(tokens)
    m = (tokens > 0).unsqueeze(-1).type_as(o)
    return self.fc((o * m).sum(1) / m.sum(1))


@case(TOKENS)
def mask_to_dtype(self, tokens):
    o = self.states(tokens)
    m = (tokens > 0).unsqueeze(-1).to(o.dtype)
    return self.fc((o * m).sum(1) / m.sum(1).clamp(min=1e-9))


@case(width=30)
def size_unpack(self, tokens):
    o = self.states(tokens)
    b, length, d = o.shape
    return self.fc(o.reshape(b, length * d))


@case(width=30)
def size_call_unpack(self, tokens):
    o = self.states(tokens)
    b, length, d = o.size()
    return self.fc(o.reshape(b, length * d))


@case(TOKENS)
def sum_size(self, tokens):
    o = self.states(tokens)
    return self.fc(o.sum(1) / o.size(1))


@case()
def rnn_twice_same_module(self, tokens):
    return self.fc(self.states(tokens)[:, -1] + self.states(tokens.flip(1))[:, -1])


@case()
def kw_call_input(self, tokens):
    return self.fc(self.rnn(input=self.emb(input=tokens))[0].mean(dim=1))


@case()
def sequential_head(self, tokens):
    return self.head(self.states(tokens)[:, -1])


@case(bias=False)
def without_biases(self, tokens):
    return self.fc(self.act(self.h(self.states(tokens).mean(1))))


@case()
def identity_and_contiguous(self, tokens):
    return self.fc(self.identity(self.states(tokens)).contiguous()[:, -1])


@case(bidirectional=True, width=10)
def state_of_both_directions_by_view(self, tokens):
    _, h = self.rnn(self.emb(tokens))
    return self.fc(h.transpose(0, 1).contiguous().view(-1, 10))


@case(batch_first=False)
def view_of_a_time_major_output(self, tokens):
    o, _ = self.rnn(self.emb(tokens.t()))
    rows = self.fc(o.view(-1, 5))
    return rows.view(tokens.size(1), tokens.size(0), 3).sum(0)


@case()
def augmented_assignment(self, tokens):
    x = self.h(self.states(tokens)[:, 0])
    x += self.offset
    x *= 2
    x -= self.gain
    return self.fc(x)


@case()
def initial_state_like_a_parameter(self, tokens):
    start = next(self.parameters()).new_zeros(1, tokens.size(0), 5)
    return self.fc(self.rnn(self.emb(tokens), start)[0][:, -1])


@case()
def initial_state_of_a_tutorial(self, tokens):
    start = torch.zeros(1, tokens.size(0), 5).requires_grad_().to(tokens.device)
    return self.fc(self.rnn(self.emb(tokens), start.detach())[0][:, -1])


@case()
def argument_with_a_default(self, tokens, position=2, pooled=False):
    o = self.states(tokens)
    return self.fc(o.mean(1) if pooled else o[:, position])


@case()
def inputs_changed_by_methods_in_place(self, tokens):
    weights = (tokens > 3).float().mul_(2.0).add_(1.0)
    return self.fc((self.states(tokens) * weights.unsqueeze(-1)).sum(1))


@case()
def maximum_of_two_scales(self, tokens):
    o = self.states(tokens)
    return self.fc(torch.stack([o[:, 0] * 0.25, o[:, 1]], 1).max(1)[0])
