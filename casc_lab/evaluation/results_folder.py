"""A recipe's output folder when it is read again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from casc_core.errors import StorageError
from casc_core.storage.files import read_whole
from casc_core.storage.strict import of, parsed

RESULTS, NETWORK = "results.json", "network"


@contextmanager
def results_of(folder: Path, kind: str = "", remedy: str = "") -> Iterator[dict[str, Any]]:
    """What `results.json` holds, its `options` among it; within the block, what is wrong with it is named.

    Args:
        folder: the output folder of a recipe.
        kind: of which kind: "text", "detection"; empty: any.
        remedy: what to do where it is none.

    Raises:
        StorageError: it is no such folder, or a value that the block reads is missing or of another type.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / RESULTS).write_text('{"options": {"q": 8}}')
    >>> with results_of(folder) as results:
    ...     q = of(int, results["options"]["q"], "q")
    >>> q
    8
    >>> with results_of(folder, "text") as results:
    ...     results["classifier"]
    Traceback (most recent call last):
    casc_core.errors.StorageError: ...results.json is damaged, or not that of a text recipe (KeyError: 'classifier')
    """
    recipe, path = f"a {kind} recipe" if kind else "a recipe", folder / RESULTS
    if not path.is_file():
        raise StorageError(
            f"{folder} is not the output folder of {recipe}: it holds no {RESULTS}{_elsewhere(folder) or remedy}"
        )
    results: dict[str, Any] = {}
    try:
        results = of(dict, parsed(read_whole(path), finite=False), "results")
        of(dict, results["options"], "options")
        yield results
    except (LookupError, TypeError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        said = f"{type(error).__name__}: {error}"
        by = f"; the recipe {results['recipe']!r:.80} wrote it" if isinstance(results.get("recipe"), str) else ""
        raise StorageError(f"{path} is damaged, or not that of {recipe} ({said:.300}){by}") from error


def _elsewhere(folder: Path) -> str:
    """Where the results may be that are looked for in a folder."""
    if (folder / "network.json").is_file():
        return "; take the folder that it lies in"
    inner = sorted(path.parent.name for path in folder.glob(f"*/{RESULTS}")) if folder.is_dir() else []
    return (
        f"; take one of the folders in it: {', '.join(inner[:8])}{', ...' if len(inner) > 8 else ''}" if inner else ""
    )
