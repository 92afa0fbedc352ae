"""Activations of two populations: those that let negative values through, and those that are gated by their own input."""

from __future__ import annotations

from torch import Tensor, nn

from casc_core.activation import CQReLU, Rounded


class LeakyCQReLU(nn.Module):
    """A leaky ReLU of two populations: `CQReLU(x) - slope * CQReLU(-x)`.

    Args:
        q: levels of each. threshold: of each.
        slope: a number, or a tensor of one slope for all or `[channels]` (dimension 1), which is then a parameter.

    Raises:
        ConfigError: as for `CQReLU`.

    >>> import torch
    >>> LeakyCQReLU(q=4, slope=0.5)(torch.tensor([-0.6, 0.6, 2.0]))
    tensor([-0.2500,  0.5000,  1.0000])
    """

    def __init__(self, q: int, threshold: float = 1.0, slope: float | Tensor = 0.01) -> None:
        super().__init__()
        self.positive, self.negative = CQReLU(q, threshold), CQReLU(q, threshold)
        self.slope: float | Tensor = nn.Parameter(slope.detach().clone()) if isinstance(slope, Tensor) else float(slope)

    def forward(self, input: Tensor) -> Tensor:
        slope = self.slope
        if isinstance(slope, Tensor):
            slope = slope.reshape(-1, *[1] * (input.dim() - 2))
        result: Tensor = self.positive(input) - slope * self.negative(-input)
        return result


class Swish(nn.Module):
    """`x * sigmoid(x)`, both rounded: the product of two populations that read the same.

    `x` is rounded to the nearest of `2 q` levels between `-threshold` and `threshold`, and clipped there.

    Args:
        q: levels of each.
        gate: "sigmoid" (SiLU) or "hardsigmoid" (Hardswish).
        threshold: largest value.

    Raises:
        ConfigError: as for `Rounded`.

    >>> import torch
    >>> Swish(q=6, gate="hardsigmoid", threshold=3.0)(torch.tensor([-4.0, -1.5, 1.0, 4.0]))
    tensor([-0.0000, -0.5000,  0.6667,  3.0000])
    """

    def __init__(self, q: int, gate: str = "sigmoid", threshold: float = 3.0) -> None:
        super().__init__()
        self.value, self.gate = Rounded(q, "hardtanh", threshold), Rounded(q, gate)

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.value(input) * self.gate(input)
        return result

    def as_trained(self) -> nn.Module:
        """Without levels and without the clip."""
        return nn.SiLU() if self.gate.function == "sigmoid" else nn.Hardswish()


class RoundedGLU(nn.Module):
    """A gated linear unit whose gate is rounded: of the halves `a` and `b` of what it reads, `a * sigmoid(b)`.

    Args:
        q: levels of the gate.
        dim: the dimension that is halved.

    Raises:
        ConfigError: as for `Rounded`.

    >>> import torch
    >>> RoundedGLU(q=4)(torch.tensor([[3.0, 2.0, 0.0, 9.0]]))
    tensor([[1.5000, 2.0000]])
    """

    def __init__(self, q: int, dim: int = -1) -> None:
        super().__init__()
        self.gate, self.dim = Rounded(q, "sigmoid"), dim

    def forward(self, input: Tensor) -> Tensor:
        value, gate = input.chunk(2, self.dim)
        result: Tensor = value * self.gate(gate)
        return result
