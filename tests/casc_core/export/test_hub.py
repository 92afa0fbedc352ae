"""Networks on the hub: loaded from a cache built by hand, pushed to a hub that only notes what it is given."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from torch import nn

import casc_core
from casc_core import ConfigError, CQReLU, StorageError
from casc_core.engine.saved import DESCRIPTION, TENSORS
from casc_core.export import hub
from casc_core.export.card import OURS, model_card

NAME = "someone/network"
COMMIT, OTHER = "0123456789abcdef0123456789abcdef01234567", "f" * 40


def network(seed=0, q=4):
    torch.manual_seed(seed)
    return casc_core.convert(nn.Sequential(nn.Linear(4, 8), CQReLU(q), nn.Linear(8, 2)))


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return folder


def cached(cache, snn, commit=COMMIT, branch="main", name=NAME):
    """A repository in the cache, as the library lays it out."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    if branch is not None:
        (repository / "refs" / branch).write_text(commit)
    snn.save(cache / "saved")
    for file in (DESCRIPTION, TENSORS):
        blob = repository / "blobs" / f"{commit[:8]}-{file}"
        os.replace(cache / "saved" / file, blob)
        (snapshot / file).symlink_to(os.path.relpath(blob, snapshot))
    (cache / "saved").rmdir()
    return snapshot


def test_a_cached_network_without_a_network(cache):
    cached(cache, network())
    assert torch.equal(casc_core.load(NAME)(X), network()(X))
    assert casc_core.load(NAME, nn.Sequential(*network().ann)).ann is not None


def test_revisions(cache):
    cached(cache, network(0))
    cached(cache, network(1), OTHER, "fine")
    for revision, seed in ((None, 0), ("main", 0), ("fine", 1), (OTHER, 1), (COMMIT, 0)):
        assert torch.equal(casc_core.load(NAME, revision=revision)(X), network(seed)(X))
    with pytest.raises(StorageError, match=r"someone/network \(revision v2\) is no folder here.*HF_HUB_OFFLINE is set"):
        casc_core.load(NAME, revision="v2")


def test_a_folder_wins_over_a_name(cache, tmp_path):
    cached(cache, network(0))
    network(1).save(tmp_path / "someone" / "network")
    assert torch.equal(casc_core.load(NAME)(X), network(1)(X))
    with pytest.raises(ConfigError, match="revisions are of repositories of the hub, user/name; someone/"):
        casc_core.load(NAME, revision="main")
    for other in (Path(NAME), f"./{NAME}"):
        assert torch.equal(casc_core.load(other)(X), network(1)(X))
    (tmp_path / "someone" / "network" / DESCRIPTION).unlink()
    with pytest.raises(StorageError, match="no network saved by casc in someone/network"):
        casc_core.load(NAME)


@pytest.mark.parametrize("name", ["./no/where", "a/b/c", "nowhere", "some one/network", "../someone"])
def test_what_is_no_name_of_a_repository_is_a_folder(cache, name, monkeypatch):
    monkeypatch.setattr(hub, "repository_folder", lambda *args: pytest.fail("asked"))
    with pytest.raises(StorageError, match="there is no network saved by casc in "):
        casc_core.load(name)


