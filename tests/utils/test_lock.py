"""utils/lock.py: one process at a time, and the lock ends with the process that holds it."""

from __future__ import annotations

import errno
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from utils import lock
from utils.config import ROOT, ConfigError
from utils.lock import FILE, RunLock

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

HOLDER = """
import multiprocessing, sys, time
from pathlib import Path
from utils import lock
from tests.utils.test_lock import as_on_windows
if sys.argv[2] == "windows":
    as_on_windows(setattr)
held = lock.RunLock()
held.take(Path(sys.argv[1]), new=True)
multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start()
print(held.run, flush=True)
time.sleep(600)
"""

pytestmark = pytest.mark.skipif(fcntl is None, reason="this system has no such locks")


class Msvcrt:
    """Windows' module over the locks of this system. There, no other process can read what is locked."""

    LK_NBLCK = 2

    def locking(self, number: int, mode: int, count: int) -> None:
        place = os.lseek(number, 0, os.SEEK_CUR)
        assert (mode, count) == (self.LK_NBLCK, 1)
        assert place > 10_000 > os.fstat(number).st_size, "others read who holds it"
        assert not os.get_inheritable(number)
        try:
            fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB, count, place)
        except OSError:
            raise OSError(errno.EACCES, "Permission denied") from None


def as_on_windows(put: Callable[[object, str, object], None]) -> None:
    put(lock, "fcntl", None)
    put(lock, "msvcrt", Msvcrt())


@pytest.fixture(params=["posix", "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "windows":
        as_on_windows(monkeypatch.setattr)
    return request.param


def start(folder: Path, system: str) -> subprocess.Popen:
    """A process that holds the lock, with a child like a loader process."""
    command = [sys.executable, "-c", HOLDER, str(folder), system]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip()
    return process


def test_a_second_process_is_refused_until_the_first_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    holder = start(tmp_path, system)
    try:
        refused = f"is being trained by process {holder.pid} on {platform.node()}"
        with monkeypatch.context() as patched:
            patched.setattr(lock, "PATIENCE_SECONDS", 0.2)
            with pytest.raises(ConfigError, match=refused):
                RunLock().take(tmp_path, new=False)
        os.kill(holder.pid, signal.SIGKILL)  # its child lives on, and has the file open
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


@pytest.mark.usefixtures("system")
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


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00" * 50])
def test_a_damaged_file_is_written_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    held = RunLock()
    held.take(tmp_path, new=False)
    held.adopt(None)
    held.release()
    assert json.loads((tmp_path / FILE).read_text())["run"] == held.run


@pytest.mark.usefixtures("system")
def test_a_disk_without_locks_is_told_and_used(tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    if lock.msvcrt is not None:
        monkeypatch.setattr(lock.msvcrt, "locking", none)
    held = RunLock()
    held.take(tmp_path, new=True)
    held.release()
    assert "run.lock: this disk has no locks (No locks available); train in one process only" in caplog.text
