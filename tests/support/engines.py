"""Every way in which the engine can compute: instructions of the compiled kernels, or none, and kinds of product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from emulated import EMULATED
from torch import Tensor

from casc_core.engine import kernels
from casc_core.engine.products import spike_product as product
from casc_core.engine.products.input_product import InputProduct

COMPILED = kernels.all_instructions()[1:]
# Within `emulated.emulation`, as the tests of kernels are.
COMPILED_OR_EMULATED = [*COMPILED, *EMULATED] if COMPILED else []
ENGINES: list[tuple[str | None, str | None]] = [(kernels.instructions(), None), (None, "float"), (None, "int8")]
ENGINES += [(choice, way) for choice in COMPILED for way in ("rows", "int8")]


@contextmanager
def engine(choice: tuple[str | None, str | None]) -> Iterator[None]:
    """Compute this way: instructions, and the kind of product (None: the cheapest)."""
    with ExitStack() as stack:
        stack.enter_context(kernels.using(choice[0]))
        if choice[1] is not None:
            stack.enter_context(product.only(choice[1]))
        yield


def convolution(
    terms: Sequence[tuple[kernels.PackedConvolution, Tensor]],
    blocks: kernels.Blocks,
    shape: tuple[int, int, int, int],
    drive: Tensor | None,
    exponent: int,
    thresholds: Tensor,
    neuron: kernels.KernelNeuron,
    guess: int,
    potential: Tensor | None = None,
    exact: kernels.Exact | None = None,
) -> Tensor:
    """The spikes of a population behind packed convolutions, each with the train that goes through it."""
    filters = tuple(packed for packed, _ in terms)
    population = kernels.SpikingPopulation(filters, blocks, exponent, thresholds, neuron, drive, potential, exact)
    return kernels.convolution(population, [train for _, train in terms], shape, guess)


def driven_spikes(
    drive: InputProduct,
    shape: torch.Size,
    exponent: int,
    threshold: Tensor | float,
    potential: Tensor | float,
    most: float,
    neuron: kernels.KernelNeuron,
    guess: int,
    fire: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor | None:
    """Those of a population that a product of real-valued input drives; None: no compiled kernel takes them."""
    population = drive.population(shape, exponent, threshold, potential, most, neuron)
    return None if population is None else drive.spikes(population, shape, guess, fire)
