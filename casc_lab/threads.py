"""How the threads of torch wait for one another: a moment awake, then asleep.

torch divides each operation among threads of OpenMP, which meet at its end. GNU's OpenMP, that of torch's wheels for
Linux, lets a thread that is early spin there for some milliseconds. Where another program holds one of the cores, the
late thread needs that core back, and each of thousands of small operations lasts as long as a turn of the scheduler.
A thread that spins for some 50 microseconds only loses nothing on a quiet machine, and little on a busy one; a thread
that sleeps at once makes a quiet machine slower. How many threads there are stays as it is, and with it every bit of a
result: how a thread waits does not change what it computes.
"""

from __future__ import annotations

import os

SPINS = "1000"
"""Rounds of spinning before a thread sleeps."""
_CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def spin_briefly() -> None:
    """Have OpenMP's threads spin briefly, in this process and those that it starts, unless the environment says how.

    GNU's OpenMP reads the environment while it is loaded, so call it before torch is imported; afterwards, it is for
    processes started from here alone. Another OpenMP, such as that of torch on macOS, takes no notice.

    >>> spin_briefly()
    >>> "GOMP_SPINCOUNT" in os.environ or "OMP_WAIT_POLICY" in os.environ
    True
    """
    if not any(os.environ.get(name) for name in _CHOSEN):
        os.environ[_CHOSEN[0]] = SPINS