def test_without_an_answer_it_is_known_at_once(cache, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(StorageError, match=r"not in the local cache, and the hub does not answer\. Name a folder"):
        casc_core.load(NAME)
    with pytest.raises(StorageError, match="cannot push to someone/network: the hub does not answer"):
        network().push_to_hub(NAME)
    assert time.monotonic() - start < 10
    cached(cache, network())
    assert torch.equal(casc_core.load(NAME)(X), network()(X))


class FakeHub:
    """The boundary of the library: what is asked of it, and what it gives."""

    def __init__(self, cache, files=None, card=None):
        self.cache, self.files, self.card = cache, files, card
        self.calls, self.uploaded, self.raises = [], {}, {}

    def install(self, monkeypatch):
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr(hub, "hub_answers", lambda: True)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        return self

    def _note(self, name, *args, **kwargs):
        self.calls.append(name)
        if name in self.raises:
            raise self.raises[name]

    def model_info(self, repo_id, revision, files_metadata):
        self._note("model_info")
        files = [SimpleNamespace(rfilename=name, size=size) for name, size in self.files.items()]
        return SimpleNamespace(sha=COMMIT, siblings=files)

    def snapshot_download(self, repo_id, revision, allow_patterns):
        self._note("snapshot_download")
        assert (revision, sorted(allow_patterns)) == (COMMIT, [DESCRIPTION, TENSORS])
        return str(cached(self.cache, network(2)))

    def create_repo(self, repo_id, private, exist_ok):
        self._note("create_repo")
        assert exist_ok
        self.private = private

    def create_branch(self, repo_id, branch, exist_ok):
        self._note("create_branch")

    def file_exists(self, repo_id, filename, revision):
        self._note("file_exists")
        return self.card is not None

    def hf_hub_download(self, repo_id, filename, revision):
        (self.cache / filename).write_text(self.card, encoding="utf-8")
        return str(self.cache / filename)

    def upload_folder(self, repo_id, folder_path, revision, commit_message):
        self._note("upload_folder")
        self.uploaded = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        self.message, self.revision = commit_message, revision
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/{COMMIT}")


FILES = {DESCRIPTION: 900, TENSORS: 900, "train.py": 10, "model.pkl": 2**40}


def test_what_the_hub_has_is_fetched_and_nothing_else(cache, monkeypatch):
    fake = FakeHub(cache, FILES).install(monkeypatch)
    assert torch.equal(casc_core.load(NAME)(X), network(2)(X))
    assert fake.calls == ["model_info", "snapshot_download"]
    fake.raises["model_info"] = AssertionError("asked")
    assert torch.equal(casc_core.load(NAME, revision=COMMIT)(X), network(2)(X))  # a commit stays what it is


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"README.md": 3, "pytorch_model.bin": 9}, f"is no network saved by casc: it holds no {DESCRIPTION}"),
        ({DESCRIPTION: 3}, f"it holds no {TENSORS}"),
        ({DESCRIPTION: 3, TENSORS: 2**40}, r"1,099,511,627,776 bytes of network\.safetensors are too many"),
        ({DESCRIPTION: 2**33, TENSORS: 3}, r"bytes of network\.json are too many"),
    ],
)
def test_other_repositories_are_not_fetched(cache, monkeypatch, files, why):
    fake = FakeHub(cache, files).install(monkeypatch)
    with pytest.raises(StorageError, match=why):
        casc_core.load(NAME)
    assert fake.calls == ["model_info"]


def refused(kind):
    response = SimpleNamespace(headers={}, request=None, status_code=404, url="", reason="", text="")
    try:
        return kind("no", response=response)
    except TypeError:
        return kind("no")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            refused(errors.RepositoryNotFoundError),
            "there being no such folder here: there is no such repository, or it is",
        ),
        (refused(errors.RevisionNotFoundError), "the repository has no such revision"),
        (refused(errors.GatedRepoError), "its owner must give you access"),
        (ConnectionError("broken\npipe"), "ConnectionError: broken pipe"),
    ],
)
def test_refusals_of_the_hub_are_ours(cache, monkeypatch, error, why):
    fake = FakeHub(cache, FILES).install(monkeypatch)
    fake.raises = {"model_info": error, "create_repo": error}
    with pytest.raises(StorageError, match=why):
        casc_core.load(NAME)
    with pytest.raises(StorageError, match="cannot push to someone/network"):
        network().push_to_hub(NAME)


class Armed:
    """What a pickle does when it is read."""

    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_no_code_of_a_repository_is_run(cache, tmp_path):
    snapshot = cached(cache, network())
    for file in ("network.py", "__init__.py", "adapter.py", "conftest.py"):
        (snapshot / file).write_text("import os\nos.mkdir('executed')\n")
    for file in ("pytorch_model.bin", "model.pkl"):
        (snapshot / file).write_bytes(pickle.dumps(Armed()))
    casc_core.load(NAME)
    for file in (TENSORS, DESCRIPTION):
        (snapshot / file).unlink()
        (snapshot / file).write_bytes(pickle.dumps(Armed()))
        with pytest.raises(StorageError):
            casc_core.load(NAME)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("file", [DESCRIPTION, TENSORS])
def test_a_link_out_of_the_cache_is_not_followed(cache, tmp_path, file):
    snapshot = cached(cache, network())
    os.replace(snapshot / file, tmp_path / "secret")
    (tmp_path / "secret").unlink()
    (tmp_path / "secret").write_text("secret")
    (snapshot / file).symlink_to(tmp_path / "secret")
    with pytest.raises(StorageError, match=r"in the cache of the hub leads out of it, to .*secret"):
        casc_core.load(NAME)


def test_a_file_of_any_size_is_not_read(cache):
    snapshot = cached(cache, network())
    blob = Path(os.path.realpath(snapshot / TENSORS))
    os.truncate(blob, 5 * 2**30)  # sparse
    with pytest.raises(StorageError, match="bytes are too many"):
        casc_core.load(NAME)


RESULTS = {
    "ann_accuracy": 97.5,
    "reference_accuracy": 97.5,
    "accuracy": {
        "baseline": {"1": 10.0, "2": 20.25, "silent": None},
        "baseline+CIF+WSC": {"1": 11.0, "2": 21.0, "silent": 97.5},
    },
    "prediction_mismatches": 0,
    "steps_to_silence": {"mean": 18.0861, "p50": 18.0, "p99": 21.0, "max": 21.0},
    "data": 'digits: "16x16"',
    "test_examples": 1360,
}


