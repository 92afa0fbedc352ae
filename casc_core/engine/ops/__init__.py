"""The operations of a lowered network.

Each is built at conversion from plain settings (kept as JSON) and tensors (kept as buffers), and runs on `Signal`s in
spikes and in levels alike. Tensors are natural values on a power-of-two grid, so they stay exact in floating point.
"""

from casc_core.engine.ops.affine import AffineMap, Linear, RequireFeatures, Scale, Shift, by_channel
from casc_core.engine.ops.arithmetic import Add, DividedByInput, Multiply, TimesInput, as_integers
from casc_core.engine.ops.bins import Bin, Unbin
from casc_core.engine.ops.convolution import Convolution, Convolution3d
from casc_core.engine.ops.inputs import Attribute, Call, Constant, Embed, Encode, Round, Silence, driven
from casc_core.engine.ops.interpolation import Interpolate, constant_parts
from casc_core.engine.ops.layout import Join, Layout, Pick
from casc_core.engine.ops.op import Op, device_of, entries
from casc_core.engine.ops.pooling import AdaptiveAveragePool, AdaptiveMaxPool, AveragePool, MaxPool, PoolAt
from casc_core.engine.ops.population import Fire, FireByLevel
from casc_core.engine.ops.reduction import MaskedFill, Max, Sum, dims_of

__all__ = [
    "AdaptiveAveragePool",
    "AdaptiveMaxPool",
    "Add",
    "AffineMap",
    "Attribute",
    "AveragePool",
    "Bin",
    "Call",
    "Constant",
    "Convolution",
    "Convolution3d",
    "DividedByInput",
    "Embed",
    "Encode",
    "Fire",
    "FireByLevel",
    "Interpolate",
    "Join",
    "Layout",
    "Linear",
    "MaskedFill",
    "Max",
    "MaxPool",
    "Multiply",
    "Op",
    "Pick",
    "PoolAt",
    "RequireFeatures",
    "Round",
    "Scale",
    "Shift",
    "Silence",
    "Sum",
    "TimesInput",
    "Unbin",
    "as_integers",
    "by_channel",
    "constant_parts",
    "device_of",
    "dims_of",
    "driven",
    "entries",
]
