"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import casc_core
from casc_core import StorageError
from casc_core.storage.files import LOCK, has_file, read_bytes, read_whole, sole_use, whole_folder, write_whole


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


# A process that is killed at a step of a save; the step is named by what it is about to call.

# The package without all that it imports: a process starts in a moment.
ALONE = f"""
import sys, types
from pathlib import Path
sys.modules["casc_core"] = package = types.ModuleType("casc_core")
package.__path__ = {list(casc_core.__path__)!r}
"""
SAVE = """
import os, signal
import casc_core.storage.files as files

folder, step, exchanges = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "exchanges"
if not exchanges:
    files._renameat2 = lambda: None

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if step == "filled":
    Path.chmod = kill
elif step == "sweeping":
    files.shutil.rmtree = kill
else:
    real, calls = os.replace, []
    def replace(source, target):
        calls.append(source)
        if step == f"replace {len(calls)}":
            kill()
        real(source, target)
        if step == f"after replace {len(calls)}":
            kill()
    files.os.replace = replace

with files.whole_folder(folder, "mark") as staging:
    (staging / "mark").write_text("new")
print("ended")
"""


@pytest.mark.parametrize(
    ("step", "exchanges", "expected"),
    [
        ("filled", True, "old"),
        ("sweeping", True, "new"),
        ("filled", False, "old"),
        ("replace 1", False, "old"),
        ("after replace 1", False, "old"),
        ("after replace 2", False, "new"),
        ("sweeping", False, "new"),
    ],
)
def test_a_save_that_is_killed_loses_nothing_and_is_cleaned_up_after(tmp_path, step, exchanges, expected):
    folder = tmp_path / "net"
    with whole_folder(folder, "mark") as staging:
        (staging / "mark").write_text("old")
    command = [sys.executable, "-c", ALONE + SAVE, str(folder), step, "exchanges" if exchanges else "in two steps"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert has_file(folder / "mark")
    assert (folder / "mark").read_text() == expected
    # What is left is swept by the next save; what is empty, once nobody can still be about to lock it.
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    with whole_folder(folder, "mark") as staging:
        (staging / "mark").write_text("newer")
    assert (folder / "mark").read_text() == "newer"
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_file_whose_write_was_killed_is_swept_and_what_is_being_written_is_not(tmp_path):
    names = ("casc-new-abcdefgh", "backup", "casc-new-12345678", "casc-new-beginnin", "casc-new-forgotte")
    left, foreign, locked, beginning, forgotten = (tmp_path / f".x.{name}" for name in names)
    for path in (left, foreign, locked):
        path.write_text("part")
    for path in (beginning, forgotten):
        path.touch()
    os.utime(forgotten, (0, 0))
    with locked.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_whole(tmp_path / "x", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([foreign.name, locked.name, beginning.name, "x"])


HOLD = """
from casc_core.storage.files import LOCK, has_file, read_bytes, read_whole, sole_use, whole_folder, write_whole
with sole_use(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_cannot_use_one_folder(tmp_path):
    command = [sys.executable, "-c", ALONE + HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        who = rf"is in use by process {other.pid} on .*, since .*choose another"
        with pytest.raises(StorageError, match=who), sole_use(tmp_path):
            pass
        other.kill()
        other.wait()
        with sole_use(tmp_path):  # whoever is dead holds nothing
            assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_circle_of_links_and_a_folder_that_cannot_be_read_are_one_line(tmp_path, monkeypatch):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(StorageError, match="cannot write"), whole_folder(tmp_path / "a", "mark"):
        pass
    with pytest.raises(StorageError, match="cannot write"):
        write_whole(tmp_path / "a" / "x", "text")
    with pytest.raises(StorageError, match=r"holds no network\.json"):
        casc_core.load(tmp_path / "a")

    def refused(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    for caller in (os, Path):  # Path asks os.stat itself from Python 3.11 on alone
        monkeypatch.setattr(caller, "stat", refused)
    with pytest.raises(StorageError, match=r"cannot read .*Permission denied"):
        casc_core.load(tmp_path)


def test_a_path_that_no_system_has(tmp_path):
    with pytest.raises(StorageError, match="can be named"):
        casc_core.load(f"{tmp_path}/\x00")

    with pytest.raises(StorageError, match="can be named"):
        casc_core.convert(torch.nn.Sequential(torch.nn.Linear(2, 2), casc_core.CQReLU(2))).save(f"{tmp_path}/\x00")


@pytest.mark.parametrize("kind", ["pipe", "device", "larger than memory"])
def test_what_is_no_file_to_read_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "network.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.touch()
        os.truncate(path, 40 * 2**30)
    with pytest.raises(StorageError, match=r"no regular file|are too many"):
        read_bytes(path)
