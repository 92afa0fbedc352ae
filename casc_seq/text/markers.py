"""The marker task: which of two markers came last, many words ago. Nothing else tells the classes apart: it needs memory.

Each text is filler words with both markers among its first; a network that forgets is at chance.
"""

from __future__ import annotations

import random

CLASSES = ("red last", "blue last")
MARKERS = ("red", "blue")
LENGTH, SINCE, FILLERS = 40, 25, 30


def generate(count: int, seed: int = 0) -> tuple[list[str], list[int]]:
    """`count` texts of 40 words, the last marker 25 words or more from the end, and which marker that is (`CLASSES`).

    >>> texts, labels = generate(2)
    >>> [(text.split().index("red") > text.split().index("blue"), CLASSES[label]) for text, label in zip(texts, labels)]
    [(True, 'red last'), (False, 'blue last')]
    """
    rng = random.Random(seed)
    texts, labels = [], []
    for index in range(count):
        label = index % 2
        words = [f"word{rng.randrange(FILLERS)}" for _ in range(LENGTH)]
        first, last = sorted(rng.sample(range(LENGTH - SINCE), 2))
        words[first], words[last] = MARKERS[1 - label], MARKERS[label]
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels
