"""One text through a converted network: its words, spikes and class probabilities step by step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import casc_core
from casc_core.errors import InputError, StorageError
from casc_core.operations import Recorder
from casc_core.reporting.predictions import reading
from casc_core.reporting.series import zero_padded
from casc_core.reporting.summaries import Summarised
from casc_core.storage.strict import of, strings
from casc_lab.evaluation.results_folder import NETWORK, RESULTS, results_of
from casc_lab.training.store import component, read_description
from casc_seq.experiment import TextPipeline, Tokenizer
from casc_seq.text.tokenizer import UNKNOWN


@dataclass(frozen=True, repr=False)
class ClassifiedText(Summarised):
    """A text as a network classifies it, in spikes.

    Attributes:
        words: what it reads, `known` or not.
        classes: their names.
        probabilities: `[T, classes]`, softmax of the readout after each step.
        spikes: by layer, `[T, words, neurons]` int8.
        silent_at: the last step at which anything spiked; None: the run was cut off before the network was silent.
        exact: whether the logits are the reference's, bit for bit.
    """

    text: str
    words: list[str]
    known: list[bool]
    classes: list[str]
    probabilities: Tensor
    spikes: dict[str, Tensor]
    silent_at: int | None
    exact: bool

    @property
    def when(self) -> str:
        """When it fell silent, if it did."""
        if self.silent_at is None:
            return f"cut off after step {len(self.probabilities)}, not yet silent"
        return f"silent after step {self.silent_at}"

    @property
    def answer(self) -> int:
        """The class with the largest probability at the end."""
        return int(self.answers[-1])

    @property
    def answers(self) -> Tensor:
        """`[T]`: the class with the largest probability after each step."""
        return reading(self.probabilities.shape).classes(self.probabilities)


def classify_text(folder: Path, text: str, T: int | None = None) -> ClassifiedText:
    """One text through the network in a recipe's output folder.

    Raises:
        StorageError: the folder does not hold one. InputError: the text has no words.
    """
    snn, tokenizer, classes, max_len = _network(folder)
    tokens = tokenizer.encode([text], max_len)[0]
    if not text.strip() or not tokens:
        raise InputError(f"there is no word to read in {text!r}")
    inputs = torch.tensor([tokens]), torch.tensor([len(tokens)])
    recorder = Recorder(keep_trains=True)
    simulation = snn.simulate_recorded(inputs, {}, T, recorder)
    if simulation.logits.dim() != 3 or simulation.logits.shape[-1] != len(classes):
        raise StorageError(
            f"{folder}: its network gives {list(simulation.logits.shape[2:])} scores, its classifier has {len(classes)} "
            "classes: they are of two trainings; run the recipe again"
        )
    return ClassifiedText(
        text,
        tokenizer.words(tokens),
        [token != UNKNOWN for token in tokens],
        classes,
        simulation.logits[:, 0].double().softmax(-1),
        {name: zero_padded(train, simulation.T)[:, 0] for name, train in recorder.trains.items() if train.dim() == 4},
        None if T is not None and int(snn.simulate(*inputs).silent_at[0]) > T else int(simulation.silent_at[0]),
        torch.equal(simulation.logits[-1], snn.reference(*inputs)),
    )


def _network(folder: Path) -> tuple[casc_core.SpikingModel, Tokenizer, list[str], int]:
    with results_of(folder, "text", "; name one with --network") as results:
        kind = of(str, results["options"]["tokenizer"], "tokenizer")
        max_len = of(int, results["options"]["max_len"], "max_len")
        home = folder / component(results["classifier"], folder / RESULTS)
        classes = strings(read_description(home)["classes"], "classes")
    tokenizer: Tokenizer = TextPipeline(kind).tokenizer_type().load(home / "tokenizer")
    return casc_core.load(folder / NETWORK), tokenizer, classes, max_len
