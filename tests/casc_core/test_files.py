"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
import stat

import pytest

from casc_core import StorageError
from casc_core.files import read_whole, whole_folder, write_whole


@pytest.mark.parametrize("content", ["a\r\nb\n", "žluťoučký", b"\x00\xff", ""])
def test_content_is_kept_byte_for_byte(tmp_path, content):
    write_whole(tmp_path / "x", content)
    assert (tmp_path / "x").read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_older_file(tmp_path, monkeypatch, failing):
    write_whole(tmp_path / "x", "old")

    def broken(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, broken)
    with pytest.raises(StorageError, match=r"cannot write .*x: No space left"):
        write_whole(tmp_path / "x", "new")
    assert read_whole(tmp_path / "x") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_reading_what_is_not_there_or_not_text(tmp_path):
    with pytest.raises(StorageError, match=r"cannot read .*nothing"):
        read_whole(tmp_path / "nothing")
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match=r"cannot read .*x"):
        read_whole(tmp_path / "x")


def test_a_folder_is_not_there_until_its_block_ends(tmp_path):
    with whole_folder(tmp_path / "f", "mark") as staging:
        (staging / "mark").write_text("1")
        assert not (tmp_path / "f").exists()
    assert (tmp_path / "f" / "mark").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_an_error_in_the_block_passes_through_and_leaves_nothing(tmp_path):
    def fail():
        with whole_folder(tmp_path / "f", "mark") as staging:
            (staging / "mark").write_text("1")
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert list(tmp_path.iterdir()) == []
