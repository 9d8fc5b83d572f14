"""What goes wrong in the middle of a run ends in a message with the remedy, and with the last checkpoint whole."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from data import dataset
from tests.test_train import assert_same_run, command, cpu, quick, rows  # noqa: F401
from utils.config import ROOT, load_yaml
from utils.faults import explain, report
from utils.training import step as step_module
from utils.training.checkpoint import load_checkpoint

Hook = Callable[[int], None]


@pytest.fixture
def own_data(tiny_coco: Path, tmp_path: Path) -> Path:
    """A copy of the tiny data set, whose images a test may spoil."""
    shutil.copytree(tiny_coco.parent, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Hook], None]:
    """before_step(f): f(k) is called before the k-th step, counted from 1."""

    def install(hook: Hook) -> None:
        real, count = train.train_step, 0

        def hooked(*arguments: object) -> dict[str, float]:
            nonlocal count
            count += 1
            hook(count)
            return real(*arguments)

        monkeypatch.setattr(train, "train_step", hooked)

    return install


def failed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of the message that a command line ends in."""
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: "), error
    assert "Traceback" not in error
    return error.splitlines()


def assert_whole(tmp_path: Path, *, epoch: int, name: str = "exp") -> Path:
    """The checkpoint is that of the end of `epoch`; returns the run's folder."""
    run = tmp_path / "runs" / name
    assert load_checkpoint(run / "weights" / "last.pt")["epoch"] == epoch
    assert not list(run.rglob("*.tmp"))
    return run


# Numbers


@pytest.mark.usefixtures("quick")
def test_a_bad_step_that_is_skipped_is_counted_and_the_run_goes_on(
    command: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = step_module.loss_terms
    seen = []

    def spoiled(stepper: object, batch: object) -> dict[str, torch.Tensor]:
        terms = real(stepper, batch)
        first = not seen or seen[0] == batch.paths
        if first:
            seen[:] = [batch.paths]
        return {**terms, "box": terms["box"] * float("nan")} if first else terms

    monkeypatch.setattr(step_module, "loss_terms", spoiled)
    assert train.main([*command, "--set", "non_finite=skip"]) == 0
    out = capsys.readouterr().out
    assert "Step skipped: the loss of step 1 (epoch 1) is not a finite number: box nan" in out
    assert "  1 steps skipped, whose loss or gradient was not finite" in out
    table = rows(tmp_path / "runs" / "exp")
    assert len(table) == 2
    assert all(float(row["loss/box"]) < 100 for row in table)
    assert load_checkpoint(tmp_path / "runs" / "exp" / "weights" / "last.pt")["step"] == 4


# Memory

LIMITED = """
import resource, sys
sys.path.insert(0, {root!r})
import train
import torch
torch.set_num_threads(1)
for name in ("plot_batch", "plot_labels"):
    setattr(train.plots, name, lambda *_, **__: None)
real = train.train_step
def first(*arguments):
    size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (size * 1024 + {room}, -1))
    return real(*arguments)
train.train_step = first
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits the memory of a process as Linux does")
def test_an_allocation_that_the_system_refuses_is_told_with_the_size_that_fits(
    command: list[str],  # noqa: F811
    tmp_path: Path,
) -> None:
    script = tmp_path / "limited.py"
    script.write_text(LIMITED.format(root=str(ROOT), room=250_000_000))
    arguments = [*command, "--img-size", "640", "--batch-size", "8", "--set", "amp=off"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: out of memory on cpu in step 1: 8 images of 640 x 640 px do not fit (")
    assert lines[1].startswith("  what fits, by trial: ")
    assert "--batch-size" in lines[2]
    assert lines[-1] == "  There was no checkpoint yet."


@pytest.mark.usefixtures("quick")
def test_the_batch_size_that_is_found_is_the_runs_own_and_its_search_changes_nothing(
    command: list[str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train.main([*command, "--batch-size", "auto"]) == 0
    run = tmp_path / "runs" / "exp"
    assert load_yaml(run / "config.yaml")["recipe"]["batch_size"] == 4
    assert "Batch size: 4 by trial (64 x 64 px" in capsys.readouterr().out
    assert train.main([*command, "--batch-size", "4"]) == 0
    assert_same_run(run, tmp_path / "runs" / "exp2")


# Disk


@pytest.mark.usefixtures("quick")
def test_a_disk_that_takes_no_more_leaves_the_last_checkpoint(
    command: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before_step: Callable,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(path: Path, _: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    before_step(lambda step: step == 3 and monkeypatch.setattr("utils.log.write_whole", full))
    lines = failed(command, capsys)
    run = assert_whole(tmp_path, epoch=1)
    assert "results.csv: cannot be written or read (Read-only file system); correct its permissions" in lines[0]
    assert lines[-1] == f"  The last checkpoint is whole; to go on from it: python train.py --resume {run}"
    monkeypatch.undo()
    assert train.main(["--resume", str(run), *cpu()]) == 0


@pytest.mark.usefixtures("quick")
def test_a_checkpoint_that_finds_no_space_leaves_the_one_before(
    command: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before_step: Callable,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(_: object, file: object) -> None:
        file.write(b"half")
        with open("/dev/full", "wb") as other:  # what a full disk says, from the system itself
            other.write(bytes(100_000))

    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    before_step(lambda step: step == 3 and monkeypatch.setattr("utils.training.checkpoint.torch.save", full))
    lines = failed(command, capsys)
    assert "last.pt: no space on the disk: the file needs about " in lines[0]
    run = assert_whole(tmp_path, epoch=1)
    assert lines[-1].endswith(f"to go on from it: python train.py --resume {run}")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.ENOSPC, "results.csv: no space on the disk; make room"),
        (errno.EACCES, "results.csv: cannot be written or read (Permission denied); correct its permissions"),
        (errno.EIO, "results.csv: the disk does not answer (Input/output error)"),
        (errno.EMFILE, "too many open files: raise the limit (ulimit -n 65536)"),
    ],
)
def test_what_the_system_says_of_a_disk_is_translated(code: int, message: str) -> None:
    assert explain(OSError(code, os.strerror(code), "results.csv")).startswith(message)


def test_a_project_folder_that_cannot_be_made_is_named(
    command: list[str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    lines = failed([*command, "--project", str(tmp_path / "file" / "runs")], capsys)
    assert len(lines) == 1
    assert "choose another --project" in lines[0]


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
    command: list[str],  # noqa: F811
    tmp_path: Path,
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
    assert "or train without such files: bad_images: skip" in lines[0]
    run = tmp_path / "runs" / "exp"
    epoch = load_checkpoint(run / "weights" / "last.pt")["epoch"]
    assert epoch >= 1
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("bad_images: stop", "bad_images: skip"))
    assert train.main(["--resume", str(run), *cpu(workers=workers)]) == 0, "what the message advises"
    assert len(rows(run)) == 6


@pytest.mark.usefixtures("quick")
def test_images_that_are_skipped_are_told_once_and_two_such_runs_are_equal(
    command: list[str],  # noqa: F811
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
    command: list[str],  # noqa: F811
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
    command: list[str],  # noqa: F811
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
    command: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = dataset.read_image

    def stuck(path: Path) -> np.ndarray:
        if path.name == "5.png":
            time.sleep(600)
        return real(path)

    monkeypatch.setattr(dataset, "read_image", stuck)
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
