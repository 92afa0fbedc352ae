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
    accuracy_table,
    as_json,
    exactness_lines,
    mismatch_table,
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
    assert evaluation.ann_accuracy == percent(ann(TOKENS))
    assert evaluation.reference_accuracy == percent(snn.reference(TOKENS))
    assert list(evaluation.methods) == list(FOUR) == said[2:]
    for name, method in FOUR.items():
        result, network = evaluation.methods[name], snn.under(method.neuron, method.schedule)
        for step in STEPS:
            logits = network.simulate(TOKENS, T=step).logits[-1]
            assert result.accuracy[str(step)] == percent(logits)
            differ = int((logits.argmax(-1) != snn.reference(TOKENS).argmax(-1)).sum())
            assert result.mismatches[str(step)] == differ
        silent = None if "WSC" not in name else percent(network(TOKENS))
        assert result.accuracy["silent"] == silent
        readouts = network.simulate(TOKENS, T=len(result.accuracy_by_step)).logits
        assert [round(float(each), 4) for each in result.accuracy_by_step] == [percent(each) for each in readouts]
    assert torch.equal(evaluation.silent_at, snn.simulate(TOKENS).silent_at)


def test_exact_at_is_where_the_logits_become_the_reference_s_and_stay(trio):
    _, snn, evaluation, _ = trio
    reference = snn.reference(TOKENS)
    for name in ("baseline", "baseline+CIF+WSC"):
        result, expected = evaluation.methods[name], []
        network = snn.under(FOUR[name].neuron, FOUR[name].schedule)
        logits = network.simulate(TOKENS, T=len(result.accuracy_by_step)).logits
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


def test_the_exact_method_has_no_differences(trio):
    evaluation = trio[2]
    assert evaluation.prediction_mismatches == 0
    assert evaluation.max_logit_difference == 0.0
    assert evaluation.methods["baseline+CIF+WSC"].mismatches["silent"] == 0


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


def test_table(trio):
    lines = accuracy_table(trio[2]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["accuracy (%)", "T=1", "T=2", "T=4", "T=8", "silent"]
    assert [row[0] for row in cells[2:]] == [*FOUR, "ANN"]
    assert cells[2][-1] == "never"
    assert cells[-1][1:] == [f"{trio[2].ann_accuracy:.2f}"] * 5
    assert len({len(line) for line in lines}) == 1
    assert "predictions of 0 of 7 samples differ" in exactness_lines(trio[2])


def test_the_paper_s_figures_are_shown_as_the_paper_s(trio):
    published = Published("Table 0, a data set", 87.7, {"baseline": {2: 80.51, 4: 82.96}})
    text = accuracy_table(trio[2], published)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert cells[-2] == ["baseline", "-", "80.51", "82.96", "-", "-"]
    assert cells[-1] == ["ANN", *["87.70"] * 5]
    assert "The paper's own figures, Table 0, a data set:" in text
    assert text.startswith(accuracy_table(trio[2]))
    assert as_json(trio[2], published)["published"]["accuracy"]["baseline"][2] == 80.51
    assert as_json(trio[2])["published"] is None


def test_mismatch_table(trio):
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in mismatch_table(trio[2]).splitlines()]
    assert cells[0] == ["predictions that differ", "T=1", "T=2", "T=4", "T=8", "silent"]
    assert [row[0] for row in cells[2:]] == list(FOUR)
    assert cells[2][-1] == "never"
    assert cells[-1][-1] == "0"
    assert cells[2][1] == str(trio[2].methods["baseline"].mismatches["1"])


def test_an_unwritable_place(trio, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(casc_core.StorageError, match="cannot write"):
        write_results(tmp_path / "file" / "out", trio[2], {}, "title")