def test_what_is_pushed_is_the_network_and_its_card(cache, tmp_path, monkeypatch):
    fake = FakeHub(cache).install(monkeypatch)
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    address = network().push_to_hub(NAME, tmp_path / "results.json", private=True)
    assert address == f"https://huggingface.co/{NAME}/commit/{COMMIT}"
    assert fake.calls == ["create_repo", "file_exists", "upload_folder"]
    assert (fake.private, fake.revision, fake.message) == (True, None, "A network saved by casc")
    assert sorted(fake.uploaded) == ["README.md", DESCRIPTION, TENSORS]
    (tmp_path / "again").mkdir()
    for name, content in fake.uploaded.items():
        (tmp_path / "again" / name).write_bytes(content)
    assert torch.equal(casc_core.load(tmp_path / "again")(X), network()(X))
    assert fake.uploaded["README.md"].decode() == model_card(network().network, NAME, RESULTS)


def test_a_branch_and_a_message(cache, monkeypatch):
    fake = FakeHub(cache).install(monkeypatch)
    network().push_to_hub(NAME, revision="q4", message="Four levels")
    assert fake.calls == ["create_repo", "create_branch", "file_exists", "upload_folder"]
    assert (fake.revision, fake.message) == ("q4", "Four levels")


@pytest.mark.parametrize(
    ("card", "written"), [(None, True), (f"---\n---\n{OURS}\nold", True), ("# My own text", False)]
)
def test_a_card_of_ones_own_stays(cache, monkeypatch, card, written):
    fake = FakeHub(cache, card=card).install(monkeypatch)
    network().push_to_hub(NAME)
    assert ("README.md" in fake.uploaded) is written


def test_the_card():
    card = model_card(network().network, NAME, RESULTS)
    _, metadata, text = card.split("---\n", 2)
    assert 'name: "digits: \\"16x16\\""' in metadata
    assert "value: 97.5" in metadata
    assert "- spiking-neural-network" in metadata
    for part in (
        "# network",
        'snn = casc_core.load("someone/network")',
        "| levels q       |",
        "| baseline         | 10.00 | 20.25 |      - |",
        "| ANN              | 97.50 | 97.50 |  97.50 |",
        "1,360 test samples",
        "0 predictions differ",
        "mean 18.09, largest 21",
    ):
        assert part in text
    try:
        import yaml
    except ImportError:
        return
    (result,) = yaml.safe_load(metadata)["model-index"][0]["results"]
    assert [each["value"] for each in result["metrics"]] == [97.5, 97.5]
    assert result["dataset"]["name"] == RESULTS["data"]


def test_a_card_of_another_measure():
    precision = {"at_50": 40.5, "by_class": [1.0]}
    results = {key: value for key, value in RESULTS.items() if "accuracy" not in key} | {
        "ann_precision": precision,
        "reference_precision": precision,
        "precision": {"baseline+CIF+WSC": {"4": precision, "silent": precision}},
    }
    assert "| precision (at_50) |   T=4 | silent |" in model_card(network().network, NAME, results)
    assert "Results" not in model_card(network().network, NAME, None)


@pytest.mark.parametrize("name", ["network", "a/b/c", "", None, "some one/x", "a/../b", "/tmp/x"])
def test_names_that_no_repository_has(cache, name):
    with pytest.raises(ConfigError, match="a repository of the hub is called user/name; got"):
        network().push_to_hub(name)


@pytest.mark.parametrize("content", ["[]", "{", '{"accuracy": 3}', '{"reference_x": 1, "x": {}}'])
def test_results_that_are_none(cache, tmp_path, monkeypatch, content):
    fake = FakeHub(cache).install(monkeypatch)
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(StorageError, match=r"no results\.json|not those of results\.json"):
        network().push_to_hub(NAME, tmp_path / "results.json")
    assert "upload_folder" not in fake.calls
    with pytest.raises(StorageError, match="cannot read"):
        network().push_to_hub(NAME, tmp_path / "nothing.json")


def test_saving_beside_other_files(tmp_path):
    folder = tmp_path / "net"
    (folder / ".git" / "objects").mkdir(parents=True)
    (folder / ".git" / "objects" / "a").write_text("history")
    (folder / "README.md").write_text("mine")
    network(0).save(folder)
    (folder / "notes").symlink_to("README.md")
    network(1).save(folder)
    assert torch.equal(casc_core.load(folder)(X), network(1)(X))
    assert sorted(path.name for path in folder.iterdir()) == [".git", "README.md", DESCRIPTION, TENSORS, "notes"]
    assert (folder / "README.md").read_text() == "mine"
    assert (folder / ".git" / "objects" / "a").read_text() == "history"
    assert (folder / "notes").is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == ["net"]
