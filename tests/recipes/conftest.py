from __future__ import annotations

import pytest


@pytest.fixture
def no_network_and_no_cache(monkeypatch, tmp_path):
    """Nothing but what a test names: no data folder, no cache of the hub, no hub."""
    monkeypatch.delenv("CASC_DATA", raising=False)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # refused at once
