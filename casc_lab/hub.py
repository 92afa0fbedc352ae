"""Data sets of the Hugging Face hub: from the local cache first, and from the network only if it answers at once."""

from __future__ import annotations

import http.client
import os
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from casc_lab.progress import can_draw

PROBE_SECONDS = 2.0
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
"""What a hub data set may be called."""


class UnreachableError(Exception):
    """A hub data set is neither in the local cache nor to be had now; callers fall back, or say what to do."""


def load(name: str) -> Any:
    """A hub data set, all its splits (a mapping from names to `datasets.Dataset`).

    Raises:
        UnreachableError: it is neither cached nor to be had now, which is known after two seconds.
    """
    return _cached(name) or _downloaded(name)


def stream(name: str, split: str) -> Any:
    """One split of a hub data set as a `datasets.IterableDataset`, which reads it while it is being used.

    Raises:
        UnreachableError: the hub does not answer, or refuses (a gated data set).
    """
    return _downloaded(name, split=split, streaming=True)


def hub_answers() -> bool:
    """Whether the hub, directly or through the configured proxy, answers within two seconds."""
    address = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PROBE_SECONDS).close()
        except urllib.error.HTTPError as error:
            error.close()  # an error page is an answer too
        except (OSError, ValueError, http.client.HTTPException):
            return
        answered.set()

    # In a thread, because looking up a host name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return answered.is_set()


def _cached(name: str) -> Any:
    """The data set from the local cache of `datasets`, without asking the network; None if it is not there."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(os.environ.get("HF_HOME") or home) / "datasets")
    if not cache.expanduser().is_dir():  # asked first, because importing `datasets` takes seconds
        return None
    from datasets.packaged_modules.cache.cache import Cache

    try:
        builder = Cache(dataset_name=name.split("/")[-1], repo_id=name, version="auto", hash="auto")
        return builder.as_dataset()
    except (ValueError, OSError):  # not cached, in more than one configuration, or not whole
        return None


def _downloaded(name: str, **how: Any) -> Any:
    for switch in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(switch, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise UnreachableError(f"hub data set {name} is not in the local cache, and {switch} is set")
    # Asked first, because `datasets` takes half a minute of retries to find out that there is no network.
    if not hub_answers():
        raise UnreachableError(f"hub data set {name} is not in the local cache, and the hub does not answer")
    import datasets

    if not can_draw():
        datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(name, **how)
    except Exception as error:  # the library raises many kinds; whichever, the data cannot be had
        raise UnreachableError(f"hub data set {name} cannot be loaded: {error}") from error
