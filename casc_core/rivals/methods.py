"""Conversion methods to compare: ours, those of the paper's Table 6, and others.

Each is a small frozen configuration. `method.network(snn, batches)` gives the network that it simulates; weights are those
of `snn`, so that methods differ in nothing but themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from casc_core.errors import ConfigError
from casc_core.neuron import CIF, IF
from casc_core.rivals.calibrated import Calibrated
from casc_core.rivals.method import Method, converted
from casc_core.rivals.neurons import SNM, SRP, Burst
from casc_core.rivals.percentile import PercentileReLU
from casc_core.schedule import Continuous, WakeSleep
from casc_core.spiking_model import SpikingModel

__all__ = [
    "FOUR",
    "OURS",
    "QCFS",
    "RIVALS",
    "Calibrated",
    "Method",
    "PercentileReLU",
    "applicable",
    "chosen",
    "methods_for",
    "why_not",
]

_IF = "v += I_t; s_t = 1 if v >= theta, else 0; v -= theta * s_t"
_CIF = "v += I_t; s_t = +1 if v >= theta and N < cap_t, -1 if v < 0 and N > 0, else 0; N += s_t; v -= theta * s_t"
_CONTINUOUS = "input and biases at every step"
_SLEEP = "input and biases for q wake steps, then only spikes travel"
_CASC = "Li et al., Spiking Neural Networks with Consistent Mapping Relations Allow High-Accuracy Inference"
OURS = "baseline+CIF+WSC"
FOUR: dict[str, Method] = {
    "baseline": Method(
        "baseline (IF)", IF(), Continuous(), f"{_IF}; {_CONTINUOUS}",
        f"{_CASC}, Eqs. 2 and 3; the soft reset: Rueckauer et al. 2017, Han et al. 2020",
    ),
    "baseline+WSC": Method("IF + wake-sleep", IF(), WakeSleep(), f"{_IF}; {_SLEEP}", f"{_CASC}, section 4.3"),
    "baseline+CIF": Method("CIF alone", CIF(), Continuous(), f"{_CIF}; {_CONTINUOUS}", f"{_CASC}, Eq. 11"),
    OURS: Method("CASC", CIF(), WakeSleep(), f"{_CIF}; {_SLEEP}", f"{_CASC}, Eqs. 11 and 12"),
}  # fmt: skip
"""The combinations of the paper's Table 6."""

QCFS = Method(
    "QCFS", IF(), Continuous(), f"a = lambda clip(floor(q x / lambda + 1/2) / q, 0, 1); v_0 = theta / 2; {_IF}",
    "Bu et al. 2022, Optimal ANN-SNN Conversion for High-accuracy and Ultra-low-latency Spiking Neural Networks, ICLR",
    "the network was trained with this activation; its half step is the initial potential",
)  # fmt: skip
"""How a network is converted that was trained with `half_step` and trainable thresholds: the baseline's neurons."""

