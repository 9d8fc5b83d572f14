"""Checkpoints appear whole or not at all, and nothing in a file can run code."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from utils.config import ConfigError
from utils.training.checkpoint import load_checkpoint, load_matching_, replace_with_link, save_checkpoint, versions

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


class _Breaks:
    """Pickling fails half way."""

    def __reduce__(self) -> tuple:
        raise RuntimeError("no space left")


@pytest.mark.parametrize("fault", ["content", "fsync", "replace"])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, STATE)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if fault != "content":
        monkeypatch.setattr(os, fault, fail)
    with pytest.raises((OSError, RuntimeError), match=r"(?i)no space left"):
        save_checkpoint(path, STATE | ({"bad": _Breaks()} if fault == "content" else {"epoch": 4}))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


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
    with pytest.raises(ConfigError, match=f"expected a checkpoint with format 'cspdet-1', found {found}"):
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
        assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "last.pt"]
