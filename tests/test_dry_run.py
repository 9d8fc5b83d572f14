"""--dry-run tries every part, says what a training will cost, leaves nothing behind, and fails where a part does."""

# ruff: noqa: F811 (fixtures of another file)

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
import torch

import train
from engine import dry_run as rehearsal
from tests.test_train import command, cpu, quick  # noqa: F401
from utils.checkpoint import same_values

LINES = ("data", "one batch", "evaluation", "checkpoint", "time", "memory", "disk")


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "STEPS", 12)


def test_values_are_compared_to_the_last_bit() -> None:
    assert same_values({}, {})
    assert same_values({"a": [torch.tensor([float("nan")]), 1, "x"]}, {"a": (torch.tensor([float("nan")]), 1, "x")})
    assert same_values(torch.zeros(0, 3), torch.zeros(0, 3))
    assert not same_values(torch.zeros(3), torch.zeros(3, dtype=torch.float64))
    assert not same_values(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_values({"a": 1}, {"a": 1, "b": 2})
    assert not same_values([1, 2], [1, 3])
    assert same_values(torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last), torch.ones(2, 3, 4, 5))


@pytest.mark.parametrize("workers", [0, 2])
def test_everything_is_tried_and_nothing_is_left(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    workers: int,
) -> None:
    arguments = [*command, "--dry-run", *cpu(workers=workers), "--set", "nominal_batch_size=8"]
    arguments += ["--set", "evaluation.interval=2"]  # which would not evaluate after the first epoch
    assert train.main([*arguments, "--set", "optimizer.lr=0.01"]) == 0
    captured = capsys.readouterr()
    report = captured.out[captured.out.index("Dry run: everything works.") :].splitlines()
    assert [line[2:14].strip() for line in report[1:]] == list(LINES)
    first, last = map(float, re.search(r"loss ([\d.]+) -> ([\d.]+) in 12 steps", report[2]).groups())
    assert last < first
    assert "7 images; all 7 in about " in report[3]
    assert float(re.search(r"in about ([\d.]+)s", report[3])[1]) > 0.01
    assert "read back to the last bit" in report[4]
    assert re.search(r"an epoch \(1 steps of .* for 2 epochs", report[5])
    assert f"{workers} loader processes included" in report[6]
    assert "MB for 3 checkpoints" in report[7]
    assert not list((tmp_path / "runs").iterdir())
    assert captured.err == ""


@pytest.mark.usefixtures("quick")
def test_the_figures_are_those_of_the_run(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train.main([*command, "--dry-run", "--set", "optimizer.lr=0.01"]) == 0
    size = float(re.search(r"checkpoint +([\d.]+) MB", capsys.readouterr().out)[1])
    assert train.main(command) == 0
    last = tmp_path / "runs" / "exp" / "weights" / "last.pt"
    assert size == pytest.approx(last.stat().st_size / 1e6, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "optimizer.lr=30", "--set", "optimizer.type=sgd"], "the loss on one batch does not fall: "),
        (["--resume", "x"], "--resume continues a run as it was started; leave out .*--dry-run"),
        (["--set", "loss.boxx=1"], "boxx: unknown key"),
    ],
)
def test_what_fails_is_said_and_nothing_is_left(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert train.main([*command, "--dry-run", *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_a_number_that_is_not_finite_leaves_its_replay_file(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = ("optimizer.type=sgd", "optimizer.lr=1e12", "optimizer.clip_norm=null")
    assert train.main([*command, "--dry-run", *(part for text in settings for part in ("--set", text))]) == 2
    file = Path(re.search(r"--replay (\S+)", capsys.readouterr().err)[1])
    assert file.parent.parent == tmp_path / "runs"
    assert list(file.parent.iterdir()) == [file]
    assert train.main(["--replay", str(file), *cpu()]) == 0


def test_a_checkpoint_that_cannot_be_written_is_told(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("utils.checkpoint.torch.save", full)
    assert train.main([*command, "--dry-run", "--set", "optimizer.lr=0.01"]) == 2
    assert "no space on the disk: the file needs about " in capsys.readouterr().err
    assert not list((tmp_path / "runs").iterdir())


def test_a_checkpoint_that_comes_back_changed_is_told(
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = rehearsal.load_checkpoint

    def flipped(path: Path) -> dict:
        state = real(path)
        next(iter(state["weights"].values()))[0] += 1e-3
        return state

    monkeypatch.setattr(rehearsal, "load_checkpoint", flipped)
    assert train.main([*command, "--dry-run", "--set", "optimizer.lr=0.01"]) == 2
    assert "comes back with other values in weights; is the disk sound?" in capsys.readouterr().err


def test_a_disk_that_is_too_small_is_told(
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Usage:
        free = 1_000_000

    monkeypatch.setattr(rehearsal.shutil, "disk_usage", lambda _: Usage)
    assert train.main([*command, "--dry-run", "--set", "optimizer.lr=0.01"]) == 2
    assert re.search(r"the checkpoints of a run take \d MB, and the disk has 1 MB free", capsys.readouterr().err)
