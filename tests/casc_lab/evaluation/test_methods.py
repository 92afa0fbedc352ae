"""The four methods over a test set, and what is written of them, against a direct computation."""

from __future__ import annotations

import json

import pytest
import torch
from user_models import TOKENS, user_model

import casc_core
from casc_core.rivals.methods import FOUR
from casc_lab.evaluation.accuracy import Batch, logits_of
from casc_lab.evaluation.methods import evaluate
from casc_lab.evaluation.results import (
    Published,
    PublishedRow,
    as_json,
    exactness_lines,
    tables,
    write_results,
)

STEPS = [1, 2, 4, 8]
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])


def batches(share):
    for index in share.of(torch.tensor([4, 0, 2, 6, 1, 3, 5]).split(3)):
        yield Batch((TOKENS[index],), LABELS[index], index)


@pytest.fixture(scope="module")
def trio():
    ann = casc_core.prepare(user_model(lambda self, t: self.fc(self.states(t).mean(1)), seed=5), q=4).eval()
    snn = casc_core.convert(ann)
    said: list[str] = []
    return ann, snn, evaluate(ann, snn, batches, STEPS, announce=said.append), said


def percent(logits):
    return round(100 * float((logits.argmax(-1) == LABELS).double().mean()), 4)


def test_accuracies_equal_a_direct_computation(trio):
    ann, snn, evaluation, said = trio
    assert evaluation.ann.value == percent(ann(TOKENS))
    assert evaluation.reference.value == percent(snn.reference(TOKENS))
    assert said == [", ".join(["ANN", "reference", *FOUR]), "accuracy"]
    assert list(evaluation.methods) == list(FOUR)
    for name, method in FOUR.items():
        result, network = evaluation.methods[name], snn.under(method.neuron, method.schedule)
        for step in STEPS:
            logits = network.simulate(TOKENS, T=step).logits[-1]
            assert result.scores[str(step)].value == percent(logits)
            differ = int((logits.argmax(-1) != snn.reference(TOKENS).argmax(-1)).sum())
            assert result.scores[str(step)].mismatches == result.scores[str(step)].differences == differ
        silent = result.scores["silent"]
        assert (silent and silent.value) == (None if "WSC" not in name else percent(network(TOKENS)))
        readouts = network.simulate(TOKENS, T=len(result.scores_by_step)).logits
        assert [score.value for score in result.scores_by_step.values()] == [percent(each) for each in readouts]
    assert torch.equal(evaluation.silent_at, snn.simulate(TOKENS).silent_at)


def test_energy_is_that_of_an_analysis(trio):
    _, snn, evaluation, _ = trio
    analysis = casc_core.analyse(snn, [TOKENS])
    energy = analysis.energy() / 1e3
    for step in STEPS:
        expected = float(energy[min(step, len(energy)) - 1])
        assert evaluation.ours.energy[str(step)] == pytest.approx(expected, abs=1e-3)
    assert evaluation.ours.energy["silent"] == pytest.approx(float(energy[-1]), abs=1e-3)
    assert evaluation.ours.ann_energy == pytest.approx(analysis.ann_energy() / 1e3, abs=1e-3)
    assert evaluation.methods["baseline"].energy["silent"] is None


def test_exact_at_is_where_the_logits_become_the_reference_s_and_stay(trio):
    _, snn, evaluation, _ = trio
    reference = snn.reference(TOKENS)
    for name in ("baseline", "baseline+CIF+WSC"):
        result, expected = evaluation.methods[name], []
        network = snn.under(FOUR[name].neuron, FOUR[name].schedule)
        logits = network.simulate(TOKENS, T=len(result.scores_by_step)).logits
        for sample in range(len(TOKENS)):
            equal = [torch.equal(step[sample], reference[sample]) for step in logits]
            later = [step for step in range(1, len(equal) + 1) if all(equal[step - 1 :])]
            expected.append(later[0] if later else 0)
        assert result.exact_at.tolist() == expected
    assert evaluation.exact_at == max(expected)


