"""From a trained network to its results: convert, run the four methods over the test set, write everything down."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from casc_core.conversion.convert import convert
from casc_core.errors import NotExactError
from casc_core.numerics import of_bits
from casc_core.reporting.series import powers_of_two
from casc_lab import distributed
from casc_lab.distributed import say
from casc_lab.evaluation.accuracy import Batches
from casc_lab.evaluation.methods import Evaluation, evaluate
from casc_lab.evaluation.metric import Metric, OutputMeasures
from casc_lab.evaluation.results import Published, as_text, write_results


@dataclass(frozen=True)
class Experiment:
    """A trained network and its test set.

    Attributes:
        network: what is converted, with CQReLU activations, on the device where everything runs.
        adapter: its family, as `casc_core.convert` takes it.
        batches: the test set.
        title: one line.
        data: what the data is, without paths of this machine.
        train_examples, test_examples: how many.
        q: levels it was trained with; None: it was trained with plain ReLU.
        classifier: folder in which the network is kept.
        training: facts on the training.
        trained: the network as trained, where that is not `network`.
        published: the paper's figures, if it has some.
        calibration: gives some batches of training data, for the methods that look at data.
        recipe: its name among the entry points `casc.recipes`, whose `experiment` brings all this back.
        metric: what it is scored by.
        pictures: draws further ones from the evaluation, by the name of their file.
        facts: for `results.json`, beside what `facts` has of every experiment.
    """

    network: nn.Module
    adapter: str
    batches: Batches
    title: str
    data: str
    train_examples: int
    test_examples: int
    q: int | None
    classifier: str
    training: Mapping[str, Any]
    trained: nn.Module | None = None
    published: Published | None = None
    calibration: Callable[[], Iterable[tuple[Tensor, ...]]] | None = None
    recipe: str | None = None
    metric: Metric[Any, Any] = field(default_factory=OutputMeasures)
    pictures: Callable[[Evaluation], Mapping[str, bytes]] = lambda evaluation: {}
    facts: Mapping[str, Any] = field(default_factory=dict)


def report(
    experiment: Experiment,
    folder: Path,
    T: int,
    weight_bits: int | None,
    options: Mapping[str, Any],
    seconds: dict[str, float],
) -> Evaluation:
    """Convert and evaluate; the main process writes results.json, table.md, pictures and network/, and prints.

    Args:
        folder: output folder.
        T: largest number of time steps in the table.
        weight_bits: of the converted network; None: the network as trained.
        options: of the command line; anything.
        seconds: time of the phases so far; those of this function are added.

    Raises:
        ConversionError: the network cannot be converted. StorageError: the folder cannot be written.
        NotExactError: the spiking network is not the network that was converted; everything has been written by then.
    """
    with phase("convert", seconds):
        snn = convert(experiment.network, adapter=experiment.adapter, numerics=of_bits(weight_bits))
    with phase("evaluate", seconds):
        evaluation = evaluate(
            experiment.trained or experiment.network, snn, experiment.batches, powers_of_two(T), experiment.metric,
            announce=lambda name: say(f"  {name}"),
        )  # fmt: skip
    seconds |= {method: round(result.seconds, 2) for method, result in evaluation.methods.items()}
    if distributed.is_main():
        snn.save(folder / "network")
        extra = {**experiment.facts, **facts(experiment, T, options, seconds)}
        pictures = experiment.pictures(evaluation)
        written = write_results(folder, evaluation, extra, experiment.title, experiment.published, pictures)
        print(
            f"\n{as_text(evaluation, experiment.published)}\n\n{', '.join(written)} and the spiking network are in {folder}"
        )
    distributed.barrier()
    if not evaluation.exact:
        raise NotExactError(
            f"NOT EXACT: see {folder / 'table.md'}, and report it: the spiking network is not your network"
        )
    return evaluation


def facts(experiment: Experiment, T: int, options: Mapping[str, Any], seconds: Mapping[str, float]) -> dict[str, Any]:
    """What `results.json` says of a network, its data and the run, beside the results; its recipe finds it again so."""
    return {
        "train_examples": experiment.train_examples, "test_examples": experiment.test_examples,
        "data": experiment.data, "q": experiment.q, "T": T, "classifier": experiment.classifier,
        "recipe": experiment.recipe,
        "training": dict(experiment.training), "seconds": seconds,
        # Not where it was written: the folder may be moved, and given away. Where the data lies is how it is found again.
        "options": {
            name: str(value) if isinstance(value, Path) else value for name, value in options.items() if name != "out"
        },
        "machine": {
            "processes": distributed.share().world, "threads": torch.get_num_threads(),
            "device": _device_name(experiment.network),
        },
        "versions": {"python": sys.version.split()[0], "torch": torch.__version__},
    }  # fmt: skip


def _device_name(model: nn.Module) -> str:
    device = distributed.device_of(model)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def phase(name: str, seconds: dict[str, float]) -> Iterator[None]:
    """Time what happens within the block, in `seconds[name]`."""
    started = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - started, 2)
