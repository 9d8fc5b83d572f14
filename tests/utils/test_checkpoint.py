"""Checkpoints appear whole or not at all, whatever happens, and nothing in a file can run code."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from utils import files as whole_file
from utils.checkpoint import (
    ForeignFile,
    load_checkpoint,
    load_matching_,
    previous_of,
    repair_,
    replace_with_link,
    save_checkpoint,
)
from utils.config import ConfigError
from utils.files import DiskFull
from utils.provenance import versions

STATE = {"weights": {"a": torch.arange(6.0)}, "epoch": 3, "best": 0.25, "names": ["x", "y"], "metrics": None}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE | {"versions": versions()})
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"], "no temporary file is left"
    plain = torch.load(path, weights_only=True)
    assert plain["format"] == "cspdet-1"
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["weights"]["a"], STATE["weights"]["a"])
    assert {key: loaded[key] for key in ("epoch", "best", "names", "metrics")} == {
        key: STATE[key] for key in ("epoch", "best", "names", "metrics")
    }
    assert all(isinstance(value, str) for value in loaded["versions"].values())


def test_numbers_of_numpy_are_saved_as_pythons_and_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"metrics": {"AP": np.float64(0.5), "n": np.int64(3)}, "size": (np.int32(2), 4)})
    loaded = load_checkpoint(path)
    assert loaded["metrics"] == {"AP": 0.5, "n": 3}
    assert loaded["size"] == (2, 4)
    with pytest.raises(TypeError, match=r"state\.metrics\[1\]: expected a tensor or a plain value, found"):
        save_checkpoint(path, {"metrics": [1, tmp_path]})
    assert load_checkpoint(path)["size"] == (2, 4)


# What happens while it is written

SYSTEM_CALLS = ("fsync", "link", "replace")


def states(folder: Path) -> dict[str, int]:
    """The epoch of every checkpoint that is there and whole."""
    found = {}
    for path in folder.glob("*.pt"):
        with contextlib.suppress(ConfigError):
            found[path.name] = load_checkpoint(path)["epoch"]
    return found


def temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.endswith(".pt")]


def test_the_one_before_is_kept(tmp_path: Path) -> None:
    for epoch in range(1, 4):
        save_checkpoint(tmp_path / "last.pt", STATE | {"epoch": epoch})
    assert states(tmp_path) == {"last.pt": 3, "last.prev.pt": 2}
    assert temporaries(tmp_path) == []


def test_a_damaged_one_does_not_replace_the_whole_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for epoch in (1, 2):
        save_checkpoint(path, STATE | {"epoch": epoch})
    path.write_bytes(path.read_bytes()[:-100])
    save_checkpoint(path, STATE | {"epoch": 3})
    assert states(tmp_path) == {"last.pt": 3, "last.prev.pt": 1}


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("number", range(1, 8))
def test_an_error_of_the_system_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, links: bool
) -> None:
    """The number-th call that changes something on the disk fails."""
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    for epoch in (1, 2):
        save_checkpoint(last, STATE | {"epoch": epoch, "step": epoch}, best=best)
    count = 0

    def failing(name: str, real: Callable) -> Callable:
        def call(*arguments: object) -> object:
            nonlocal count
            count += 1
            if count == number or (name == "link" and not links):
                raise OSError(errno.EIO, "no luck")
            return real(*arguments)

        return call

    with monkeypatch.context() as patch:
        for name in SYSTEM_CALLS:
            patch.setattr(os, name, failing(name, getattr(os, name)))
        with contextlib.suppress(OSError):
            save_checkpoint(last, STATE | {"epoch": 3, "step": 3}, best=best)
    assert temporaries(tmp_path) == []
    assert {2, 3} & set(states(tmp_path).values())
    repair_(last, best)
    assert states(tmp_path)["last.pt"] == states(tmp_path)["best.pt"] >= 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a copy of this process")
@pytest.mark.parametrize("links", [True, False])
def test_a_kill_at_any_stage_leaves_a_whole_checkpoint(tmp_path: Path, links: bool) -> None:
    """A copy of this process dies before its number-th call to the system, then after it; at last it survives."""
    survived = False
    for number in range(1, 40):
        folder = tmp_path / str(number)
        folder.mkdir()
        last, best = folder / "last.pt", folder / "best.pt"
        for epoch in (1, 2):
            save_checkpoint(last, STATE | {"epoch": epoch, "step": epoch}, best=best if epoch == 1 else None)
        child = os.fork()
        if child == 0:
            _save_and_die(last, best, number, links)
        survived = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        whole = states(folder)
        assert whole.get("last.pt") in (2, 3) or whole.get("last.prev.pt") == 2, (number, whole)
        repair_(last, best)
        whole = states(folder)
        assert temporaries(folder) == []
        assert whole["last.pt"] in (2, 3)
        assert whole["best.pt"] == (3 if whole["last.pt"] == 3 else 1), (number, whole)
        if survived:
            break
    assert survived
    assert number > 10, "the calls were not seen"


def _save_and_die(last: Path, best: Path, number: int, links: bool) -> None:
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == number:
            os._exit(9)

    def dying(name: str, real: Callable) -> Callable:
        def call(*arguments: object) -> object:
            step()
            if name == "link" and not links:
                raise OSError(errno.EPERM, "no links here")
            result = real(*arguments)
            step()
            return result

        return call

    try:
        for name in (*SYSTEM_CALLS, "unlink"):
            setattr(os, name, dying(name, getattr(os, name)))
        save_checkpoint(last, STATE | {"epoch": 3, "step": 3}, best=best)
        os._exit(0)
    finally:
        os._exit(1)


class _FullDisk(io.FileIO):
    """Takes 600 bytes."""

    def write(self, data: bytes) -> int:
        if self.tell() + len(data) > 600:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)


def test_a_full_disk_is_told_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    monkeypatch.setattr(whole_file, "open", _FullDisk, raising=False)
    with pytest.raises(DiskFull) as first:
        save_checkpoint(path, STATE | {"large": torch.zeros(3_000_000)})
    text = str(first.value)
    assert f"{path}: no space on the disk: the file needs about 12.1 MB and its folder has " in text
    assert "Make room" in text
    assert "of before" not in text
    assert isinstance(first.value, OSError)
    assert first.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    save_checkpoint(path, STATE)
    monkeypatch.setattr(whole_file, "open", _FullDisk, raising=False)
    with pytest.raises(DiskFull, match=r"The last\.pt of before is whole\. Make room"):
        save_checkpoint(path, STATE | {"epoch": 4})
    assert states(tmp_path) == {"last.pt": 3}
    assert temporaries(tmp_path) == []


def test_a_folder_that_cannot_be_written_keeps_its_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none"):
        save_checkpoint(tmp_path / "none" / "last.pt", STATE)


# What a killed run leaves


def test_files_of_killed_runs_go_with_the_next_save(tmp_path: Path) -> None:
    for name in (".last.pt.12345.tmp", ".best.pt.1.tmp", ".last.prev.pt.7.tmp", ".other.pt.3.tmp", "last.pt.3.tmp"):
        (tmp_path / name).write_bytes(b"part")
    save_checkpoint(tmp_path / "last.pt", STATE, best=tmp_path / "best.pt")
    left = {".other.pt.3.tmp", "last.pt.3.tmp", "last.pt", "best.pt"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_repair_of_nothing_and_of_a_whole_run_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    with caplog.at_level("INFO"):
        repair_(last, best)
        assert list(tmp_path.iterdir()) == []
        for epoch in (1, 2, 3):
            save_checkpoint(last, STATE | {"epoch": epoch, "step": epoch}, best=best if epoch == 2 else None)
        repair_(last, best)
    assert states(tmp_path) == {"last.pt": 3, "last.prev.pt": 2, "best.pt": 2}
    assert caplog.text == ""


def test_repair_says_what_it_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    for epoch in (1, 2):
        save_checkpoint(last, STATE | {"epoch": epoch, "step": epoch}, best=best)
    best.write_bytes(b"cut")
    last.unlink()
    (tmp_path / ".last.pt.12345.tmp").touch()
    with caplog.at_level("INFO"):
        repair_(last, best)
    assert states(tmp_path) == {"last.pt": 1, "last.prev.pt": 1, "best.pt": 1}
    assert "Removed" in caplog.text
    assert "last.pt is missing: going on from the one before it, last.prev.pt" in caplog.text
    assert "last.pt is the best so far: best.pt made of it" in caplog.text
    last.write_bytes(b"damaged")
    repair_(last, best)  # loading it says what is wrong
    assert last.read_bytes() == b"damaged"


# Files that are not what they should be


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(ConfigError, match="no such checkpoint; train one"):
            load_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.6, 0.95, 0.9999])
def test_a_cut_off_file_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ConfigError, match=r"last.pt: .*(cannot be read as a checkpoint|not a checkpoint of CSPDet)"):
        load_checkpoint(path)


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"weights": torch.zeros(1000)})
    content = bytearray(path.read_bytes())
    content[content.index(bytes(4000)) + 1234] ^= 4
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"last\.pt: .*wrong check sum of archive/data/0"):
        load_checkpoint(path)


def test_a_whole_checkpoint_beside_a_bad_one_is_offered(tmp_path: Path) -> None:
    last, before, best = tmp_path / "last.pt", tmp_path / "last.prev.pt", tmp_path / "best.pt"
    for epoch in (1, 2, 3):
        save_checkpoint(last, STATE | {"epoch": epoch, "step": 10 * epoch}, best=best if epoch == 1 else None)
    whole = last.read_bytes()

    def message() -> str:
        with pytest.raises(ConfigError) as error:
            load_checkpoint(last)
        return str(error.value)

    offered = f"{before} is whole, after epoch 2 and step 20: go on from it with --resume {before}"
    last.write_bytes(whole[: len(whole) // 2])
    assert offered in message()
    last.write_bytes(b"text of another program")
    assert offered in message()
    torch.save({"model": nn.Linear(1, 1)}, last)
    assert offered in message()
    last.unlink()
    assert f"{last}: no such checkpoint; {offered}" in message()
    before.write_bytes(whole[:100])
    assert f"{best} is whole, after epoch 1 and step 10" in message()
    best.write_bytes(b"")
    assert "train one with 'python train.py'" in message()
    last.write_bytes(b"text of another program")
    assert "use another checkpoint of the run (last.pt, last.prev.pt, best.pt)" in message()


class _RunsCode:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("code-was-run",)


def foreign_files() -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save({"model": nn.Linear(2, 2)}, buffer)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "not weights")
    legacy = io.BytesIO()
    torch.save({"a": _RunsCode()}, legacy, _use_new_zipfile_serialization=False)
    return {
        "a whole model": buffer.getvalue(),
        "a pickle": pickle.dumps({"a": _RunsCode()}),
        "an old torch file": legacy.getvalue(),
        "a zip": archive.getvalue(),
        "text": b"just some text\n" * 9,
        "darknet": bytes(20) + bytes(range(256)) * 4,
        "an image": b"\x89PNG\r\n\x1a\n" + bytes(40),
    }


@pytest.mark.parametrize("kind", foreign_files())
def test_files_of_other_programs_are_refused_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "foreign.pt"
    path.write_bytes(foreign_files()[kind])
    with pytest.raises(ConfigError, match=r"foreign\.pt: "):
        load_checkpoint(path)
    assert not (tmp_path / "code-was-run").exists()


def test_damaged_files_end_in_one_message(tmp_path: Path) -> None:
    """Random bytes changed: either the file still loads, or there is one ConfigError."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    whole, rng = path.read_bytes(), random.Random(0)
    legacy = io.BytesIO()
    torch.save(STATE, legacy, _use_new_zipfile_serialization=False)
    for number in range(120):
        content = bytearray(whole if number % 2 else legacy.getvalue())
        for _ in range(rng.choice([1, 3, 30])):
            content[rng.randrange(min(len(content), 800))] = rng.randrange(256)
        path.write_bytes(content)
        with contextlib.suppress(ConfigError):
            load_checkpoint(path)


