"""Are products of matrices on a GPU sums of whole products? Proofs that a sum is exact rest on it.

IEEE arithmetic is, in any order. What libraries can be told to compute in its place (TF32, float64 on units for fewer bits,
as by CUBLAS_EMULATE_DOUBLE_PRECISION) may not be.
"""

from __future__ import annotations

from functools import cache

import torch

from casc_core.errors import ExactnessError

# Libraries choose their method by shape: a small product and a large one.
_SHAPES = ((32, 64, 32), (256, 300, 256))
_BITS = {torch.float32: 24, torch.float64: 53}


def require_exact_products(device: torch.device) -> None:
    """Refuse a GPU whose products of matrices round where no sum has to; a trial, made once.

    Raises:
        ExactnessError: they do.

    >>> require_exact_products(torch.device("cpu"))
    """
    if device.type == "cpu":
        return
    kind = next((kind for kind in _BITS if not sums_exactly(device, kind)), None)
    if kind is not None:
        raise ExactnessError(
            f"products of matrices on {device} round {kind} that holds their sums; do not ask for an emulation of it "
            "(CUBLAS_EMULATE_DOUBLE_PRECISION, CUBLAS_EMULATE_SINGLE_PRECISION), or run the network on the CPU"
        )


@cache
def sums_exactly(device: torch.device, kind: torch.dtype) -> bool:
    """Whether sums next to the largest integers of this type are right, large and small weights side by side.

    >>> sums_exactly(torch.device("cpu"), torch.float32)
    True
    """
    generator = torch.Generator().manual_seed(0)
    for rows, inner, columns in _SHAPES:
        most = 2 ** _BITS[kind] // (8 * inner)
        x = torch.randint(-8, 9, (rows, inner), generator=generator, device="cpu").double()
        weight = torch.randint(-most + 1, most, (inner, columns), generator=generator, device="cpu").double()
        weight[::3] = weight[::3].sign()
        found = x.to(device, kind) @ weight.to(device, kind)
        if not torch.equal(found.cpu().double(), x @ weight):
            return False
    return True
