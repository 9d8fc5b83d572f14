"""Writing files atomically: a file appears whole or not at all, even if the program is killed or the disk is full."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from utils.text import can_hold, shown, to_json

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+\.tmp")
NOT_REGULAR = "a pipe or a device, expected a regular file"
HELD_SECONDS = 5.0
"""How long a file that another program holds is waited for."""
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF, errno.EPERM)
"""Errors of systems that cannot flush a folder; there the rename alone has to do."""


class DiskFull(OSError):
    """The disk is full, or the quota of the user is used up."""

    def __str__(self) -> str:
        return str(self.strerror)


class FileHeld(OSError):
    """Another program holds the file, so that it cannot be replaced: on Windows whoever has it open does that."""

    def __str__(self) -> str:
        return str(self.strerror)


def write_atomically(
    path: Path,
    content: str | bytes | Callable[[BinaryIO], object],
    *,
    needed: int | None = None,
    previous: Path | None = None,
) -> None:
    """Write a file that appears whole or not at all, even if the program is killed or the power fails.

    The content goes to a temporary file in the same folder and is flushed to the disk; then that file is renamed, and
    the folder is flushed too. If anything fails, the temporary file is removed and `path` stays as it was.

    Args:
        content: text (stored as UTF-8), bytes, or a function that writes them to the open file.
        needed: about how many bytes a function writes, for the message of a full disk.
        previous: where the file that is now at `path` is kept; None replaces it.
    Raises:
        DiskFull: no space; says how much is needed.
        FileHeld: another program holds the file that is at `path`, and has not let it go within `HELD_SECONDS`.
        OSError: the file cannot be written for another reason.
    """
    if isinstance(content, str):
        content = content.encode("utf-8")
    temporary = _temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None:
            _keep(path, previous)
        _replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        cause = _disk_error(error)
        if cause is None:
            raise
        if cause.errno in NO_SPACE:
            raise DiskFull(cause.errno, _full(path, len(content) if isinstance(content, bytes) else needed)) from None
        raise cause from None
    sync_folder(path.parent)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file to be read; a pipe, socket or device in its place is refused before it is opened.

    It could be waited for without end, and opening alone makes some devices do something.

    Raises:
        OSError: no regular file.
    """
    return open(path, "rb", opener=_open_regular)


def read_regular(path: str | Path) -> bytes:
    """The content of a file that `open_regular` opens."""
    with open_regular(path) as file:
        return file.read()


def _open_regular(path: str, flags: int) -> int:
    _check_regular(os.stat(path).st_mode, path)
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    try:
        _check_regular(os.fstat(handle).st_mode, path)  # it may have been replaced
    except OSError:
        os.close(handle)
        raise
    return handle


def _check_regular(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, NOT_REGULAR, path)


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write a JSON file as `write_atomically` does.

    Raises:
        ValueError: a number that is not finite.
    """
    write_atomically(path, to_json(value, indent=indent) + "\n")


def write_lines(path: Path, entries: Iterable[str]) -> None:
    """Write a UTF-8 file of one entry a line as `write_atomically` does.

    Raises:
        ValueError: such a file cannot hold an entry: it has a line break, or bytes that are not UTF-8.
    """
    entries = list(entries)
    for entry in entries:
        if not can_hold("utf-8", entry) or len(entry.splitlines()) > 1:
            raise ValueError(f"{path}: a line cannot hold {shown(entry)}; give it a name that is one line of UTF-8")
    write_atomically(path, "".join(f"{entry}\n" for entry in entries))


def move_into_place(temporary: Path, path: Path) -> None:
    """Give a finished file on the same disk its final name, as `write_atomically` does.

    This is for files that a library writes under a name of its own. `temporary` stays where it is if this fails.

    Raises:
        OSError: the file cannot be flushed or renamed.
    """
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    _replace(temporary, path)
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
        _replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # it failed; or both were one file already, and renaming leaves both names


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk, on systems that can."""
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
    """Delete the temporary files that killed programs left for files of these names; returns their paths.

    Only one program may write into `folder`, as only one trains into a run.
    """
    removed = []
    for path in folder.glob(".*.tmp"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and match["name"] in names:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
                removed.append(path)
    return removed


def common_folder(folders: Iterable[Path]) -> Path | None:
    """The folder that holds all of these; None where there is none, or they lie on several drives of Windows."""
    try:
        return Path(os.path.commonpath(list(folders)))
    except ValueError:
        return None


def claim(path: Path, taken: set[str]) -> Path:
    """The path, or NAME-2, NAME-3, ... if it is there or taken, without regard to case; it is added to `taken`."""
    free, number = path, 2
    while str(free).casefold() in taken or free.exists():
        free, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    taken.add(str(free).casefold())
    return free


def _keep(path: Path, previous: Path) -> None:
    """Give the file at `path` a second name, if there is such a file."""
    try:
        link(previous, path)
    except FileNotFoundError:
        return
    except OSError:  # a disk without hard links: for an instant only the second name is there
        _replace(path, previous)


def _replace(source: Path, target: Path) -> None:
    """`os.replace`, again and again for some seconds where another program holds one of the files.

    Virus scanners and programs that copy files to a server hold each new one for a moment.

    Raises:
        FileHeld: it is held for longer.
    """
    until = time.monotonic() + HELD_SECONDS
    while True:
        try:
            os.replace(source, target)
        except PermissionError as error:
            if time.monotonic() > until:
                raise FileHeld(
                    error.errno,
                    f"{target}: another program holds the file ({error.strerror}), such as a spreadsheet, a virus "
                    "scanner or one that copies it to a server; close it there",
                ) from None
        else:
            return
        time.sleep(0.1)


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _disk_error(error: BaseException) -> OSError | None:
    """The error of the system behind `error`: torch's writer hides it behind a RuntimeError."""
    seen: BaseException | None = error
    while isinstance(seen, RuntimeError):
        seen = seen.__context__
    return seen if isinstance(seen, OSError) else None


def _full(path: Path, needed: int | None) -> str:
    try:
        left = f"has {shutil.disk_usage(path.parent).free / 1e6:,.1f} MB left"
    except OSError:
        left = "has no more"
    needs = "" if needed is None else f"the file needs about {needed / 1e6:,.1f} MB and "
    before = f"The {path.name} of before is whole. " if path.exists() else ""
    return (
        f"{path}: no space on the disk: {needs}its folder {left}. {before}"
        "Make room (older runs are a good place to look), then go on"
    )
