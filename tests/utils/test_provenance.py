"""Versions, commit and data fingerprint."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.config import ROOT
from utils.provenance import (
    PACKAGES,
    changed_files,
    data_fingerprint,
    file_numbers,
    git_commit,
    other_versions,
    versions,
)
from utils.structures import LabelledImages, Sample


def images(folder: Path, count: int = 3) -> LabelledImages:
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        boxes = rng.random((number, 4)).cumsum(axis=1)
        labels, crowd = np.arange(number) % 2, np.zeros(number, bool)
        path = folder / f"part{number % 2}" / f"{number}.jpg"
        samples.append(Sample(path, number + 1, 60, 80 + number, boxes, labels.astype(np.int64), crowd))
    return LabelledImages(tuple(samples), ("a", "b"), (1, 2), {})


def test_every_package_is_named_with_its_version() -> None:
    found = versions()
    assert set(found) == {"python", "torch", *PACKAGES, "platform", "commit"}
    assert found["torch"] == str(torch.__version__)
    assert found["numpy"] == np.__version__
    assert other_versions(found, found) == other_versions({}, found) == []
    assert other_versions({"torch": "1.0", "platform": "x"}, found) == [f"torch 1.0 -> {torch.__version__}"]
    found["torch"] = "changed"
    assert versions()["torch"] != "changed"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_says_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == "unknown"

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q")
    assert git_commit(tmp_path) == "unknown"
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert git_commit(tmp_path) == f"{commit}-dirty"
    (tmp_path / "inside").mkdir()
    assert git_commit(tmp_path / "inside") == "unknown"
    assert git_commit(ROOT).removesuffix("-dirty").isalnum()


def test_nothing_has_a_fingerprint_too() -> None:
    empty = LabelledImages((), ("a",), (1,), {})
    assert len(data_fingerprint(empty)) == 64
    assert data_fingerprint(empty) != data_fingerprint(replace(empty, names=("b",)))


def test_the_fingerprint_moves_with_the_folder_and_changes_with_the_labels(tmp_path: Path) -> None:
    whole = images(tmp_path / "here")
    first = data_fingerprint(whole)
    assert first == data_fingerprint(images(tmp_path / "there"))
    assert first == data_fingerprint(images(Path("relative")))
    last = whole.samples[2]
    changed = {
        "box": replace(last, boxes=last.boxes + 1e-9),
        "label": replace(last, labels=1 - last.labels),
        "crowd": replace(last, crowd=~last.crowd),
        "size": replace(last, width=1),
        "name": replace(last, path=last.path.with_name("other.jpg")),
        "fewer": replace(last, boxes=last.boxes[:1], labels=last.labels[:1], crowd=last.crowd[:1]),
    }
    others = {what: data_fingerprint(replace(whole, samples=(*whole.samples[:2], s))) for what, s in changed.items()}
    others["order"] = data_fingerprint(replace(whole, samples=whole.samples[::-1]))
    others["names"] = data_fingerprint(replace(whole, names=("a", "c")))
    others["ids"] = data_fingerprint(replace(whole, category_ids=(1, 3)))
    assert len({first, *others.values()}) == len(others) + 1


def test_the_fingerprint_of_older_checkpoints_is_still_that_of_their_data() -> None:
    """A run resumes only on data of the fingerprint that its checkpoint has; this one is of release 0.1's code."""
    expected = "f88fd06fef5009462b738d23722df21bd7d9966e1c9bc217bb474dd39f94c2af"
    assert data_fingerprint(images(Path("anywhere"))) == expected


def test_one_image_alone_is_relative_to_its_own_folder(tmp_path: Path) -> None:
    one, two = (images(tmp_path / name, count=1) for name in ("a", "b"))
    assert data_fingerprint(one) == data_fingerprint(two)


def test_the_number_of_a_file_changes_with_its_size_beginning_and_end(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    whole = rng.bytes(20_000)
    contents = [whole, whole[:-1], b"x" + whole[1:], whole[:-1] + b"x", whole[:5000], whole[:4096], b""]
    paths = []
    for number, content in enumerate(contents):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(content)
    found = file_numbers(paths)
    assert found.dtype == torch.int64
    assert len(set(found.tolist())) == len(contents)
    assert torch.equal(found, file_numbers(paths))
    shutil.copy(paths[0], paths[1])
    os.utime(paths[0], (0, 0))
    assert file_numbers(paths)[1] == found[0]
    assert changed_files(found, file_numbers(paths)) == [1]
    assert changed_files(found[:2], found) == list(range(len(contents)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_cannot_be_read_has_the_number_zero_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert file_numbers([tmp_path / "pipe.jpg", tmp_path / "gone.jpg", tmp_path]).tolist() == [0, 0, 0]
    assert file_numbers([]).shape == (0,)


@pytest.mark.slow
def test_a_hundred_thousand_files_take_less_than_ten_seconds(tmp_path: Path) -> None:
    content = bytes(30_000)
    for number in range(100_000):
        (tmp_path / str(number)).write_bytes(content)
    paths = sorted(tmp_path.iterdir())
    begin = time.monotonic()
    file_numbers(paths)
    assert time.monotonic() - begin < 10
