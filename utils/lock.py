"""The lock of a run folder: one training at a time, and it ends with the process that holds it, however that ends."""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import secrets
import time
from pathlib import Path
from typing import Any, TextIO

from utils.config import ConfigError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]
try:
    import msvcrt
except ImportError:
    msvcrt = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

FILE = "run.lock"
"""In a run folder, and left there: the run's id, and who trains or trained it. The lock itself is the system's."""

PATIENCE_SECONDS = 5.0
"""How long the lock is waited for: a process that was killed gives up its memory before its locks."""

_TAKEN = (errno.EACCES, errno.EAGAIN)
_BYTE = 1 << 20
"""The byte that is locked on Windows, far behind the text: there, what is locked cannot be read by others."""


class RunLock:
    """The lock of a run folder, and the id of the run.

    It is a POSIX record lock, and on Windows a lock of LockFileEx: it belongs to this process alone, so that loader
    processes do not inherit it, and the system releases it when this process ends in any way. On a disk without such
    locks nothing is locked.
    """

    def __init__(self) -> None:
        self.run: str | None = None
        """The run's id; None in the folder of a run that an older release has begun."""
        self._file: TextIO | None = None

    def take(self, folder: Path, *, new: bool) -> None:
        """Lock a run folder for this process until `release`.

        Args:
            new: the folder has just been made; the run gets its id.
        Raises:
            ConfigError: another process trains there; names it.
        """
        path = folder / FILE
        # Opened once: closing any other handle of the file in this process would release the lock.
        self._file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (`release` closes it)
        if not _locked(self._file):
            about = self._read()
            self.release()
            holder = f"process {about['process']} on {about['host']}" if "process" in about else "another process"
            raise ConfigError(f"{folder}: is being trained by {holder}; wait until it ends, or stop it first")
        self.run = secrets.token_hex(8) if new else self._read().get("run")
        self._write()

    def adopt(self, run: str | None) -> None:
        """Note the id of a run whose folder has none: that of its checkpoint, or a new one."""
        if self._file is not None and self.run is None:
            self.run = run or secrets.token_hex(8)
            self._write()

    def release(self) -> None:
        """Let others have the folder."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self) -> dict[str, Any]:
        assert self._file is not None
        self._file.seek(0)
        try:
            about = json.loads(self._file.read(10_000))
        except ValueError:
            return {}
        return about if isinstance(about, dict) else {}

    def _write(self) -> None:
        """Without a temporary file: the lock is on this file and no other."""
        assert self._file is not None
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps({"run": self.run, "process": os.getpid(), "host": platform.node()}) + "\n")
        self._file.flush()


def _locked(file: TextIO) -> bool:
    """Lock a file; False where another process keeps it locked."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            _lock(file)
            return True
        except OSError as error:
            if error.errno not in _TAKEN:
                logger.warning("%s: this disk has no locks (%s); train in one process only", file.name, error.strerror)
                return True
        if time.monotonic() > until:
            return False
        time.sleep(0.05)


def _lock(file: TextIO) -> None:
    """Lock a file, without waiting.

    Raises:
        OSError: another process has it (_TAKEN), or this disk has no locks.
    """
    if fcntl is not None:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        number = file.fileno()
        before = os.lseek(number, 0, os.SEEK_CUR)
        try:
            os.lseek(number, _BYTE, os.SEEK_SET)  # it locks from there on
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # on Windows alone
        finally:
            os.lseek(number, before, os.SEEK_SET)