RIVALS: dict[str, Method] = {
    "percentile": PercentileReLU(
        "percentile", IF(), Continuous(), f"theta = 99.9th percentile of the layer's positive activations; {_IF}",
        "Rueckauer et al. 2017, Conversion of continuous-valued deep networks to efficient event-driven networks",
        "thresholds from calibration data; where over 0.1% of a layer's activations are at the clip, it is the baseline",
    ),
    "OPI": Method(
        "OPI", IF(initial_potential=0.5), Continuous(), f"v_0 = theta / 2; {_IF}",
        "Bu et al. 2022, Optimized Potential Initialization for Low-latency Spiking Neural Networks, AAAI",
        "on a network that was not trained with the half step, the neurons of QCFS are these too",
    ),
    "SNM": Method(
        "SNM", SNM(), Continuous(),
        "v += I_t; s_t = +1 if v >= theta, -1 if v <= -theta and N > 0, else 0; N += s_t; v -= theta * s_t",
        "Wang et al. 2022, Signed Neuron with Memory, IJCAI",
        "thresholds are the trained ones, in the place of its neuron-wise normalisation",
    ),
    "burst": Method(
        "burst, clipped", Burst(clipped=True), Continuous(),
        "v += I_t; s_t = clip(floor(v / theta), 0, gamma); N + s_t <= t; v -= theta * s_t; gamma = 5",
        "Li and Zeng 2022, Efficient and Accurate Conversion of Spiking Neural Network with Burst Spikes, IJCAI",
        "the total is held at t, as the activation of the trained network is clipped; its ANN has none; max-pools are the "
        "running difference, for all methods",
    ),
    "SRP": Method(
        "SRP", SRP(), Continuous(),
        f"v_0 = theta / 2; tau = 4 steps of IF; neurons with v < 0 are silenced, the others begin anew; {_IF}",
        "Hao et al. 2023, Reducing ANN-SNN Conversion Error through Residual Membrane Potential, AAAI",
        "T counts both stages, the authors' only the second; up to tau the readout is that of the first",
    ),
    "ACP": Calibrated(
        "ACP", IF(), Continuous(),
        f"e = mean(a / theta - N / T); bias += theta e for each channel, then v_0 += theta T e for each neuron; {_IF}",
        "Li et al. 2022, Converting Artificial Neural Networks to Spiking Neural Networks via Parameter Calibration",
        "calibrated for the last T of the table, on the first calibration batch, against the quantised ANN; "
        "layers that go along a sequence by bias alone",
    ),
}  # fmt: skip
"""Other conversion methods."""


def methods_for(snn: SpikingModel, T: int, trained: bool = True) -> dict[str, Method]:
    """The methods to compare on a network: the four, and the rivals; under which of them it can be run, `why_not` says.

    In a network whose activations round to the nearest level (`half_step`), potentials begin half way under every method.
    IF with continuous input is then QCFS, or OPI if the network has only been calibrated, and is listed once.

    Args:
        T: steps of the comparison, for which ACP is calibrated.
        trained: the network was trained with these activations; False: it has only been calibrated.
    """
    half = any(getattr(op, "charge", None) is not None for op in converted(snn).operations() if op.is_layer)
    acp = RIVALS["ACP"]
    assert isinstance(acp, Calibrated)
    methods = FOUR | RIVALS | {"ACP": replace(acp, steps=T)}
    if not half or why_not(snn, methods["baseline"]) is not None:
        return methods
    same = QCFS if trained else methods["OPI"]
    methods["baseline"] = replace(same, label=f"baseline (IF) = {same.label}", neuron=IF(), note="")
    methods["SRP"] = replace(methods["SRP"], neuron=SRP(initial_potential=0.0))
    del methods["OPI"]
    about = "potentials begin with half a threshold under every method, the half step of the activations"
    return {
        name: replace(method, note=f"{method.note}; {about}" if method.note else about)
        for name, method in methods.items()
    }


def applicable(snn: SpikingModel, methods: Mapping[str, Method]) -> dict[str, Method]:
    """Of the methods those whose neurons and schedules the network can be run under."""
    return {name: method for name, method in methods.items() if why_not(snn, method) is None}


def why_not(snn: SpikingModel, method: Method) -> str | None:
    """Why a network cannot be run under the neurons and the schedule of a method; None: it can.

    Rounded activations with a threshold for each level, such as gates, are for the wake steps that they were trained for.
    """
    if snn.runs_under(method.neuron, method.schedule):
        return None
    return (
        f"it has neurons with a threshold for each level, or products of spikes, which are for {snn.settings.q} wake steps "
        "and CIF or IF"
    )


def chosen(methods: dict[str, Method], names: Sequence[str] | None) -> dict[str, Method]:
    """Of the methods those named, ours among them in any case; None: all.

    Raises:
        ConfigError: an unknown name.

    >>> list(chosen(FOUR, ["baseline"]))
    ['baseline', 'baseline+CIF+WSC']
    """
    if names is None:
        return dict(methods)
    names = [name.strip() for name in names]
    unknown = [name for name in names if name not in methods]
    if unknown:
        raise ConfigError(f"there is no method {unknown[0]!r} for this network; there are {', '.join(methods)}")
    return {name: method for name, method in methods.items() if name in names or name == OURS}
