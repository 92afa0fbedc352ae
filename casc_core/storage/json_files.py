"""Results as JSON files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from casc_core.storage.files import write_whole


def write_json(path: Path, value: Any) -> None:
    """Write plain numbers, texts, lists and dictionaries to a file, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    write_whole(path, json.dumps(value, indent=2) + "\n")
