"""Names and seeds made from what they stand for."""

from __future__ import annotations

import json
from typing import Any

from casc_core.storage.checksum import sha256


def digest(*parts: Any) -> str:
    """A long name, which differs where any part does: anything that JSON can hold.

    >>> digest({"q": 8}, [1, 2])[:12]
    '8043291dfa83'
    """
    return sha256([json.dumps(parts, sort_keys=True).encode()])


def mixed(*numbers: int) -> int:
    """A seed, from 0 to 2**63 - 1, which differs where any of `numbers` does.

    >>> mixed(0, 1) == mixed(0, 1), mixed(0, 1) == mixed(1, 0)
    (True, False)
    """
    return int(digest(*numbers)[:16], 16) >> 1
