"""What every operation of a lowered network is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from casc_core.engine.batching.samples import Abstract, Follower
from casc_core.engine.guards.seals import Sealed
from casc_core.engine.ops.declared import Kind, Numbers, bind, check_settings, check_tensors, is_on_grid
from casc_core.engine.products.exact_sums import room_for_sums
from casc_core.engine.recording.provenance import Connection, carried
from casc_core.engine.recording.spike_counts import LayerTrain
from casc_core.engine.recording.work import Work
from casc_core.engine.run import Run
from casc_core.engine.running import TOGETHER
from casc_core.engine.signal import Signal
from casc_core.errors import ConfigError
from casc_core.storage.kinds import Kinds

CONVERT_AGAIN = (
    "bounds and grids were proven for the weights that it was converted with. Change those of the model, and convert it "
    "again"
)


class Op(nn.Module):
    """One operation: called as `op(run, *values)`.

    A subclass declares what it is made from: settings, plain values that are saved as JSON, and tensors. It is made from
    these by name, or in the order of the declarations, settings first, and is checked against them. It is registered under
    the name that networks are saved with: an operation of this package under its class's name, any other under that and
    its module's, or under `saved_as`. `class Base(Op, abstract=True)` is registered under none.

    Attributes:
        SETTINGS: kind and range of each setting.
        TENSORS: type and shape of each tensor.
        kinds: the operations there are, by the name they are saved under: what a loaded network can be made of.

    Raises:
        ConfigError: a setting or a tensor is not as declared.
    """

    SETTINGS: ClassVar[Mapping[str, Kind]] = {}
    TENSORS: ClassVar[Mapping[str, Numbers]] = {}
    kinds: ClassVar[Kinds[Op]] = Kinds("operation")
    kind: ClassVar[str] = ""
    is_layer: ClassVar[bool] = False
    """Whether it is a population of neurons."""
    is_of_trained_levels: ClassVar[bool] = False
    """Whether its numbers are only for as many wake steps as there are levels that the network was trained with."""
    connection: ClassVar[Connection] = Connection.NONE
    """How spikes get from its inputs to its result; on this rests what is counted of operations behind it."""
    keeps_time: ClassVar[bool] = True
    """Whether its result has the steps of what it reads, be they single ones or bins."""
    takes_fills: ClassVar[bool] = False
    """Whether it may read a signal of which some entries stand for minus infinity: a maximum, or what moves entries."""

    def __init_subclass__(cls, saved_as: str | None = None, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if abstract:
            cls.kind = cls.__name__
        else:
            cls.kind = Op.kinds.add(cls, saved_as)

    def follow(self, follower: Follower, *args: Any, **kwargs: Any) -> Any:
        """What is known of its result before a run: shape, type, room, and where the samples are.

        Called as `forward`, with what is known of the values. An operation that does not say counts as one that mixes
        the samples: a batch is never split, and a spike behind it counts for every sample.

        Raises:
            UnprovableError: nothing is known.
        """
        raise follower.unprovable("does not say where the samples are")

    def provenance(self, run: Run, result: Any, *args: Any, **kwargs: Any) -> Any:
        """Where the spikes of its result come from, asked only while something is recorded.

        Called as `forward`, with its result and the `Provenance` of signals; unless it says otherwise, it is what its
        `connection` makes of them.
        """
        return carried(self.connection, lambda *x, **named: self(run, *x, **named), result, run.peak, args, kwargs)

    def work(self, result: Any, *args: Any, **kwargs: Any) -> Work | None:
        """The operations that it does with what it reads, asked only while something is recorded; None: none.

        Called as `forward`, with the `Provenance` of its result and of signals.
        """
        return None

    def layer_train(self, result: Signal, *args: Any, **kwargs: Any) -> LayerTrain:
        """The spikes of a layer, its result. Called as `forward`."""
        return LayerTrain(self.settings["name"], result.train, potential=result.potential)

    @property
    def seen(self) -> int:
        """What its runs have shown about how long trains are, if it goes by that."""
        return 0

    def working(self, follower: Follower, signals: list[Abstract]) -> int:
        """Bytes that it takes beside what it reads and gives, which `signals` are, its result last.

        Unless an operation says otherwise: its largest train once more, in the widest type.
        """
        return 8 * max(entries(each) for each in signals)

    def later(self, follower: Follower, signals: list[Abstract]) -> int:
        """Bytes that what it leaves uncomputed takes where it is read: those it is computed of, and those for computing it.

        Unless an operation says otherwise: none. `signals` are those of `working`.
        """
        return 0

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__()
        self._seals: dict[str, Sealed] | None = None
        settings, tensors = bind(self.kind, self.SETTINGS, self.TENSORS, values, named)
        self.settings: Mapping[str, Any] = settings
        check_settings(self.kind, self.SETTINGS, settings)
        check_tensors(self.kind, self.TENSORS, tensors)
        known: set[int] = set()
        for name, tensor in tensors.items():
            # One tensor under two names would be saved, and listed, once.
            self.register_buffer(name, tensor.clone() if tensor is not None and id(tensor) in known else tensor)
            known.add(id(tensor))
        self.check()

    def check(self) -> None:
        """Refuse settings and tensors that do not fit each other; each is as declared.

        Raises:
            ConfigError: they do not.
        """

    def require(self, fits: bool, what: str) -> None:
        """Raise `ConfigError`, saying what must be, unless it fits."""
        if not fits:
            raise ConfigError(f"{self.kind}: {what}; its settings are {self.settings}")

    def grid(self, name: str) -> int | None:
        """Exponent of the grid that a tensor of this name is on; None: none in particular."""
        setting = self.TENSORS[name].grid
        return None if setting is None else int(self.settings[setting])

    def check_grids(self) -> None:
        """Refuse numbers that are not on the grids that the settings name: then no sum is proven exact.

        Raises:
            ConfigError: a tensor, or the threshold, is not.
        """
        for name, tensor in self.tensors().items():
            exponent = self.grid(name)
            self.require(exponent is None or is_on_grid(tensor, exponent), f"{name!r} is not on the grid 2**{exponent}")
        if "threshold" in self.settings:
            exponent = self.settings["exponent"]
            fits = is_on_grid(self.settings["threshold"], exponent)
            self.require(fits, f"'threshold' is not on the grid 2**{exponent}")

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        return {name: buffer for name, buffer in self.named_buffers(recurse=False) if buffer is not None}

    def seal(self) -> None:
        """Make its tensors and settings its own, not to be changed any more; again, nothing.

        Replacing one is refused; an edit in the tensor's memory, which cannot be, is noticed by `require_unchanged`.
        """
        if self._seals is not None:
            return
        self.settings = _FrozenSettings(self.settings)
        self._sealed_settings = json.dumps(self.settings)
        with torch.inference_mode(False):  # what is made in that mode has no versions
            for name, tensor in self.tensors().items():
                self._buffers[name] = tensor.detach().clone()
        self._seals = {name: Sealed(tensor) for name, tensor in self.tensors().items()}

    def require_unchanged(self, thorough: bool = False) -> None:
        """Refuse a tensor that is not as it was sealed.

        Args:
            thorough: look at every entry, and at the settings too.

        Raises:
            ConfigError: there is one.
        """
        for name, seal in (self._seals or {}).items():
            if not seal.holds(self._buffers.get(name), thorough):
                self._refuse(f"{name!r} has been edited")
        if thorough and self._seals is not None and json.dumps(self.settings) != self._sealed_settings:
            self._refuse("settings have been edited")

    def change(self, name: str, value: Tensor) -> None:
        """Give a population another "charge" or "bias": nothing was proven from these, each run bounds them anew.

        It is the one way to change a sealed operation, and changes all networks that share it.
        """
        if not self.is_layer or name not in ("charge", "bias"):
            self._refuse(f"{name!r} cannot be replaced")
        own = value.detach().clone()
        self._buffers[name] = own
        if self._seals is not None:
            self._seals[name] = Sealed(own)

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            f"{type(self).__name__} {self.settings.get('name', '')!r} of a spiking network: {what}; {CONVERT_AGAIN}"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("_seals") is not None and (name in self._buffers or name == "settings"):
            self._refuse(f"{name!r} cannot be replaced")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        if self._seals is not None and name in self._buffers:
            self._refuse(f"{name!r} cannot be deleted")
        super().__delattr__(name)

    def _apply(self, fn: Any, recurse: bool = True) -> Op:
        """Moves to a device; casts (`half()`, `bfloat16()`) leave the numbers as they are, since they would round them."""

        def moved(tensor: Tensor) -> Tensor:
            result: Tensor = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        self.require_unchanged()
        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]  # torch's own
        self._seal_again(self._seals)
        return self

    def _seal_again(self, before: Mapping[str, Sealed] | None) -> None:
        """Elsewhere, but as it was."""
        if before is not None:
            self._seals = {name: Sealed(tensor, before.get(name)) for name, tensor in self.tensors().items()}

    def __getstate__(self) -> dict[str, Any]:
        self.require_unchanged()
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's own
        self._seal_again(self._seals)

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """What is loaded must be what is there already."""
        own = self.tensors()
        missing_keys += [prefix + name for name in own if strict and prefix + name not in state_dict]
        unexpected_keys += [
            key for key in state_dict if strict and key.startswith(prefix) and key.removeprefix(prefix) not in own
        ]
        for name, tensor in own.items():
            given = state_dict.get(prefix + name, tensor)
            same = isinstance(given, Tensor) and given.dtype == tensor.dtype and given.shape == tensor.shape
            if not same or not torch.equal(given.to(tensor.device), tensor):
                self._refuse(f"load_state_dict would replace {name!r}")


class _FrozenSettings(dict[str, Any]):
    """A dictionary that is read."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ConfigError(f"the settings of a spiking network's operation cannot be edited; {CONVERT_AGAIN}")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = _refuse
    __ior__ = _refuse

    def __reduce__(self) -> Any:
        return _FrozenSettings, (dict(self),)


def device_of(ops: Iterable[Op]) -> torch.device | None:
    """Where the tensors of these operations are; None: they hold none."""
    return next((each.device for op in ops for each in op._buffers.values() if each is not None), None)


def room_for_drive(
    follower: Follower, read: Abstract, given: Abstract, growth: float = 1.0, by_row: bool = True
) -> int:
    """Bytes that exact sums of a drive take, as `room_for_sums`; 0 where there is none."""
    return room_for_sums(follower.run.numerics, read.shape, given.like.numel(), growth, by_row) if read.is_driven else 0


def entries(x: Abstract) -> int:
    """How many there are in a train, or in what has none."""
    return x.like.numel() * max(1, x.train.steps if x.train is not None else 1)


def entries_at_once(x: Abstract) -> int:
    """Of how many of them a running function computes the totals at once."""
    return max(x.like.numel(), min(entries(x), TOGETHER))
