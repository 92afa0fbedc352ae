"""Small classifiers as users write them: one body, a `forward` of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

TOKENS = torch.randint(0, 11, (7, 6), generator=torch.Generator().manual_seed(1))
LENGTHS = torch.tensor([6, 5, 1, 2, 4, 3, 6])


class Body(nn.Module):
    """Layers for a test's forward; `states(tokens)` gives `[B, L, 5]` (10 if bidirectional)."""

    def __init__(
        self, *, batch_first: bool = True, layers: int = 1, bidirectional: bool = False, width: int = 5, classes: int = 3,
        bias: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.emb = nn.Embedding(11, 4)
        self.rnn = nn.RNN(4, 5, layers, batch_first=batch_first, bidirectional=bidirectional, bias=bias)
        self.act, self.act2 = nn.ReLU(), nn.Tanh()
        self.drop, self.identity, self.flat = nn.Dropout(0.5), nn.Identity(), nn.Flatten()
        self.h, self.h2 = nn.Linear(5, 5, bias=bias), nn.Linear(5, 5, bias=bias)
        self.fc = nn.Linear(width, classes, bias=bias)
        self.head = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Dropout(0.1), nn.Linear(5, classes))
        self.gain = nn.Parameter(torch.zeros(5))
        self.register_buffer("offset", torch.zeros(5))
        self.maxpool, self.meanpool = nn.AdaptiveMaxPool1d(1), nn.AdaptiveAvgPool1d(1)

    def states(self, tokens: Tensor) -> Tensor:
        return self.rnn(self.emb(tokens))[0]


def user_model(forward: Callable[..., Tensor], seed: int = 0, **sizes: object) -> nn.Module:
    """A `Body` with this forward, its weights on the grid 1/64, so that snapping leaves them as they are."""
    model = type("UserModel", (Body,), {"forward": forward})(**sizes)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), model.offset):
            tensor.copy_((torch.rand(tensor.shape, generator=generator) * 2 - 1).mul(64).round() / 64)
    return model.eval()
