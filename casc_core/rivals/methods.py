"""Conversion methods in one frame: what neurons and schedule simulate a network, and what is done to it before.

Each is a small frozen configuration. `method.network(snn, batches)` gives the network that it simulates; weights are those
of `snn`, so that methods differ in nothing but themselves.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from casc_core.activation import CQReLU, Quantised
from casc_core.conversion.batches import checked_batches, inputs_and_labels
from casc_core.conversion.calibrate import percentiles
from casc_core.conversion.convert import convert
from casc_core.engine.run import SpikingRun
from casc_core.errors import ConfigError
from casc_core.neuron import CIF, IF, SNM, SRP, Burst, Neuron
from casc_core.schedule import Continuous, Schedule, WakeSleep
from casc_core.spiking_model import SpikingModel


@dataclass(frozen=True)
class Method:
    """Neurons under a schedule, on the weights as they are.

    Args:
        label: what a reader of a table should see.
        neuron, schedule: what simulates the network.
        equations, source: in a line or two; where they are from.
        note: how it is applied here, where that is not plain.
    """

    label: str = ""
    neuron: Neuron = field(default_factory=CIF)
    schedule: Schedule = field(default_factory=WakeSleep)
    equations: str = ""
    source: str = ""
    note: str = ""

    own_levels: ClassVar[bool] = False
    """Its neurons have thresholds of their own, so that counts compare only with levels of its own."""
    reads_data: ClassVar[bool] = False
    """It looks at data before it simulates."""

    def network(self, snn: SpikingModel, batches: Iterable[Any]) -> SpikingModel:
        """What this method simulates in the place of `snn`.

        Args:
            batches: of what the network takes; only the methods that look at data read them.

        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), CQReLU(q=2), nn.Linear(8, 2))
        >>> Method(neuron=IF(), schedule=Continuous()).network(convert(model), []).settings.neuron
        IF()
        """
        return _converted(snn).under(self.neuron, self.schedule)

    @property
    def config(self) -> str:
        """Neuron and schedule, as they are written."""
        return f"{self.neuron} under {self.schedule}"


@dataclass(frozen=True)
class PercentileReLU(Method):
    """Thresholds balanced by data: each layer's is a percentile of its positive activations (Rueckauer et al. 2017,
    "Conversion of continuous-valued deep networks to efficient event-driven networks", sections 2.2.2 and 2.2.3).

    `theta_l = percentile(a_l)`; IF neurons, `v += I_t`; `s_t = 1` if `v >= theta_l`; `v -= theta_l * s_t`, the input at
    every step. Activations above the threshold saturate at one spike a step.

    Args:
        percentile: in (0, 100]; the paper's choice is 99.9.

    Raises:
        ConfigError: the network as trained is not at hand.

    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(4, 8), CQReLU(q=4), nn.Linear(8, 2))
    >>> network = PercentileReLU(percentile=50.0).network(convert(model), [torch.rand(64, 4)])
    >>> network.ann[1].threshold < 1.0
    True
    """

    percentile: float = 99.9

    own_levels = reads_data = True

    def network(self, snn: SpikingModel, batches: Iterable[Any]) -> SpikingModel:
        ann = copy.deepcopy(_converted(snn).ann)
        if ann is None:
            raise ConfigError("percentiles are those of the network as trained: load(folder, model=...) brings it back")
        names = [name for name, module in ann.named_modules() if isinstance(module, Quantised)]
        inputs = [
            inputs_and_labels(batch, len(snn.settings.arguments))[0]
            for batch in checked_batches(batches, "take percentiles of")
        ]
        for name, threshold in percentiles(ann, names, inputs, self.percentile).items():
            module = ann.get_submodule(name)
            if isinstance(module, CQReLU):
                module.set_threshold(threshold)
            elif isinstance(module, Quantised):
                module.threshold = threshold
        settings = snn.settings
        return convert(ann, settings.adapter, neuron=self.neuron, schedule=self.schedule, numerics=settings.numerics)


@dataclass(frozen=True)
class Calibrated(Method):
    """Biases and initial potentials calibrated layer by layer (Li et al. 2022, "Converting Artificial Neural Networks to
    Spiking Neural Networks via Parameter Calibration"), weights being left as they are.

    With `e = mean(l / q - N / T)` over samples, and over the positions of a channel, the bias of the channel grows by
    `theta * e`; then, with what is left of `e`, the initial potential of each neuron by `theta * T * e`; that only where
    samples share a neuron, which the tokens of different texts do not. A layer is calibrated behind calibrated ones.

    Args:
        steps: T, for which it is calibrated.
    """

    steps: int = 32

    reads_data = True

    def __post_init__(self) -> None:
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            raise ConfigError(f"Calibrated: steps must be an integer of at least 1; got {self.steps!r}")

    def network(self, snn: SpikingModel, batches: Iterable[Any]) -> SpikingModel:
        """As `Method.network`; all of the first batch is used at once.

        Raises:
            InputError: there is no batch.

        >>> from torch import nn
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(4, 8), CQReLU(q=4), nn.Linear(8, 2))
        >>> method = Calibrated(neuron=IF(), schedule=Continuous(), steps=3)
        >>> snn, x = convert(model), torch.rand(64, 4)
        >>> before, after = (network.simulate(x, T=3) for network in (Method(neuron=IF(),
        ...     schedule=Continuous()).network(snn, []), method.network(snn, [x])))
        >>> error = lambda simulation: float((simulation.logits[-1] - snn.reference(x)).mean(0).abs().sum())
        >>> error(after) < error(before)
        True
        """
        calibrated = _converted(snn).under(self.neuron, self.schedule).with_own_layers()
        inputs, _ = inputs_and_labels(next(checked_batches(batches, "calibrate on")), len(snn.settings.arguments))
        _, levels = snn.reference_counts(inputs, {})
        rates = {name: level.double() / snn.settings.levels for name, level in levels.items()}
        calibrated.evaluated(CalibrationRun(calibrated, self.steps, rates), inputs)
        return calibrated


def _converted(snn: SpikingModel) -> SpikingModel:
    """`snn`, if it is a converted network.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(snn, SpikingModel):
        raise ConfigError(f"a method simulates a converted network; got {type(snn).__name__}")
    return snn


