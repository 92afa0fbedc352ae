"""Saved networks on the Hugging Face hub: from the local cache or the network, and from here to there.

Of a repository, the two files of a saved network are read, and nothing else; they are data, and no code of it is run.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from casc_core.engine.network import Network
from casc_core.engine.saved import DESCRIPTION, TENSORS, write
from casc_core.errors import CascError, ConfigError, StorageError
from casc_core.export.card import OURS, model_card
from casc_core.storage.files import LARGEST_FILE, read_whole, write_whole

T = TypeVar("T")
PROBE_SECONDS = 2.0
CARD = "README.md"
# As the hub has it: a name without dots at its ends, behind that of its owner.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SWITCHED_ON = ("1", "ON", "YES", "TRUE")


def is_repository(name: str) -> bool:
    """Whether this may be the name of a repository, `user/name`.

    >>> is_repository("user/network"), is_repository("./network"), is_repository("a/b/c"), is_repository("network")
    (True, False, False, False)
    """
    return _NAME.fullmatch(name) is not None and ".." not in name and "--" not in name


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


def repository_folder(name: str, revision: str | None) -> Path:
    """The folder in the local cache with the network of a repository, as it is there now; fetched where it must be.

    Without a network it is that of the last time; a full commit hash that is in the cache is not asked for.

    Args:
        revision: branch, tag or commit; None: the main branch.

    Raises:
        StorageError: there is no such repository or revision, it holds no network saved by casc, or a far too large one; or
            it is neither in the cache nor to be had now, which is known after two seconds.
    """
    said = name if revision is None else f"{name} (revision {revision})"
    cached = _cached(name, revision)
    if cached is not None and revision is not None and _COMMIT.fullmatch(revision):
        return cached
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in _SWITCHED_ON
    # Asked first, because the library takes half a minute of retries to find out that there is no network.
    if not offline and hub_answers():
        return _fetched(name, said, revision)
    if cached is not None:
        return cached
    why = "HF_HUB_OFFLINE is set" if offline else "the hub does not answer"
    raise StorageError(
        f"{said} is no folder here, as a repository of the hub it is not in the local cache, and {why}. Name a folder, or "
        "try again with a network"
    )


def _cached(name: str, revision: str | None) -> Path | None:
    """The folder of a network that is in the local cache, whole; None: it is not."""
    import huggingface_hub

    found: Any = None
    for file in (TENSORS, DESCRIPTION):
        found = huggingface_hub.try_to_load_from_cache(name, file, revision=revision)
        if not isinstance(found, str):
            return None
    return _checked(Path(found).parent)


def _checked(folder: Path) -> Path:
    """The folder, whose files must lie in the cache: it links to them, and might to others.

    Raises:
        StorageError: one does not.
    """
    from huggingface_hub import constants

    cache = Path(os.path.realpath(constants.HF_HUB_CACHE))
    for file in (DESCRIPTION, TENSORS):
        target = Path(os.path.realpath(folder / file))
        if not target.is_relative_to(cache):
            raise StorageError(
                f"{folder / file} in the cache of the hub leads out of it, to {target}: remove that folder, and load again"
            )
    return folder


def _fetched(name: str, said: str, revision: str | None) -> Path:
    """The network of a repository, fetched: both files of one and the same commit."""
    import huggingface_hub

    def fetch() -> str:
        about = huggingface_hub.HfApi().model_info(name, revision=revision, files_metadata=True)
        sizes = {each.rfilename: each.size or 0 for each in about.siblings or ()}
        for file in (DESCRIPTION, TENSORS):
            if file not in sizes:
                raise StorageError(f"the hub's {said} is no network saved by casc: it holds no {file}")
            if sizes[file] > LARGEST_FILE:
                raise StorageError(f"the hub's {said}: {sizes[file]:,} bytes of {file} are too many to be a network")
        return huggingface_hub.snapshot_download(name, revision=about.sha, allow_patterns=[DESCRIPTION, TENSORS])

    return _checked(Path(_asking(f"load {said} from the hub, there being no such folder here", fetch)))


def _asking(what: str, call: Callable[[], T]) -> T:
    """What a call of the hub gives.

    Raises:
        StorageError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import errors

    try:
        return call()
    except CascError:
        raise
    except errors.GatedRepoError as error:
        raise StorageError(
            f"cannot {what}: its owner must give you access, and you must log in (hf auth login)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise StorageError(
            f"cannot {what}: there is no such repository, or it is private and you are not logged in (hf auth login)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise StorageError(f"cannot {what}: the repository has no such revision") from error
    except Exception as error:  # the library raises many kinds; whichever, the hub does not do it
        raise StorageError(f"cannot {what}: {type(error).__name__}: {' '.join(str(error).split()):.300}") from error


def push(
    network: Network,
    name: str,
    results: str | Path | Mapping[str, Any] | None,
    revision: str | None,
    private: bool | None,
    message: str | None,
) -> str:
    """Save a network to a repository of the hub, which is made if it is not there; the address of the commit.

    Raises:
        ConfigError: no repository can be called so.
        StorageError: `results` cannot be read, or the hub refuses or does not answer.
    """
    if not isinstance(name, str) or not is_repository(name):
        raise ConfigError(f"a repository of the hub is called user/name; got {name!r:.200}")
    figures = _figures(results)
    import huggingface_hub

    if not hub_answers():
        raise StorageError(f"cannot push to {name}: the hub does not answer")
    api = huggingface_hub.HfApi()

    def upload() -> str:
        api.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "network"
            write(network, folder)
            if _may_write_card(api, name, revision):
                write_whole(folder / CARD, model_card(network, name, figures))
            commit = api.upload_folder(
                repo_id=name, folder_path=folder, revision=revision, commit_message=message or "A network saved by casc"
            )
        return str(commit.commit_url)

    return _asking(f"push to {name}", upload)


def _may_write_card(api: Any, name: str, revision: str | None) -> bool:
    """Whether the repository has no card, or one of ours that nobody has made their own."""
    if not api.file_exists(name, CARD, revision=revision):
        return True
    return OURS in read_whole(Path(api.hf_hub_download(name, CARD, revision=revision)))


def _figures(results: str | Path | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What a `results.json` says, or what is given in its place."""
    if results is None or isinstance(results, Mapping):
        return results
    try:
        found = json.loads(read_whole(Path(results)))
    except ValueError as error:
        raise StorageError(f"{results} is no results.json: {error}") from error
    if not isinstance(found, dict):
        raise StorageError(f"{results} is no results.json: it holds a {type(found).__name__}")
    return found
