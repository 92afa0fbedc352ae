"""Whether the hub can be reached; loading is tested where data sets are read."""

import http.server
import threading

import pytest

from casc_lab import hub


@pytest.mark.parametrize("status", [200, 404])
def test_the_hub_answers(monkeypatch, status):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub.hub_answers()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "no address"])
def test_the_hub_does_not_answer(monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert not hub.hub_answers()
    with pytest.raises(hub.UnreachableError, match="someone/news is not in the local cache, and the hub does not"):
        hub.stream("someone/news", "train")


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_offline_means_not_asking(monkeypatch, tmp_path, switch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.setattr(hub, "hub_answers", lambda: pytest.fail("asked"))
    monkeypatch.setenv(switch, "true")
    with pytest.raises(hub.UnreachableError, match=f"{switch} is set"):
        hub.load("someone/news")
