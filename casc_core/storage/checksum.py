"""SHA-256, and a checksum inside the text that it is of: any changed bit, there or in what lies beside it, is noticed.

It guards against damage, and not against someone who means harm, and would make it anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

# As JSON has it, with a space or, in the header of safetensors, without.
_FIELD = re.compile(rb'"sha256": ?"([0-9a-f]{64})"')
BLANK = "0" * 64
"""What stands in the text's field "sha256" until the checksum does."""


def sha256(parts: Iterable[bytes]) -> str:
    """The SHA-256 of the parts, one behind another, as 64 hexadecimal digits.

    >>> sha256([b"a", b"b"]) == sha256([b"ab"])
    True
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def with_checksum(text: bytes, *beside: bytes) -> bytes:
    """`text`, with the checksum of it and of what lies beside it in the place of `BLANK`.

    >>> text = with_checksum(b'{"sha256": "%s", "q": 2}' % BLANK.encode(), b"numbers")
    >>> is_whole(text, b"numbers"), is_whole(text, b"others"), is_whole(text.replace(b"2}", b"3}"), b"numbers")
    (True, False, False)
    """
    found = _FIELD.search(text)
    if found is None or found.group(1) != BLANK.encode():
        raise ValueError("the text has no blank checksum")
    return _filled(text, found, _checksum(text, *beside))


def is_whole(text: bytes, *beside: bytes) -> bool:
    """Whether `with_checksum` gave this text for what lies beside it."""
    found = _FIELD.search(text)
    return found is not None and found.group(1) == _checksum(_filled(text, found, BLANK.encode()), *beside)


def _filled(text: bytes, found: re.Match[bytes], checksum: bytes) -> bytes:
    return text[: found.start(1)] + checksum + text[found.end(1) :]


def _checksum(*parts: bytes) -> bytes:
    return sha256(piece for part in parts for piece in (f"{len(part)}\n".encode(), part)).encode()
