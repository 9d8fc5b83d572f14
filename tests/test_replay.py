"""A step that fails in a run fails again in `train.py --replay FILE`, and is told in the same words."""

# ruff: noqa: F811 (fixtures of another file)

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import train
from engine import step as step_module
from tests.test_train import command, cpu, quick  # noqa: F401

BLOWN_UP = ("optimizer.type=sgd", "optimizer.lr=1e7", "optimizer.clip_norm=null", "schedule.warmup_epochs=0")
"""A learning rate at which the weights leave the range of numbers after two or three steps."""


def settings(*texts: str) -> list[str]:
    return [part for text in (*BLOWN_UP, "schedule.warmup_steps=0", *texts) for part in ("--set", text)]


def message(error: str) -> list[str]:
    """The part of an error message that says what was found."""
    lines = error.removeprefix("error: ").splitlines()
    return lines[: next(place for place, line in enumerate(lines) if line.startswith("  The optimizer"))]


def failed_run(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, list[str]]:
    """The replay file of a run that fails, and what was told."""
    assert train.main(arguments) == 2
    error = capsys.readouterr().err
    (file,) = (tmp_path / "runs" / "exp").glob("replay_step*.pt")
    assert f"see the step again with: python train.py --replay {file}" in error
    return file, message(error)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("recipe", "what"),
    [
        (("amp=off",), "Reproduced on cpu, with the same terms to the last bit"),
        (("amp=bf16", "nominal_batch_size=8", "dropblock.probability=0.1"), "the same terms to the last bit"),
        (("amp=fp16", "augment.mixup=0.5"), "the same terms to the last bit"),
    ],
)
def test_a_failed_step_fails_again(
    command: list[str],
    tmp_path: Path,
    tiny_coco: Path,
    capsys: pytest.CaptureFixture[str],
    recipe: tuple[str, ...],
    what: str,
) -> None:
    shutil.copytree(tiny_coco.parent, tmp_path / "data")
    arguments = [*command, "--data", str(tmp_path / "data" / "data.yaml"), "--epochs", "20", *settings(*recipe)]
    file, told = failed_run(arguments, tmp_path, capsys)
    assert len(told) == 5
    shutil.rmtree(tmp_path / "data")  # the file needs nothing beside itself
    torch.manual_seed(99)
    assert train.main(["--replay", str(file), *cpu()]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:5] == told
    assert what in out[-1]


@pytest.mark.usefixtures("quick")
def test_a_failure_that_does_not_come_back_is_said_to_be_none(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = step_module.loss_terms

    def spoiled(*arguments: object) -> dict[str, torch.Tensor]:
        return {**real(*arguments), "box": torch.tensor(float("nan"))}

    monkeypatch.setattr(step_module, "loss_terms", spoiled)
    file, told = failed_run(command, tmp_path, capsys)
    assert told[0].startswith("the loss of step 1 (epoch 1) is not a finite number: box nan")
    monkeypatch.setattr(step_module, "loss_terms", real)
    assert train.main(["--replay", str(file), *cpu()]) == 1
    out = capsys.readouterr().out
    assert "Not reproduced on cpu: the step is finite here. It was told:\nthe loss of step 1" in out


@pytest.mark.parametrize("kind", ["missing", "empty", "checkpoint", "pickle", "cut off"])
def test_another_file_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    file = tmp_path / "replay.pt"
    content = {"missing": None, "empty": b"", "pickle": None, "cut off": None, "checkpoint": None}[kind]
    if content is not None:
        file.write_bytes(content)
    elif kind == "checkpoint":
        torch.save({"format": "cspdet-1"}, file)
    elif kind == "pickle":
        torch.save(Path("x"), file)
    elif kind == "cut off":
        torch.save({"format": "cspdet-replay-1", "x": torch.zeros(1000)}, file)
        file.write_bytes(file.read_bytes()[:2000])
    assert train.main(["--replay", str(file), *cpu()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert str(file) in error
    assert len(error.splitlines()) == 1
