"""The neuron's loop over time on a GPU: one Triton kernel, one pass over memory. Equal to `Neuron.run` bit for bit.

Triton is optional and imported at the first call of `scan_triton`, so this module costs nothing where it is not used.
"""

from __future__ import annotations

import importlib.util
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import triton.language as tl

# Four neurons for each thread of a program: 16 bytes of float32 currents, one full vector load.
NEURONS, WARPS = 512, 4


def available() -> bool:
    """Whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def _scan(
    currents: tl.tensor,
    drive: tl.tensor,
    threshold: tl.tensor,
    awake: tl.tensor,
    spikes: tl.tensor,
    needed: tl.tensor,
    by_level: tl.tensor,
    size: tl.tensor,
    steps: tl.tensor,
    wake: tl.tensor,
    total: tl.tensor,
    capacity: tl.tensor,
    lowest: tl.tensor,
    own: tl.constexpr,
    signed: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """The kernel: each program advances `block` of the `size` neurons, their state in registers."""
    i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = i < size
    theta = tl.load(threshold + i * own, mask=inside, other=1.0)  # own = 0: one threshold for all
    zero = tl.zeros_like(theta)
    driven = zero if drive is None else tl.load(drive + i, mask=inside, other=0.0)
    v = zero
    n = tl.zeros([block], tl.int32)
    if by_level is not None:  # from the lowest level on
        n -= lowest
    last = tl.zeros([block], tl.int32)
    t = 0
    cap = 0
    busy = True
    while busy | (t < capacity):
        current = zero
        if t < steps:
            current = tl.load(currents + i, mask=inside, other=0.0)
            currents += size
        if t < wake:
            on = tl.load(awake + t).to(tl.int32)
            cap += on
            current += on * driven
        else:
            cap = total
        v += current
        if by_level is None:
            s = ((v >= theta) & (n < cap)).to(tl.int32)
            if signed:
                s -= ((v < 0) & (n > 0)).to(tl.int32)
            v -= s * theta
        else:  # v is the sum that has been received, which no spike resets
            s = (v >= tl.load(by_level + n + 1) * theta).to(tl.int32)
            if signed:
                s -= (v < tl.load(by_level + n) * theta).to(tl.int32)
        n += s
        if t < capacity:
            tl.store(spikes + i, s.to(tl.int8), mask=inside)
            spikes += size
        t += 1
        last = tl.where(s != 0, t, last)
        if (t > steps) & (t > wake):  # nothing arrives any more: a silent neuron stays silent
            busy = tl.max(last, 0) == t
    tl.atomic_max(needed, tl.max(last, 0))


@cache
def _kernel() -> Any:
    """`_scan` for the GPU, or for Triton's interpreter if TRITON_INTERPRET=1 was set before Triton was imported."""
    global tl  # where the kernel looks it up
    import triton
    import triton.language as tl

    # Lengths differ from call to call: one compiled kernel serves them all.
    return triton.jit(_scan, do_not_specialize=["steps", "wake", "total", "capacity", "lowest"])


@lru_cache(maxsize=64)
def _flags(awake: tuple[bool, ...], device: torch.device) -> Tensor:
    """Made once: to move it there would wait for all that the GPU is busy with."""
    return torch.tensor(awake, dtype=torch.int8, device=device)


def scan_triton(
    currents: Tensor | None,
    drive: Tensor | None,
    threshold: Tensor | float,
    awake: list[bool],
    total: int,
    signed: bool,
    capacity: int,
    by_level: Tensor | None = None,
    lowest: int = 0,
) -> tuple[Tensor, int]:
    """The spikes of a population of IF or CIF neurons, until it is silent.

    `v += I_t`; `s_t = +1` if `v >= threshold` and `N < cap_t`; `-1` if `v < 0` and `N > 0` (CIF only); else 0;
    `N += s_t`; `v -= threshold * s_t` (the paper's Eq. 11). `I_t` is the current of step t plus, awake, the drive. The
    arithmetic is that of `Neuron.step`, in the currents' type, in its order and without fused multiply-adds.

    Args:
        currents: `[steps, *shape]`, float32 or float64, what arrives at each step; None if nothing does.
        drive: `[*shape]`, of the same type, received at each awake step besides; None if nothing is.
        threshold: a positive number, or a tensor that broadcasts against `shape`.
        awake: for each step up to the last wake step, whether it is awake. `cap_t` counts the awake steps up to t.
        total: the cap after the last wake step.
        signed: CIF neurons, which take spikes back; otherwise IF.
        capacity: how many steps of spikes to return. `max(len(currents), len(awake)) + total` always suffice, or the range
            of counts in the place of `total`.
        by_level: -infinity, a threshold for each level, infinity; then counts go from `lowest` on, no cap holds them, and
            `threshold` is what those are multiplied by.

    Returns:
        spikes `[capacity, *shape]`, int8, zero where a neuron has settled; and the last step, from 1, at which any
        neuron spikes, within `capacity` or not: where it is larger, call again with that capacity.
    """
    like = drive if currents is None else currents
    if like is None:
        raise ValueError("a population needs currents or a drive")
    shape = like.shape if currents is None else like.shape[1:]
    device, size, steps = like.device, shape.numel(), 0 if currents is None else currents.shape[0]
    theta = threshold.to(device, like.dtype) if isinstance(threshold, Tensor) else like.new_full((), threshold)
    own = theta.numel() > 1
    spikes = torch.empty((capacity, *shape), dtype=torch.int8, device=device)
    needed = torch.zeros((), dtype=torch.int32, device=device)
    with torch.cuda.device_of(like):
        _kernel()[(-(-size // NEURONS),)](
            like.contiguous(),  # not read where there are no steps
            None if drive is None else drive.contiguous(),
            theta.expand(shape).contiguous() if own else theta,
            _flags(tuple(awake), device),
            spikes,
            needed,
            by_level,
            size,
            steps,
            len(awake),
            total,
            capacity,
            lowest,
            own=int(own),
            signed=signed,
            block=NEURONS,
            num_warps=WARPS,
            enable_fp_fusion=False,
        )
    return spikes, int(needed)
