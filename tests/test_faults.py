"""What goes wrong in the middle of a run ends in a message with the remedy, and with the last checkpoint whole."""

# ruff: noqa: F811 (fixtures of another file)

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch

import train
from engine import failure
from engine import step as step_module
from tests.test_train import assert_same_run, command, cpu, quick, rows  # noqa: F401
from utils.checkpoint import load_checkpoint
from utils.config import ROOT, load_yaml
from utils.faults import explain

Hook = Callable[[int], None]


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Hook], None]:
    """before_step(f): f(k) is called before the k-th step, counted from 1."""

    def install(hook: Hook) -> None:
        real, count = failure.train_step, 0

        def hooked(*arguments: object) -> dict[str, float]:
            nonlocal count
            count += 1
            hook(count)
            return real(*arguments)

        monkeypatch.setattr(failure, "train_step", hooked)

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
    command: list[str],
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
from engine import failure
from utils import pictures, plots
torch.set_num_threads(1)
pictures.plot_batch = plots.plot_labels = lambda *_, **__: None
real = failure.train_step
def first(*arguments):
    size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (size * 1024 + {room}, -1))
    return real(*arguments)
failure.train_step = first
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits the memory of a process as Linux does")
def test_an_allocation_that_the_system_refuses_is_told_with_the_size_that_fits(
    command: list[str],
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
    command: list[str],
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
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    before_step: Callable,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(path: Path, _: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    before_step(lambda step: step == 3 and monkeypatch.setattr("utils.log.write_atomically", full))
    lines = failed(command, capsys)
    run = assert_whole(tmp_path, epoch=2)  # which comes before the table
    assert "results.csv: cannot be written or read (Read-only file system); correct its permissions" in lines[0]
    assert lines[-1] == f"  The last checkpoint is whole; to go on from it: python train.py --resume {run}"
    assert len(rows(run)) == 1
    monkeypatch.undo()
    assert train.main(["--resume", str(run), *cpu()]) == 0
    assert train.main(command) == 0
    assert_same_run(run, tmp_path / "runs" / "exp2")


@pytest.mark.usefixtures("quick")
def test_a_table_that_another_program_holds_does_not_end_a_run(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a spreadsheet program does on Windows; epoch 2 finds it closed."""
    real, tried = os.replace, []

    def replace(source: Path, target: Path) -> None:
        tried.append(Path(target).name)
        if Path(target).name == "results.csv" and tried.count("results.csv") <= 2:
            raise PermissionError(errno.EACCES, "Access is denied", str(source), 5, str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr("utils.files.HELD_SECONDS", 0.05)
    assert train.main(command) == 0
    run = assert_whole(tmp_path, epoch=2)
    assert [row["epoch"] for row in rows(run)] == ["1", "2"]
    assert "results.csv: another program holds the file (Access is denied)" in capsys.readouterr().out
    assert tried.index("last.pt") < tried.index("results.csv"), "the checkpoint comes first"


@pytest.mark.usefixtures("quick")
def test_a_checkpoint_that_finds_no_space_leaves_the_one_before(
    command: list[str],
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
    before_step(lambda step: step == 3 and monkeypatch.setattr("utils.checkpoint.torch.save", full))
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
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").touch()
    lines = failed([*command, "--project", str(tmp_path / "file" / "runs")], capsys)
    assert len(lines) == 1
    assert "choose another --project" in lines[0]


def test_memory_that_runs_out_in_another_package_is_recognised() -> None:
    with pytest.raises(cv2.error, match="Insufficient memory") as caught:
        raise cv2.error(
            "OpenCV(4.14.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 268435456 bytes"
        )
    errors = [caught.value, OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))]
    errors.append(
        RuntimeError("Caught _ArrayMemoryError in DataLoader worker\nUnable to allocate 5.00 GiB for an array")
    )
    for error in errors:
        assert explain(error).startswith("out of memory of the machine ("), error
        assert "use a smaller --batch-size or --img-size" in explain(error)
    assert explain(cv2.error("OpenCV(4.14.0) resize.cpp:4052: error: (-215:Assertion failed)")) is None
    lone = ValueError("Expected more than 1 value per channel when training, got input size torch.Size([1, 8, 1, 1])")
    assert "use a larger --batch-size or --img-size" in explain(lone)
