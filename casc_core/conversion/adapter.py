"""The adapter type, and finding one by name or by what a model contains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from torch import nn

from casc_core.conversion.rule_table import RuleTable
from casc_core.errors import ConfigError

GROUP = "casc.adapters"


@dataclass(frozen=True)
class Adapter:
    """A family of models.

    Attributes:
        name: the name users give.
        recognises: whether a model is of this family, from its modules.
        replacements: for `prepare`, by exact module type: `(module, q, threshold) -> its CQReLU counterpart`, with the
            module's parameters carried over. They come beside the core's own (ReLU and tanh modules).
        rules: rows for the rule table, beside the core's own.
        general: it takes models of no family in particular, so those of a family are asked first.
    """

    name: str
    recognises: Callable[[nn.Module], bool]
    replacements: Mapping[type[nn.Module], Callable[[nn.Module, int, float], nn.Module]] = field(default_factory=dict)
    rules: RuleTable = field(default_factory=RuleTable)
    general: bool = False


@cache
def _entries() -> dict[str, list[EntryPoint]]:
    """By name, the entry points of that name: one, unless two packages claim it."""
    found: dict[str, dict[str, EntryPoint]] = {}
    for entry in entry_points(group=GROUP):  # one installation may be listed twice
        found.setdefault(entry.name, {})[entry.value] = entry
    return {name: list(entries.values()) for name, entries in found.items()}


def adapter_names() -> list[str]:
    """Names of the installed adapters."""
    return sorted(_entries())


@cache
def adapter_named(name: str) -> Adapter:
    """The installed adapter of this name.

    Raises:
        ConfigError: there is none, and the message lists those there are; or two packages claim the name.
    """
    claimed = _entries().get(name, [])
    if len(claimed) > 1:
        raise ConfigError(
            f"the adapter name {name!r} is claimed by {' and '.join(entry.value for entry in claimed)}; uninstall one of "
            "their packages, or give the Adapter itself"
        )
    if not claimed:
        known = ", ".join(map(repr, adapter_names())) or "none (is the package installed?)"
        raise ConfigError(
            f"no adapter named {name!r}; installed: {known}. An adapter has a name once a package that lists it among the "
            f"entry points {GROUP!r} is installed"
        )
    (entry,) = claimed
    adapter = entry.load()
    if not isinstance(adapter, Adapter):
        raise ConfigError(f"the entry point {entry.value!r} of adapter {name!r} is not an Adapter: {adapter!r}")
    return adapter


def choose_adapter(model: nn.Module, adapter: str | Adapter | None) -> Adapter:
    """`adapter` itself, the one of that name, or (None) the first installed one that recognises `model`."""
    if isinstance(adapter, Adapter):
        return adapter
    if isinstance(adapter, str):
        return adapter_named(adapter)
    if adapter is not None:
        raise ConfigError(
            f"adapter must be a name ({', '.join(map(repr, adapter_names()))}), an Adapter, or None; got {adapter!r}"
        )
    for known in sorted(map(adapter_named, adapter_names()), key=lambda known: known.general):
        if known.recognises(model):
            return known
    raise ConfigError(
        f"no installed adapter recognises {type(model).__name__}; name one: {', '.join(map(repr, adapter_names()))}"
    )
