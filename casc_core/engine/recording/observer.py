"""The observer that records a run; operations themselves know nothing of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from casc_core.engine.ops import Op
from casc_core.engine.recording.provenance import Provenance
from casc_core.engine.recording.recorder import Recorder
from casc_core.engine.recording.spike_counts import LayerTrain, SignedCounts
from casc_core.engine.recording.work import Work
from casc_core.engine.run import Run
from casc_core.engine.signal import Signal, longest_period


class Observer:
    """Follows a program while it runs: records the spikes of each layer, and counts the operations in front of it.

    Operations are counted where they are done, and credited to the first layer behind, or to the readout.

    Attributes:
        values: by name, the values that are still needed, a `Provenance` in the place of each signal.
    """

    def __init__(self, run: Run, recorder: Recorder, inputs: Mapping[str, Any]) -> None:
        self.run, self.recorder = run, recorder
        self.values = dict(inputs)
        # By step, operations that have been credited to no layer yet; by value, the steps in front of it that have some.
        self._pending: dict[str, Work] = {}
        self._in_front: dict[str, frozenset[str]] = {}
        # Of the outputs so far: the steps in front of each, and what it costs to reach it.
        self._outputs: dict[str, tuple[frozenset[str], Work]] = {}

    def called(
        self, step: str, op: Op, result: Any, call: tuple[tuple[Any, ...], dict[str, Any]], read: Iterable[str]
    ) -> None:
        """Note that `op` gave `result`.

        Args:
            step: the name of the result.
            call: arguments of the operation, with what `values` has for them. read: their names.
        """
        args, kwargs = call
        in_front = frozenset(each for name in read for each in self._in_front.get(name, ()))
        if op.is_layer:
            emitted = op.layer_train(result, *args, **kwargs)
            known = self.values[step] = self._recorded(emitted, result, step)
            if isinstance(known, Provenance):
                self._credit(emitted.layer, in_front, op.work(known, *args, **kwargs), emitted.share)
            in_front = frozenset()
        elif self.recorder.keep_activity:
            known = self.values[step] = op.provenance(self.run, result, *args, **kwargs)
            work = op.work(known, *args, **kwargs)
            if work is not None:
                work = work.in_steps(longest_period(result))
                self._pending[step], in_front = work, in_front | {step}
        else:
            self.values[step] = result
        self._in_front[step] = in_front

    def _recorded(self, emitted: LayerTrain, result: Signal, step: str) -> Signal | Provenance:
        """The spikes of a layer, once they have been recorded."""
        name, peak, recorder = emitted.layer, self.run.peak, self.recorder
        counted = (self.run.row_counts or {}).pop(name, None)
        known = None if counted is None else SignedCounts(*counted, counted[0] + counted[1])
        rows = recorder.layer(emitted, step, peak, known)
        if not recorder.keep_activity:
            return result
        total = recorder.positive[name] + recorder.negative[name]
        return Provenance(result, peak, rows=rows, total=lambda: total)

    def forget(self, names: Iterable[str]) -> None:
        """Drop values that are not used any more."""
        for name in names:
            self.values.pop(name, None)

    def returned(self, name: str) -> None:
        """Note that the value of this name is an output."""
        output = self.values[name]
        if isinstance(output, Provenance) and name not in self._outputs:
            self._outputs[name] = self._in_front.get(name, frozenset()), output.one_to_one()

    def ended(self, readout: str) -> None:
        """Note that the run is over: what is in front of the outputs, and of no layer, is the work of `readout`."""
        for in_front, own in self._outputs.values():
            self._credit(readout, in_front, own)

    def _credit(self, layer: str, in_front: frozenset[str], own: Work | None, share: float = 1.0) -> None:
        """Count what was done at these steps, of which a share was for what is no padding, as the work of a layer."""
        steps = [step for step in self._pending if step in in_front]
        total = Work.total(self._pending.pop(step) for step in steps) * share
        self.recorder.work[layer] = self.recorder.work.get(layer, Work()) + total + (own or Work())