@pytest.mark.parametrize(("content", "found"), [({"format": "other"}, "'other'"), ({"a": 1}, "None"), ([1], "'list'")])
def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path, content: object, found: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ForeignFile, match=f"expected a checkpoint with format 'cspdet-1', found {found}"):
        load_checkpoint(tmp_path / "x.pt")


def test_only_tensors_that_fit_are_copied_and_all_are_counted() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    weights = {"0.weight": torch.ones(2, 3), "0.bias": torch.ones(5), "other": torch.ones(1)}
    loaded, other_shape, absent = load_matching_(model, weights)
    assert (loaded, other_shape, absent) == (["0.weight"], ["0.bias"], ["1.weight", "1.bias"])
    assert (model[0].weight == 1).all()
    assert not (model[0].bias == 1).any()
    assert load_matching_(model, {}) == ([], [], ["0.weight", "0.bias", "1.weight", "1.bias"])


def test_the_best_checkpoint_outlives_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    for linking in (True, False):
        if not linking:
            monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("not here")))
        save_checkpoint(last, {"epoch": 1})
        replace_with_link(best, last)
        replace_with_link(best, last)
        save_checkpoint(last, {"epoch": 2})
        assert load_checkpoint(best)["epoch"] == 1
        assert load_checkpoint(last)["epoch"] == 2
        assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "last.prev.pt", "last.pt"]
        assert previous_of(last).name == "last.prev.pt"
