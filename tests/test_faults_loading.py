"""Images and loader processes that fail in the middle of a run: a message with the remedy, or a counted skip."""

# ruff: noqa: F811 (fixtures of another file)

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train
from data import sample_reader
from tests.test_faults import assert_whole, before_step, failed  # noqa: F401
from tests.test_train import assert_same_run, command, cpu, quick, rows  # noqa: F401
from utils.checkpoint import load_checkpoint
from utils.faults import explain, report


@pytest.fixture
def own_data(tiny_coco: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data set, whose images a test may spoil."""
    shutil.copytree(tiny_coco.parent, tmp_path / "data")
    return tmp_path / "data"


# Images


def spoil(images: Path, how: str) -> None:
    """Make an image vanish, or cut it off."""
    path = images / "5.png"
    if how == "vanished":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:150])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("how", "workers"), [("vanished", 0), ("corrupt", 1)])
def test_an_image_that_goes_bad_in_the_middle_stops_the_run(
    command: list[str],
    tmp_path: Path,
    tiny_coco: Path,
    own_data: Path,
    before_step: Callable,
    capsys: pytest.CaptureFixture[str],
    how: str,
    workers: int,
) -> None:
    before_step(lambda step: step == 2 and spoil(own_data / "images", how))
    arguments = [*command, "--data", str(own_data / "data.yaml"), *cpu(workers=workers), "--set", "cache=false"]
    lines = failed([*arguments, "--epochs", "6", "--set", "evaluation.interval=6"], capsys)
    what = "no such image file" if how == "vanished" else "cannot be decoded"
    assert lines[0].startswith(f"error: {own_data / 'images' / '5.png'}: {what}")
    skip = "or train without such files: --set bad_images=skip"
    assert ("put it back, and --resume goes on" if how == "vanished" else skip) in lines[0]
    run = tmp_path / "runs" / "exp"
    epoch = load_checkpoint(run / "weights" / "last.pt")["epoch"]
    assert epoch >= 1
    if how == "vanished":
        shutil.copy(tiny_coco.parent / "images" / "5.png", own_data / "images")
    else:
        config = run / "config.yaml"
        config.write_text(config.read_text().replace("bad_images: stop", "bad_images: skip"))
    assert train.main(["--resume", str(run), *cpu(workers=workers)]) == 0, "what the message advises"
    assert len(rows(run)) == 6


@pytest.mark.usefixtures("quick")
def test_images_that_are_skipped_are_told_once_and_two_such_runs_are_equal(
    command: list[str],
    tmp_path: Path,
    own_data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("5.png", "6.png"):
        (own_data / "images" / name).write_bytes(b"no image")
    arguments = [*command, "--data", str(own_data / "data.yaml"), "--set", "bad_images=skip"]
    for workers, cache in ((0, "true"), (2, "false")):
        assert train.main([*arguments, *cpu(workers=workers), "--set", f"cache={cache}"]) == 0
        out = capsys.readouterr().out
        assert out.count("Another image in its place (bad_images: skip): ") == 2
        assert "times another image took the place of one that cannot be read" in out
        assert "Evaluation without 2 images that cannot be read: " in out
    assert_same_run(tmp_path / "runs" / "exp", tmp_path / "runs" / "exp2")


def test_a_disk_that_is_gone_is_no_matter_of_single_images(
    command: list[str],
    own_data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in (own_data / "images").iterdir():
        path.write_bytes(b"no image")
    lines = failed([*command, "--data", str(own_data / "data.yaml"), "--set", "bad_images=skip"], capsys)
    assert "the 19 images before it cannot be read either" in lines[0]


# Loader processes


@pytest.mark.usefixtures("quick")
def test_a_loader_process_that_is_killed_is_told(
    command: list[str],
    tmp_path: Path,
    before_step: Callable,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def kill(step: int) -> None:
        if step == 3:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
            time.sleep(0.5)

    before_step(kill)
    lines = failed([*command, *cpu(workers=2), "--epochs", "50", "--set", "evaluation.interval=50"], capsys)
    assert lines[0].startswith("error: a loader process was killed, by somebody or by the system for want of memory")
    assert "fewer --workers" in lines[0]
    assert_whole(tmp_path, epoch=1)


@pytest.mark.usefixtures("quick")
def test_a_loader_process_that_hangs_is_not_waited_for_for_ever(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = sample_reader.read_for_training

    def stuck(path: Path, **options: Any) -> np.ndarray:
        if path.name == "5.png":
            time.sleep(600)
        return real(path, **options)

    monkeypatch.setattr(sample_reader, "read_for_training", stuck)
    begin = time.monotonic()
    settings = ["--set", "cache=false", "--set", "worker_timeout=2", *cpu(workers=1)]
    lines = failed([*command, *settings], capsys)
    assert lines[0].startswith("error: no batch came from the loader processes for 2")
    assert "is a disk or network drive stuck?" in lines[0]
    assert time.monotonic() - begin < 60
    assert (tmp_path / "runs" / "exp" / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "DataLoader worker (pid 71) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit.",
            "a loader process died: .*--shm-size",
        ),
        ("unable to open shared memory object </torch_71_2> in read-write mode: Too many open files (24)", "ulimit -n"),
        ("unable to write to file </torch_71_2_0>: No space left on device (28)", "--shm-size"),
        ("unable to allocate shared memory(shm) for file </torch_71>: Cannot allocate memory (12)", "--shm-size"),
        ("received 0 items of ancdata", "ulimit -n 65536"),
        (
            "DataLoader worker (pid 71) is killed by signal: Segmentation fault. ",
            r"died \(Segmentation fault\).*images",
        ),
        ("DataLoader worker (pid(s) 71) exited unexpectedly", "--workers 0 shows the error itself"),
        ("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has a total capacity", "out of memory of the GPU"),
        (
            "cumsum_cuda_kernel does not have a deterministic implementation, but you set",
            "--deterministic: cumsum_cuda_kernel has no kernel that repeats",
        ),
    ],
)
def test_what_torch_says_is_translated(text: str, message: str) -> None:
    found = explain(RuntimeError(text))
    assert re.search(message, found), found
    assert "\n" not in found


def test_a_mistake_of_the_program_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("name"), TypeError("x")):
        with pytest.raises(type(error)):
            report(error)
    assert report(ValueError("lr: too large")) == 2
    assert report(OSError("odd")) == 2
    assert capsys.readouterr().err == "error: lr: too large\nerror: odd\n"
