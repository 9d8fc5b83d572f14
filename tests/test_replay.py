"""A step that fails in a run fails again in `train.py --replay FILE`, and is told in the same words."""

# ruff: noqa: F811 (fixtures of another file)

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

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


@pytest.mark.usefixtures("quick")
def test_any_value_in_a_replay_file(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one schema of saved files is that of replay files too."""
    file, _ = failed_run([*command, "--epochs", "20", *settings("amp=off")], tmp_path, capsys)
    content = torch.load(file, weights_only=True)
    places = [(key,) for key in content if key not in ("world_size", "device", "versions")]
    places += [(key, inner) for key in ("state", "failure", "config") for inner in content[key]]
    places += [("batches", 0, key) for key in content["batches"][0]]
    places += [("batches", 0, "targets", key) for key in content["batches"][0]["targets"]]
    junk = [None, 7, "x", [], {}, [["\n"]], torch.zeros(2), 10**30, _nested(60)]
    monkeypatch.setattr("engine.replay.repeat", lambda replay, stepper, state: state.resume(replay.state, where="it"))
    known = (f"error: --replay {file}: ", f"error: {file}: ", "error: it: ")
    for number, place in enumerate(places):
        torch.save(_with(content, place, junk[number % len(junk)]), file)
        status = train.main(["--replay", str(file), *cpu()])
        error = capsys.readouterr().err
        assert status == 1 or error.startswith(known), place
        assert len(error) < 4000
    del content["rank"]
    torch.save(content, file)
    assert train.main(["--replay", str(file), *cpu()]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: --replay {file}: rank: this key is missing; the file was changed"
    )


def _with(value: Any, place: tuple[Any, ...], junk: Any) -> Any:
    """A copy of a nest with something else at one place."""
    if not place:
        return junk
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = _with(value[place[0]], place[1:], junk)
    return copy


def _nested(depth: int) -> list[Any]:
    return [_nested(depth - 1)] if depth else []