def test_a_test_set_that_is_empty_or_not_each_sample_once_is_refused(trio):
    with pytest.raises(casc_core.InputError, match="test set is empty"):
        logits_of(trio[0], lambda share: [])
    with pytest.raises(casc_core.InputError, match="each of the samples once"):
        logits_of(trio[0], lambda share: [*batches(share), *batches(share)])
    with pytest.raises(casc_core.InputError, match="each of the samples once"):
        evaluate(*trio[:2], lambda share: [*batches(share), *batches(share)], STEPS)


def test_the_exact_method_has_no_differences(trio):
    evaluation = trio[2]
    assert evaluation.end.mismatches == 0
    assert evaluation.ours.largest_difference == 0.0


def test_written_results(trio, tmp_path):
    evaluation = trio[2]
    write_results(tmp_path / "out", evaluation, {"data": "here", "train_examples": 5}, "A title")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"ann_accuracy", "reference_accuracy", "accuracy", "prediction_mismatches", "max_logit_difference",
            "steps_to_silence", "data", "train_examples"} <= set(found)  # fmt: skip
    assert list(found["accuracy"]) == list(FOUR)
    assert list(found["accuracy"]["baseline"]) == ["1", "2", "4", "8", "silent"]
    assert found["accuracy"]["baseline"]["silent"] is None
    assert set(found["steps_to_silence"]) == {"mean", "p50", "p99", "max"}
    png = (tmp_path / "out" / "accuracy.png").read_bytes()
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(png) > 5000
    assert "A title" in (tmp_path / "out" / "table.md").read_text()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["accuracy.png", "results.json", "table.md"]


def rows_of(table):
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_tables(trio):
    evaluation = trio[2]
    accuracy, differing, energy = map(rows_of, tables(evaluation))
    header = ["T=1", "T=2", "T=4", "T=8", "silent"]
    assert accuracy[0] == ["accuracy (%)", *header]
    assert [row[0] for row in accuracy[2:]] == [*FOUR, "ANN"]
    assert accuracy[2][-1] == "never"
    assert accuracy[-1][1:] == [f"{evaluation.ann.value:.2f}"] * 5
    assert differing[0] == ["predictions that differ", *header]
    assert [row[0] for row in differing[2:]] == list(FOUR)
    assert differing[2][-1] == "never"
    assert differing[-1][-1] == "0"
    assert differing[2][1] == str(evaluation.methods["baseline"].scores["1"].mismatches)
    assert energy[0] == ["energy (nJ a sample)", *header]
    assert float(energy[-2][-1]) == pytest.approx(evaluation.ours.energy["silent"], rel=1e-3)
    assert "predictions of 0 of 7 samples differ" in exactness_lines(evaluation)


def test_the_paper_s_figures_are_shown_as_the_paper_s(trio):
    row = PublishedRow("baseline", 87.7, {2: 80.51, 16: 82.96})
    published = Published("Table 0, a data set", "accuracy (%)", [row, PublishedRow("theirs", 90.0, {16: 90.0})])
    *ours, last = tables(trio[2], published)
    said, _, table = last.partition("\n\n")
    assert said == "The paper's own figures, Table 0, a data set:"
    assert rows_of(table)[0] == ["accuracy (%)", "ANN", "T=2", "T=16"]
    assert rows_of(table)[2:] == [["baseline", "87.70", "80.51", "82.96"], ["theirs", "90.00", "-", "90.00"]]
    assert ours == tables(trio[2])
    assert as_json(trio[2], published)["published"]["rows"][0]["over_time"][2] == 80.51
    assert as_json(trio[2])["published"] is None


def test_an_unwritable_place(trio, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(casc_core.StorageError, match="cannot write"):
        write_results(tmp_path / "file" / "out", trio[2], {}, "title")
