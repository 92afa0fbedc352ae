"""The readout: the last layer does not spike, and its currents are summed and divided by the wake steps so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.program import Program, Readout
from casc_core.engine.run import Run, SpikingRun
from casc_core.engine.signal import Signal
from casc_core.reporting.series import last_repeated


def final_readouts(outputs: Sequence[Any], run: Run, program: Program) -> list[Any]:
    """The outputs after all steps of a run."""

    def final(signal: Signal, readout: Readout) -> Tensor:
        return _logits(signal.total, signal, run.total, run, readout)

    return _read_out(outputs, program, final)


def readouts(outputs: Sequence[Any], run: SpikingRun, steps: int, program: Program) -> list[Any]:
    """The outputs `[steps, batch, ...]` after each of the first `steps` steps of a run."""
    return _read_out(outputs, program, lambda signal, readout: _over_time(signal, run, steps, readout))


def _read_out(outputs: Sequence[Any], program: Program, logits: Callable[[Signal, Readout], Tensor]) -> list[Any]:
    """The logits of those that neurons compute; the others as they are."""
    each = zip(outputs, program.outputs, strict=True)
    return [logits(output, readout) if isinstance(readout, Readout) else output for output, readout in each]


def _over_time(output: Signal, run: SpikingRun, steps: int, readout: Readout) -> Tensor:
    """The logits `[steps, batch, ...]` after each of the first `steps` steps of a run."""
    # Once everything is silent and asleep, the readout stays as it is.
    changing = min(steps, max(output.steps, len(run.awake), 1))
    totals = output.running(changing)
    awake = torch.tensor(run.wake_weights(changing), dtype=torch.float64, device=totals.device).cumsum(0)
    if 0 < run.warm_up < changing:  # those steps count no more
        for running in (totals, awake):
            running[run.warm_up :] -= running[run.warm_up - 1].clone()
    logits = _logits(totals, output, awake.reshape(-1, *[1] * len(output.shape)), run, readout)
    return last_repeated(logits, steps)


def _logits(total: Tensor, output: Signal, wake_steps: int | Tensor, run: Run, readout: Readout) -> Tensor:
    """`scale * (sum of currents) / divisor / wake steps`; the one rounding of a run happens here, last."""
    drive = output.drive
    if drive is not None:
        total = total + drive * wake_steps
    if output.divisor is not None:
        total = total / output.divisor
    logits = total * readout.scale
    logits /= wake_steps
    return logits if run.numerics.is_float64 else logits.float()
