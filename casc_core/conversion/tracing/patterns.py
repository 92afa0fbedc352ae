"""The operations of einops in terms of torch's own, so that a trace sees through them."""

from __future__ import annotations

import itertools
import math
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

import torch

from casc_core.engine.conditions import expect
from casc_core.errors import ConversionError

ELLIPSIS = "..."


def rearrange(x: Any, pattern: str, line: str = "", **sizes: Any) -> Any:
    """`einops.rearrange`.

    >>> rearrange(torch.zeros(2, 6, 5), "b (h w) c -> b c h w", h=3).shape
    torch.Size([2, 5, 3, 2])
    """
    return _applied(x, pattern, None, line, sizes)


def repeat(x: Any, pattern: str, line: str = "", **sizes: Any) -> Any:
    """`einops.repeat`.

    >>> repeat(torch.zeros(2, 5), "b c -> b n c", n=3).shape
    torch.Size([2, 3, 5])
    """
    return _applied(x, pattern, None, line, sizes)


def reduce(x: Any, pattern: str, reduction: str, line: str = "", **sizes: Any) -> Any:
    """`einops.reduce` by a sum, a mean or a maximum.

    >>> reduce(torch.ones(2, 3, 4, 6), "b c (h u) (w v) -> b c h w", "sum", u=2, v=2)[0, 0]
    tensor([[4., 4., 4.],
            [4., 4., 4.]])
    """
    reductions = {"sum": "sum", "mean": "mean", "max": "amax"}
    if reduction not in reductions:
        raise ConversionError(
            f"forward: reduce() cannot be converted exactly: {reduction!r} is not affine; use 'sum', 'mean' or 'max'\n"
            f"  at {line}"
        )
    return _applied(x, pattern, reductions[reduction], line, sizes)


def einsum(*tensors_and_pattern: Any, line: str = "") -> Any:
    """`einops.einsum`, as `torch.einsum` with a letter for each axis.

    >>> einsum(torch.ones(2, 3), torch.ones(5, 3), "batch inner, outer inner -> batch outer").shape
    torch.Size([2, 5])
    """
    *tensors, pattern = tensors_and_pattern
    names = dict.fromkeys(re.findall(r"[^\W\d]\w*", pattern))
    letters = dict(zip(names, string.ascii_letters, strict=False))
    if len(letters) < len(names):
        raise ConversionError(f"forward: einsum() has {len(names)} axes, and torch.einsum {len(letters)}\n  at {line}")
    return torch.einsum(re.sub(r"[^\W\d]\w*|\s+", lambda found: letters.get(found[0], ""), pattern), *tensors)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "rearrange": rearrange,
    "repeat": repeat,
    "reduce": reduce,
    "einsum": einsum,
}


def axes_of(side: str) -> list[list[str]]:
    """One side of a pattern: a list of axes for each dimension.

    >>> axes_of("b (h 1 w) ... 1")
    [['b'], ['h', 'w'], ['...'], []]

    An axis that is a number has a name of its own at each place:

    >>> axes_of("(h 2) (w 2)")
    [['h', '2@1'], ['w', '2@3']]
    """
    groups = [found.strip("()").split() for found in re.findall(r"\([^()]*\)|[^\s()]+", side)]
    places = itertools.count()
    each = [[(next(places), name) for name in group] for group in groups]
    named = [[f"{name}@{at}" if name.isdigit() else name for at, name in group if name != "1"] for group in each]
    names = [name for group in named for name in group]
    if len(set(names)) < len(names):
        raise ValueError(f"an axis stands twice in {side!r}")
    return named


def _applied(x: Any, pattern: str, reduction: str | None, line: str, sizes: dict[str, Any]) -> Any:
    left, right = (axes_of(side) for side in pattern.split("->"))
    right = [[name.replace("@", "@->") for name in group] for group in right]
    numbers = {name: int(name.split("@")[0]) for group in (*left, *right) for name in group if "@" in name}
    sizes = {**sizes, **numbers}
    if isinstance(x, (tuple, list)):
        x = torch.stack(list(x))
    x, names, rest = _taken_apart(x, left, line, sizes)
    kept = [name for group in right for name in group]
    gone = [name for name in names if name not in kept]
    order = [name for name in kept if name in names] + gone
    if order != names:
        x = x.permute([names.index(name) for name in order])
    if gone:
        assert reduction is not None, f"{pattern!r} loses {gone}"
        x = getattr(x, reduction)(tuple(range(-len(gone), 0)))
    for at, name in enumerate(kept):
        if name not in names:
            x = x.unsqueeze(at)
            x = x.expand(*[sizes[name] if dim == at else -1 for dim in range(len(order) - len(gone) + 1)])
            order.insert(at, name)
    is_one = re.search(r"\(\s*\.\.\.\s*\)", pattern) is not None  # what the ellipsis stands for stays one dimension
    return _composed(x, right, None if is_one else rest)


def _taken_apart(x: Any, groups: Sequence[list[str]], line: str, sizes: dict[str, Any]) -> tuple[Any, list[str], Any]:
    """`x` with a dimension for each axis, their names, and the shape that an ellipsis stands for, now one dimension."""
    rest = None
    count = len(groups)
    if [ELLIPSIS] in groups:
        at, count = groups.index([ELLIPSIS]), len(groups) - 1
        rest = x.shape[at : at - count or None]
        x = x.reshape([*[x.shape[dim] for dim in range(at)], -1, *[x.shape[dim] for dim in range(at - count, 0)]])
    else:
        expect(True, x.ndim == count, line)
    for dim in reversed(range(len(groups))):
        group = groups[dim]
        if len(group) == 1 and group[0] not in sizes:
            continue
        given = math.prod(sizes[name] for name in group if name in sizes)
        open_ = [name for name in group if name not in sizes]
        expect(True, x.shape[dim] % given == 0 if open_ else x.shape[dim] == given, line)
        if not group:
            x = x.squeeze(dim)
        elif len(group) > 1:
            x = x.unflatten(dim, [sizes.get(name, -1) for name in group])
    return x, [name for group in groups for name in group], rest


def _composed(x: Any, groups: Sequence[list[str]], rest: Any) -> Any:
    for dim, group in enumerate(groups):
        if len(group) > 1:
            x = x.flatten(dim, dim + len(group) - 1)
        elif not group:
            x = x.unsqueeze(dim)
    return x if rest is None or [ELLIPSIS] not in groups else x.unflatten(groups.index([ELLIPSIS]), rest)
