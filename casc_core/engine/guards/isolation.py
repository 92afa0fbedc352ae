"""Runs isolated from torch's global settings: float32 products in all their bits, no autocast, no gradients.

torch lets a process choose TF32 or bfloat16 for the products of float32, which would round what a proof says is exact: by
`torch.set_float32_matmul_precision` for all, and from 2.9 on for each backend and kind of product, with defaults for a
backend and for all of them (`torch.backends.fp32_precision` and the like).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from casc_core.engine.kernels import forked

T = TypeVar("T")
Setting = tuple[str, str]

_DEFAULTS: tuple[Setting, ...] = (("generic", "all"), ("cuda", "all"), ("mkldnn", "all"))
_ON_CPU: tuple[Setting, ...] = (("mkldnn", "matmul"), ("mkldnn", "conv"))
_ON_GPU: tuple[Setting, ...] = (("cuda", "matmul"), ("cuda", "conv"))
# Those for all backends together.
_ALL_MATMUL: Setting = ("all", "matmul")
_ALL_CONV: Setting = ("all", "conv")
_EXACT = ("none", "ieee", "highest")


def undisturbed(call: Callable[[], T]) -> T:
    """`call()` in exact float32 products, without autocast and gradients; then all is as it was, whatever has happened.

    The precision of products is the process's, so that it is exact in every thread while any is in here. In a forked
    process, in which torch would wait for threads that are not there, it runs on one.

    >>> torch.set_float32_matmul_precision("medium")
    >>> undisturbed(torch.get_float32_matmul_precision), torch.get_float32_matmul_precision()
    ('highest', 'medium')
    >>> torch.set_float32_matmul_precision("highest")
    """
    token, gradients = object(), torch.is_grad_enabled()
    casts = [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]
    threads = torch.get_num_threads() if forked() else 1

    def restore() -> None:
        torch.set_grad_enabled(gradients)
        for device in casts:
            torch.set_autocast_enabled(device, True)
        if threads > 1:
            torch.set_num_threads(threads)
        _PRECISION.leave(token)

    # No context manager: an interrupt between its entry and the block would leave what it set.
    try:
        try:
            torch.set_grad_enabled(False)
            for device in casts:
                torch.set_autocast_enabled(device, False)
            if threads > 1:
                torch.set_num_threads(1)
            _PRECISION.enter(token)
            return call()
        finally:
            restore()
    except BaseException:
        restore()  # it may have been interrupted itself; all of it can be done again
        raise


class _Precision:
    """The process's precision of float32 products, exact while any thread is inside; then as it was before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside: set[object] = set()
        # What was set, written down before it is changed.
        self.before: dict[Setting, Any] = {}

    def enter(self, token: object) -> None:
        """Compute exactly until `token` leaves."""
        with self.lock:
            self.inside.add(token)
            products: tuple[Setting, ...] = (_ALL_MATMUL, _ALL_CONV)
            if _by_backend():
                products = (*_ON_CPU, *_ON_GPU) if torch.cuda.is_initialized() else _ON_CPU
            if any(_get(product) not in _EXACT for product in products):
                self._note()
                for product in products:
                    _set(product, "ieee")

    def leave(self, token: object) -> None:
        """Put back what was set, if nobody else is inside."""
        with self.lock:
            self.inside.discard(token)
            if not self.inside:
                for setting, value in self.before.items():
                    _set(setting, value)
                self.before.clear()

    def begin_anew(self) -> None:
        """In a forked process, into which no other thread has come along, whatever it was doing in here."""
        self.lock = threading.Lock()
        self.inside.clear()
        self.leave(object())

    def _note(self) -> None:
        """Write down all that will be changed; the first is what sets others too."""
        for_all = _get(_ALL_MATMUL)
        if for_all is not None:
            self.before.setdefault(_ALL_MATMUL, for_all)
        if not _by_backend():
            self.before.setdefault(_ALL_CONV, _get(_ALL_CONV))
            return
        for default in _DEFAULTS:  # without it, what is in force below it is what has been set there
            self.before.setdefault(default, _get(default))
            _set(default, "none")
        for product in (*_ON_CPU, *_ON_GPU):
            self.before.setdefault(product, _get(product))
        if for_all is not None:
            _set(_ALL_MATMUL, "ieee")


def _by_backend() -> bool:
    return hasattr(torch._C, "_get_fp32_precision_getter")


def _get(setting: Setting) -> Any:
    if setting == _ALL_CONV:
        return "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"
    if setting != _ALL_MATMUL:
        return torch._C._get_fp32_precision_getter(*setting)
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch does not say, once a backend has been set to something else
        return None


def _set(setting: Setting, value: str) -> None:
    if setting == _ALL_CONV:
        torch.backends.cudnn.allow_tf32 = value == "tf32"
    elif setting == _ALL_MATMUL:
        torch.set_float32_matmul_precision("highest" if value == "ieee" else value)
    else:
        torch._C._set_fp32_precision_setter(*setting, value)


_PRECISION = _Precision()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_PRECISION.begin_anew)
