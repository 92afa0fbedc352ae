"""The compiled kernels: sparse products, the neuron's loop over time, whole recurrences. For CPU tensors.

Each has a counterpart in plain torch that gives the same bits; callers use that where `ready` says no, or where a
function returns None because the integers of a kernel might not hold a sum. The library is compiled when the package is
installed (`src/dispatch.c`) and loaded with ctypes, so that its calls run on several threads at once.
"""

from casc_core.engine.kernels.cells import CellKind, cell, cell_gradient
from casc_core.engine.kernels.convolution import (
    Blocks,
    Exact,
    PackedConvolution,
    SpikingPopulation,
    can_be_tabled,
    convolution,
    fits_int32,
    is_own,
    pack_convolution,
)
from casc_core.engine.kernels.counting import agreement, sum_middle, tally
from casc_core.engine.kernels.currents import CurrentWeights, currents, pack_currents
from casc_core.engine.kernels.dense import Begin, DensePopulation, dense, dense_population
from casc_core.engine.kernels.driven import Driven, driven, pack_driven
from casc_core.engine.kernels.gated import GatedWeights, gated
from casc_core.engine.kernels.loader import all_instructions, empty, forked, instructions, ready, using
from casc_core.engine.kernels.maxima import maxima
from casc_core.engine.kernels.neurons import KernelNeuron, Margin, levels, scan, scans
from casc_core.engine.kernels.recurrence import ExactCurrents, RecurrentSpikes, Sequences, recurrence
from casc_core.engine.kernels.rounding import (
    Reads,
    Rounds,
    SplitWeights,
    in_blocks,
    products,
    round_sums,
    rounded_products,
)
from casc_core.engine.kernels.rows import (
    INT32_UNITS,
    LARGEST_COUNT,
    NEAR,
    SUM_BITS,
    PackedWeights,
    Rounding,
    count_rows,
    narrow_exponent,
    pack,
    rows,
)

__all__ = [
    "INT32_UNITS",
    "LARGEST_COUNT",
    "NEAR",
    "SUM_BITS",
    "Begin",
    "Blocks",
    "CellKind",
    "CurrentWeights",
    "DensePopulation",
    "Driven",
    "Exact",
    "ExactCurrents",
    "GatedWeights",
    "KernelNeuron",
    "Margin",
    "PackedConvolution",
    "PackedWeights",
    "Reads",
    "RecurrentSpikes",
    "Rounding",
    "Rounds",
    "Sequences",
    "SpikingPopulation",
    "SplitWeights",
    "agreement",
    "all_instructions",
    "can_be_tabled",
    "cell",
    "cell_gradient",
    "convolution",
    "count_rows",
    "currents",
    "dense",
    "dense_population",
    "driven",
    "empty",
    "fits_int32",
    "forked",
    "gated",
    "in_blocks",
    "instructions",
    "is_own",
    "levels",
    "maxima",
    "narrow_exponent",
    "pack",
    "pack_convolution",
    "pack_currents",
    "pack_driven",
    "products",
    "ready",
    "recurrence",
    "round_sums",
    "rounded_products",
    "rows",
    "scan",
    "scans",
    "sum_middle",
    "tally",
    "using",
]
