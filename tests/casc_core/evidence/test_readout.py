"""A readout over time, against loops over steps and samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from casc_core.errors import InputError
from casc_core.evidence.readout import readout_over_time

CASES = {
    "classes": ((3,), ()),
    "pixels": ((3, 2, 2), (2, 2)),
    "positions": ((4, 3), (4,)),
}


def made(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Readouts of six steps and five samples, which meet the reference from step 4 on but for one sample."""
    generator = torch.Generator().manual_seed(len(shape))
    readouts = torch.randint(0, 9, (6, 5, *shape), generator=generator).float()
    readouts[3:] = readouts[3]
    reference = readouts[-1].clone()
    reference[2] += 1
    return readouts, reference


@pytest.mark.parametrize(("shape", "places"), CASES.values(), ids=CASES)
def test_each_step_and_sample_by_itself(shape: tuple[int, ...], places: tuple[int, ...]) -> None:
    readouts, reference = made(shape)
    labels = torch.randint(0, 3, (5, *places), generator=torch.Generator().manual_seed(0))
    found = readout_over_time(readouts, reference, labels)
    dim = 1 if shape == (4, 3) else 0  # of a sample, the one that counts classes
    for step in range(6):
        squared, differing, right = 0.0, 0, 0.0
        for sample in range(5):
            own, other = readouts[step, sample], reference[sample]
            squared += float((own - other).square().mean())
            differing += int((own.argmax(dim) != other.argmax(dim)).any())
            right += float((own.argmax(dim) == labels[sample]).double().mean())
        assert float(found.squared_error[step]) == pytest.approx(squared)
        assert int(found.mismatches[step]) == differing
        assert found.scores is not None
        assert float(found.scores[step]) == pytest.approx(right)
    assert torch.equal(found.logits, readouts[-1])
    assert found.exact_at[2] == 0
    for sample in (0, 1, 3, 4):
        first = int(found.exact_at[sample])
        assert torch.equal(readouts[first - 1 :, sample], reference[sample].expand(7 - first, *shape))
        assert first == 1 or not torch.equal(readouts[first - 2, sample], reference[sample])


def test_numbers_are_met_by_so_much_and_nothing_without_labels() -> None:
    readouts, reference = made((3,))
    found = readout_over_time(readouts, reference, reference + 2.0)
    assert found.numbers
    assert found.scores is not None
    assert float(found.scores[-1]) == pytest.approx(4 * 4.0 + 9.0)  # one sample of five is off by one more
    assert found.mismatches.tolist() == [5 - int((each == reference).all(1).sum()) for each in readouts]
    assert readout_over_time(readouts, reference).scores is None


def test_labels_that_do_not_fit_are_refused() -> None:
    readouts, reference = made((3,))
    with pytest.raises(InputError, match="labels run from 3 to 3"):
        readout_over_time(readouts, reference, torch.full((5,), 3))