class CalibrationRun(SpikingRun):
    """A run of `steps` steps that calibrates each layer of a network as it comes to it, to these rates of its neurons."""

    def __init__(self, snn: SpikingModel, steps: int, rates: Mapping[str, Tensor]) -> None:
        super().__init__(snn.settings.numerics, snn.settings.neuron, snn.settings.schedule, steps)
        self.rates = rates

    def correction(
        self, name: str, train: Tensor, attempt: int, neurons_last: bool, real: Tensor | None
    ) -> tuple[str, Tensor] | None:
        """What to add to the layer's "bias" (at its first attempt) or "charge" (at its second), in thresholds.

        Args:
            train: its spikes `[steps, *shape]`.
            neurons_last: the last dimension counts its channels; else dimension 1 does, and each position is a neuron of
                its own.
            real: `[*shape]` bool, which neurons are no padding; None: all.
        """
        if attempt > 1:
            return None
        steps = sum(self.awake)
        error = self.rates[name] - train.sum(0, dtype=torch.float64) / steps
        channel = error.dim() - 1 if neurons_last else 1
        others = [dim for dim in range(error.dim()) if dim != channel]
        if attempt == 0:
            count = error.numel() / error.shape[channel] if real is None else float(real.sum()) / error.shape[channel]
            mean = error.sum(others) / count
            return "bias", mean if neurons_last else mean.reshape(-1, *[1] * (error.dim() - 2))
        if neurons_last and error.dim() > 2:
            return None  # tokens share their neurons' parameters, so another charge is another bias
        return "charge", error.mean(0) * steps


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
        "recurrent layers by bias alone",
    ),
}  # fmt: skip
"""Other conversion methods."""


def methods_for(snn: SpikingModel, T: int, trained: bool = True) -> dict[str, Method]:
    """The methods that apply to a network: the four, and the rivals.

    In a network whose activations round to the nearest level (`half_step`), potentials begin half way under every method.
    IF with continuous input is then QCFS, or OPI if the network has only been calibrated, and is listed once.

    Args:
        T: steps of the comparison, for which ACP is calibrated.
        trained: the network was trained with these activations; False: it has only been calibrated.
    """
    half = any(getattr(op, "charge", None) is not None for op in _converted(snn).operations() if op.is_layer)
    acp = RIVALS["ACP"]
    assert isinstance(acp, Calibrated)
    methods = FOUR | RIVALS | {"ACP": replace(acp, steps=T)}
    if not half:
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
