"""The sweep over levels: its figures against a direct computation, and only what is missing is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from user_models import TOKENS, user_model

import casc_core
from casc_core.errors import StorageError
from casc_lab.distributed import Share
from casc_lab.evaluation.accuracy import Batch
from casc_lab.evaluation.methods import Evaluation, evaluate
from casc_lab.evaluation.sweep import levels_row, sweep

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])
PUBLISHED = {4: (94.62, 94.64, 9)}


def batches(share: Share) -> list[Batch]:
    return [Batch((TOKENS[i],), LABELS[i], i) for i in share.of(torch.arange(7).split(4))]


def run(q: int | None) -> Evaluation:
    ann = casc_core.prepare(user_model(lambda self, t: self.fc(self.states(t).mean(1)), seed=5), q=q or 2).eval()
    return evaluate(ann, casc_core.convert(ann), batches, [1, 2])


def test_a_row_is_what_a_direct_computation_gives() -> None:
    evaluation = run(4)
    found = levels_row(4, evaluation)
    ann = casc_core.prepare(user_model(lambda self, t: self.fc(self.states(t).mean(1)), seed=5), q=4).eval()
    snn = casc_core.convert(ann)
    simulation = snn.simulate(TOKENS)
    accuracies = [round(100 * float((logits.argmax(-1) == LABELS).double().mean()), 4) for logits in simulation.logits]
    reference = snn.reference(TOKENS)
    assert found.q == 4
    assert found.best == max(accuracies)
    assert found.best_at == accuracies.index(max(accuracies)) + 1
    assert found.silent == accuracies[-1]
    assert found.silent_at == int(simulation.silent_at.max())
    equal = [torch.equal(logits, reference) for logits in simulation.logits]
    assert found.exact_at == min(step for step in range(1, len(equal) + 1) if all(equal[step - 1 :]))


def test_what_was_done_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[int | None] = []

    def watched(q: int | None) -> Evaluation:
        if len(asked) == 2:
            raise InterruptedError
        asked.append(q)
        return run(q)

    def again(q: int | None) -> Evaluation:
        asked.append(q)
        return run(q)

    with pytest.raises(InterruptedError):
        sweep([None, 4, 2], watched, tmp_path, key=lambda q: f"{q} levels", title="Levels")
    found = sweep([None, 4, 2], again, tmp_path, key=lambda q: f"{q} levels", published=PUBLISHED, title="Levels")
    assert asked == [None, 4, 2]
    assert [line.q for line in found] == [None, 4, 2]
    kept = json.loads((tmp_path / "sweep.json").read_text())
    assert [line["q"] for line in kept["rows"]] == [None, 4, 2]
    text = (tmp_path / "sweep.md").read_text()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert cells[0][0] == "q"
    assert cells[0][-3:] == ["paper: ANN", "paper: SNN best", "paper: T"]
    assert [line[0] for line in cells[2:]] == ["none", "4", "2"]
    assert [line[-3:] for line in cells[2:]] == [["-", "-", "-"], ["94.62", "94.64", "9"], ["-", "-", "-"]]
    assert "q=4: found" in capsys.readouterr().err

    assert len(sweep([4], again, tmp_path, key=lambda q: f"{q} levels")) == 1
    assert asked == [None, 4, 2]
    sweep([4], again, tmp_path, key=lambda q: f"{q} levels, other options")
    assert asked == [None, 4, 2, 4]
    sweep([4], again, tmp_path, key=lambda q: f"{q} levels", again=True)
    assert asked == [None, 4, 2, 4, 4]
    # Nor is what other options gave forgotten.
    sweep([None, 2], again, tmp_path, key=lambda q: f"{q} levels")
    assert asked == [None, 4, 2, 4, 4]


@pytest.mark.parametrize("content", ["{", "{}", '{"kept": {"a": {"q": 2}}}', '{"kept": 3}'])
def test_a_file_that_is_no_sweep_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(StorageError, match=r"sweep\.json is not a sweep"):
        sweep([2], run, tmp_path, key=str)
