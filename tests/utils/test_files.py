"""Files appear whole or not at all, and a failure leaves nothing behind."""

from __future__ import annotations

import errno
import ntpath
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from utils import files
from utils.faults import explain
from utils.files import (
    DiskFull,
    FileHeld,
    common_folder,
    link,
    move_into_place,
    remove_temporaries,
    write_atomically,
    write_json,
)


@pytest.mark.parametrize("content", ["", "ä\r\nb\n", b"", b"\x00\xff", lambda file: file.write(b"made")])
def test_content_is_written_as_it_is(tmp_path: Path, content: str | bytes | Callable[[BinaryIO], object]) -> None:
    path = tmp_path / "file"
    for _ in range(2):
        write_atomically(path, content)
        expected = content.encode() if isinstance(content, str) else content if isinstance(content, bytes) else b"made"
        assert path.read_bytes() == expected
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_text_and_refuses_what_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"name": "ä", "values": [1, 0.5]})
    assert path.read_text(encoding="utf-8") == '{"name": "ä", "values": [1, 0.5]}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert list(tmp_path.iterdir()) == [path]


def test_file_and_folder_are_flushed_around_the_renaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("fsync", "replace", "link"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args))[1])
    write_atomically(tmp_path / "file", "one", previous=tmp_path / "before")
    assert calls == ["fsync", "link", "replace", "fsync"], "there was no file before"
    calls.clear()
    write_atomically(tmp_path / "file", "two", previous=tmp_path / "before")
    assert calls == ["fsync", "link", "replace", "replace", "fsync"]
    assert (tmp_path / "before").read_text() == "one"
    calls.clear()
    (tmp_path / "made").write_text("three")
    move_into_place(tmp_path / "made", tmp_path / "file")
    assert calls == ["fsync", "replace", "fsync"]
    assert (tmp_path / "file").read_text() == "three"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "no luck"), KeyboardInterrupt(), ValueError("mistake")])
def test_a_failure_keeps_its_error_and_the_file_of_before(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    write_atomically(path, "whole")

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        try:
            raise OSError(errno.ENOSPC, "of something else")
        except OSError:
            raise error from None

    with pytest.raises(type(error)) as raised:
        write_atomically(path, fail)
    assert raised.value is error
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_what_text_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"results\.csv: no space on the disk: the file needs about 0\.2 MB and its fo"):
        write_atomically(tmp_path / "results.csv", "x" * 200_000)
    with pytest.raises(DiskFull, match="no space on the disk: its folder has "):
        write_atomically(tmp_path / "results.csv", lambda file: file.write(b"x"))
    assert list(tmp_path.iterdir()) == []


def test_only_temporary_files_with_these_names_are_removed(tmp_path: Path) -> None:
    for name in (".a.json.1.tmp", ".b.json.1.tmp", "a.json.1.tmp"):
        (tmp_path / name).touch()
    assert remove_temporaries(tmp_path, ("a.json",)) == [tmp_path / ".a.json.1.tmp"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.json.1.tmp", "a.json.1.tmp"]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[Path]]:
    """held(n): the next n renamings fail, as on Windows while others have a file open; it gives their targets."""

    def hold(times: int) -> list[Path]:
        real, tried = os.replace, []

        def replace(source: Path, target: Path) -> None:
            tried.append(Path(target))
            if len(tried) <= times:
                raise PermissionError(errno.EACCES, "Access is denied", str(source), 5, str(target))
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        return tried

    monkeypatch.setattr(files.time, "sleep", lambda _: None)
    return hold


def test_a_file_that_is_held_for_a_moment_is_waited_for(held: Callable[[int], list[Path]], tmp_path: Path) -> None:
    path, moved, linked = (tmp_path / name for name in ("file", "moved", "linked"))
    path.write_text("before")
    assert len(held(2)) == 0
    write_atomically(path, "after", previous=tmp_path / "previous")
    assert (path.read_text(), (tmp_path / "previous").read_text()) == ("after", "before")
    held(2)
    link(linked, path)
    held(2)
    move_into_place(linked, moved)
    assert moved.read_text() == "after"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "moved", "previous"]


def test_a_file_that_stays_held_is_told_and_stays_as_it_was(
    held: Callable[[int], list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, clock = tmp_path / "file", iter(range(1000))
    monkeypatch.setattr(files.time, "monotonic", lambda: next(clock))
    path.write_text("before")
    tried = held(10**9)
    with pytest.raises(FileHeld) as caught:
        write_atomically(path, "after")
    assert explain(caught.value).startswith(f"{path}: another program holds the file (Access is denied), such as")
    assert len(tried) == files.HELD_SECONDS + 1
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_on_two_drives_have_none_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    assert common_folder([Path("/a/b"), Path("/a/c")]) == Path("/a")
    assert common_folder([]) is None
    with monkeypatch.context() as patch:
        patch.setattr(os, "path", ntpath)
        two, one = common_folder(["C:\\a", "D:\\a"]), common_folder(["C:\\a\\b", "C:\\a\\c"])
    assert (two, str(one)) == (None, "C:\\a")
