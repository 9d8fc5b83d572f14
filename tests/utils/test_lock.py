"""utils/lock.py: one process at a time, and the lock ends with the process that holds it."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils import lock
from utils.config import ROOT, ConfigError
from utils.lock import FILE, RunLock

HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from utils.lock import RunLock
lock = RunLock()
lock.take(Path(sys.argv[1]), new=True)
multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start()
print(lock.run, flush=True)
time.sleep(600)
"""

pytestmark = pytest.mark.skipif(lock.fcntl is None, reason="this system has no such locks")


def start(folder: Path) -> subprocess.Popen:
    """A process that holds the lock, with a child like a loader process."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip()
    return process


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = start(tmp_path)
    try:
        monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.2)
        with pytest.raises(ConfigError, match=f"is being trained by process {holder.pid} on {platform.node()}"):
            RunLock().take(tmp_path, new=False)
        os.kill(holder.pid, signal.SIGKILL)  # its child lives on, and has the file open
        monkeypatch.undo()
        mine, begin = RunLock(), time.monotonic()
        mine.take(tmp_path, new=False)
        assert time.monotonic() - begin < lock.PATIENCE_SECONDS
        about = json.loads((tmp_path / FILE).read_text())
        assert about["process"] == os.getpid()
        assert about["run"] == mine.run, "the run keeps its id"
        mine.release()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()


def test_a_folder_of_an_older_release_gets_the_id_of_its_checkpoint(tmp_path: Path) -> None:
    one = RunLock()
    one.take(tmp_path, new=False)
    assert one.run is None
    one.adopt("abc")
    one.adopt("other")
    one.release()
    one.release()
    two = RunLock()
    two.take(tmp_path, new=False)
    assert two.run == "abc"
    two.release()


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00" * 50])
def test_a_damaged_file_is_written_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    held = RunLock()
    held.take(tmp_path, new=False)
    held.adopt(None)
    held.release()
    assert json.loads((tmp_path / FILE).read_text())["run"] == held.run
