"""Exact conversion of trained PyTorch networks into spiking networks, by the CASC method.

>>> import torch, casc_core
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
>>> ann = casc_core.prepare(model, q=2)  # ReLU -> CQReLU; train it as usual
>>> snn = casc_core.convert(ann)         # CIF neurons, wake-sleep schedule, exact arithmetic
>>> casc_core.verify(snn, torch.randn(5, 4)).exact
True

What this module and `casc_core.extend` (adapters, operations of your own) export is public; all else is internal.
"""

from importlib.metadata import version

from casc_core.activation import CQReLU, Rounded, cq_relu
from casc_core.conversion.adapter import Adapter
from casc_core.conversion.calibrate import Calibration, calibrate
from casc_core.conversion.convert import convert
from casc_core.conversion.load import load
from casc_core.conversion.prepare import prepare
from casc_core.errors import (
    CascError,
    ConfigError,
    ConversionError,
    DataError,
    ExactnessError,
    InputError,
    StorageError,
)
from casc_core.evidence.analyse import analyse
from casc_core.evidence.analysis import Analysis, LayerAnalysis, OutputAnalysis
from casc_core.evidence.energy import EnergyTable
from casc_core.evidence.equivalence import EquivalenceReport, LayerEquivalence, OutputEquivalence
from casc_core.evidence.verify import verify
from casc_core.neuron import CIF, IF, LevelThresholds, Neuron, NeuronState
from casc_core.numerics import AsTrained, Exact
from casc_core.rivals import methods
from casc_core.rivals.neurons import SNM, SRP, Burst
from casc_core.schedule import Continuous, WakeSleep
from casc_core.simulation import LayerSpikes, Simulation
from casc_core.spiking_model import SpikingModel

__version__ = version("casc")

__all__ = [
    "CIF",
    "IF",
    "SNM",
    "SRP",
    "Adapter",
    "Analysis",
    "AsTrained",
    "Burst",
    "CQReLU",
    "Calibration",
    "CascError",
    "ConfigError",
    "Continuous",
    "ConversionError",
    "DataError",
    "EnergyTable",
    "EquivalenceReport",
    "Exact",
    "ExactnessError",
    "InputError",
    "LayerAnalysis",
    "LayerEquivalence",
    "LayerSpikes",
    "LevelThresholds",
    "Neuron",
    "NeuronState",
    "OutputAnalysis",
    "OutputEquivalence",
    "Rounded",
    "Simulation",
    "SpikingModel",
    "StorageError",
    "WakeSleep",
    "__version__",
    "analyse",
    "calibrate",
    "convert",
    "cq_relu",
    "load",
    "methods",
    "prepare",
    "verify",
]
