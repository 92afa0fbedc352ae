"""How long the trains of a recurrence get: each position may go on for longer than the one before it, but hardly does."""

from __future__ import annotations

from casc_core.extend import Run

# Steps that a train may go on beyond what its positions need one by one.
_SPARE = 16


class TrainLengths:
    """The steps that runs of one recurrence have needed, by where they are cut; what later ones are expected to need.

    >>> lengths = TrainLengths()
    >>> lengths.note(100, 12)
    >>> lengths.note(100, 9)  # one long run is forgotten little by little
    >>> lengths.guess(100)
    11
    """

    def __init__(self) -> None:
        self._steps: dict[int, int] = {}

    def guess(self, cut: int) -> int:
        """Steps that a run which is cut there may need; 0 before there was any."""
        return self._steps.get(cut, 0)

    def note(self, cut: int, steps: int) -> None:
        """A run has needed so many."""
        self._steps[cut] = max(steps, self.guess(cut) - 1)

    @property
    def seen(self) -> int:
        """The longest train so far, rounded up to a power of two."""
        longest = max(self._steps.values(), default=0)
        return 1 << (longest - 1).bit_length() if longest else 0

    def longest(self, run: Run, arriving: int, positions: int, levels: int | None = None) -> int:
        """How long the train of this many positions may be.

        Each may go on for as many steps as it has spikes to give or to take back after that before it, which none does;
        twice as long as any has been is taken for the most.

        Args:
            arriving: steps of what they receive.
            levels: those that a position settles, one after another; None: as many as there are wake steps.
        """
        most = arriving
        for _ in range(positions):
            most = run.longest(most, levels)
        usual = max(arriving, len(run.wake_weights())) + 3 * run.total + _SPARE
        return min(most, max(usual, 2 * self.seen))
