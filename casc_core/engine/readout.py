"""The readout: the last layer does not spike, and its currents are summed and divided by the wake steps so far."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from casc_core.engine.products.total_product import TotalProduct
from casc_core.engine.program import Readout
from casc_core.engine.run import Run
from casc_core.engine.signal import Signal
from casc_core.engine.spiking_run import SpikingRun
from casc_core.errors import InputError
from casc_core.numerics import AsTrained


def check_readout(output: Any, readout: Readout, run: Run) -> None:
    """Refuse an output whose sums might round, or that has no row for each sample.

    Raises:
        InputError: it is not computed by neurons, or of a whole batch. ExactnessError: no type holds its sums.
    """
    if not isinstance(output, Signal):
        raise InputError(f"the network's output is a {type(output).__name__}, and not computed by its neurons")
    if not output.shape:
        raise InputError("the network returns a single number for the whole batch; return one row for each sample")
    if not isinstance(output.lazy_train, TotalProduct):  # which is rounded once, whatever its bound
        # As trained, the drive of the readout is on no grid: it is added last, entry by entry.
        drive = 0.0 if isinstance(run.numerics, AsTrained) else output.drive_reach
        run.sum_dtype(run.total, output.bound, drive, readout.exponent, "the readout")


def final_readout(output: Signal, run: Run, readout: Readout) -> Tensor:
    """The logits `[batch, classes]` after all steps of a run."""
    return _logits(output.total, output, run.total, run, readout)


def readout_over_time(output: Signal, run: SpikingRun, readout: Readout) -> Tensor:
    """The logits `[steps, batch, classes]` after each step of a run, until they stay as they are."""
    changing = max(output.steps, len(run.awake), 1)
    changing = changing if run.steps is None else min(changing, run.steps)
    totals = output.running(changing)
    awake = torch.tensor(run.wake_weights(changing), dtype=torch.float64, device=totals.device).cumsum(0)
    if 0 < run.warm_up < changing:  # those steps count no more
        for running in (totals, awake):
            running[run.warm_up :] -= running[run.warm_up - 1].clone()
    return _logits(totals, output, awake.reshape(-1, *[1] * len(output.shape)), run, readout)


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
