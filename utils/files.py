"""Files that are there whole or not at all, whatever kills the program or fills the disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+\.tmp")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF, errno.EPERM)
"""What systems answer whose folders cannot be flushed; there the rename alone must do."""


class DiskFull(OSError):
    """No space on the disk, or none that this user may take."""

    def __str__(self) -> str:
        return str(self.strerror)


def write_whole(path: Path, text: str) -> None:
    """Write a UTF-8 file that appears whole or not at all, whenever the program is killed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write a JSON file as `write_whole` does; numbers that are not finite are refused with a ValueError."""
    write_whole(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def write_temporary(path: Path, write: Callable[[BinaryIO], None], *, needed: int) -> Path:
    """Write a file beside `path`, flush it to the disk, and give its name; `put_in_place` gives it its own.

    Args:
        needed: about how many bytes it will have, for the message of a full disk.
    Raises:
        DiskFull: says how much is needed; nothing is left of the file.
        OSError: the folder cannot be written.
    """
    temporary = _temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        cause = _disk_error(error)
        if cause is None:
            raise
        if cause.errno in _NO_SPACE:
            raise DiskFull(cause.errno, _full(path, needed)) from None
        raise cause from None
    return temporary


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a file that `write_temporary` gave, and flush the folder, so that the name outlives a power cut too."""
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def link(path: Path, source: Path) -> None:
    """Make `path` the same file as `source`, by a hard link, in one step.

    Raises:
        OSError: the disk has no hard links.
    """
    temporary = _temporary_name(path)
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # it failed; or both were one file already, and renaming leaves both names


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, on systems that can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def remove_temporaries(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Delete what killed programs left of files with these names; returns what that was.

    Only one program may write into `folder`, as only one trains into a run.
    """
    found = []
    for path in folder.glob(".*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and match["name"] in names:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                found.append(path)
    return found


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _disk_error(error: BaseException) -> OSError | None:
    """The error of the system behind `error`: torch's writer hides it behind one of its own."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, OSError):
        seen = seen.__context__
    return seen


def _full(path: Path, needed: int) -> str:
    try:
        left = f"has {shutil.disk_usage(path.parent).free / 1e6:,.1f} MB left"
    except OSError:
        left = "has no more"
    before = f"The {path.name} of before is whole. " if path.exists() else ""
    return (
        f"{path}: no space on the disk: the file needs about {needed / 1e6:,.1f} MB and its folder {left}. {before}"
        "Make room (older runs are a good place to look), then go on"
    )
