"""The authors' training tricks, all at once, through train.py: they learn, stop anywhere and go on exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train
from engine import failure
from engine import step as step_module
from models.dropblock import DropBlock
from models.normalization import CrossBatchNorm2d
from models.predictor import open_predictor
from tests.test_train import assert_same_run, command, cpu, quick, rows, stop_after  # noqa: F401 - fixtures
from utils.checkpoint import load_checkpoint
from utils.config import ROOT

TRICKS = """\
cross_batch_norm=true
dynamic_batch=true
nominal_batch_size=4
norm_momentum=0.05
adversarial={lr: 0.05, probability: 0.7}
dropblock={probability: 0.2, size: 2}
optimizer={type: sgd, lr: 0.002, nesterov: false}
schedule={type: sgdr, cycle_epochs: 1, cycle_mult: 1, warmup_epochs: 0, warmup_steps: 1, warmup_power: 4}
augment={mosaic: 0.5, mosaic_type: quadrants, mixup: 0.3, geometry: jitter, colour: darknet, multi_scale: 0.5, \
multi_scale_type: darknet, multi_scale_steps: 1}
loss={assigner: {type: anchor_iou, iou_thresh: 0.213}, class_counters: auto, normalize: images, label_smoothing: 0.05, \
ignore_thresh: 0.7, box_gradient: darknet, max_delta: 5, objectness_target: iou}
model.nms=diounms
""".splitlines()


@pytest.fixture
def arguments(command: list[str]) -> list[str]:  # noqa: F811
    """A training with every trick: batches of 2 and more at 32 to 112 pixels, two of them a step."""
    settings = [part for text in TRICKS for part in ("--set", text)]
    return [*command, "--epochs", "4", "--batch-size", "2", "--seed", "4", *settings]


@pytest.fixture
def attacks(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Strength of each attack."""
    strengths: list[float] = []
    original = step_module.attacked

    def watched(*args: object, strength: float, **options: object) -> object:
        strengths.append(strength)
        return original(*args, strength=strength, **options)

    monkeypatch.setattr(step_module, "attacked", watched)
    return strengths


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("steps", [(3, 2)])
def test_all_tricks_at_once_stop_anywhere_and_go_on_exactly(
    arguments: list[str],
    tmp_path: Path,
    stop_after: Callable,  # noqa: F811
    attacks: list[float],
    steps: tuple[int, ...],
) -> None:
    stop_after(None)
    assert train.main([*arguments, "--name", "whole"]) == 0
    whole = load_checkpoint(tmp_path / "runs" / "whole" / "weights" / "last.pt")
    assert len(attacks) > 1
    assert attacks == sorted(attacks), "stronger and stronger"
    assert whole["step"] > sum(steps)
    stop_after(steps[0])
    assert train.main([*arguments, "--name", "parts"]) == 128 + signal.SIGTERM
    run = tmp_path / "runs" / "parts"
    for number, step in enumerate((*steps[1:], None)):
        stop_after(step)
        torch.manual_seed(99 + number)
        expected = 0 if step is None else 128 + signal.SIGTERM
        assert train.main(["--resume", str(run), *cpu(workers=(number + 1) % 2)]) == expected
    assert_same_run(tmp_path / "runs" / "whole", run)


@pytest.mark.usefixtures("quick")
def test_the_tricks_are_at_work_and_leave_nothing_in_the_checkpoint(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attacks: list[float]
) -> None:
    seen: dict[str, object] = {"shapes": [], "dropped": []}
    original = failure.train_step

    def watched(stepper: object, state: object, batches: list, **options: object) -> dict[str, float]:
        seen["shapes"] += [tuple(batch.images.shape) for batch in batches]
        terms = original(stepper, state, batches, **options)
        seen["dropped"].append(float(state.model.drop.current))
        seen["model"], seen["criterion"] = state.model, stepper.criterion
        return terms

    monkeypatch.setattr(failure, "train_step", watched)
    assert train.main(arguments) == 0
    model = seen["model"]
    assert isinstance(model.drop, DropBlock)
    assert sum(isinstance(module, CrossBatchNorm2d) for module in model.modules()) > 5
    assert seen["dropped"][0] == 0
    assert seen["dropped"] == sorted(seen["dropped"])
    assert 0.1 < seen["dropped"][-1] < 0.2
    assert seen["criterion"].class_factors.amax() >= 1
    sizes = {shape[2]: shape[0] for shape in seen["shapes"]}
    assert len(sizes) > 1
    assert sizes[max(sizes)] == 2
    assert sizes[min(sizes)] > 2, "small images come in larger batches"
    best = tmp_path / "runs" / "exp" / "weights" / "best.pt"
    assert all(name.split(".")[0] in ("backbone", "neck", "head") for name in load_checkpoint(best)["ema"])
    predictor = open_predictor(best, device="cpu")
    assert not any(isinstance(module, (DropBlock, CrossBatchNorm2d)) for module in predictor.model.modules())
    table = rows(tmp_path / "runs" / "exp")
    assert all(float(value) == float(value) for row in table for value in row.values() if value)
    assert float(table[0]["lr"]) < 0.002


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("setting", ["cross_batch_norm=true", "dropblock.probability=0.3", "adversarial.lr=0.05"])
def test_each_trick_alone_trains_in_mixed_precision_and_changes_the_weights(
    command: list[str],  # noqa: F811
    tmp_path: Path,
    setting: str,
) -> None:
    base = [*command, "--epochs", "1", "--batch-size", "2", "--set", "nominal_batch_size=4", "--set", "amp=bf16"]
    base += ["--set", "schedule.warmup_steps=0", "--set", "schedule.warmup_epochs=0"]
    for name, extra in (("plain", []), ("trick", ["--set", setting])):
        assert train.main([*base, *extra, "--name", name]) == 0
    plain, trick = (
        load_checkpoint(tmp_path / "runs" / name / "weights" / "last.pt")["weights"] for name in ("plain", "trick")
    )
    assert plain.keys() == trick.keys()
    assert any(not torch.equal(value, trick[name]) for name, value in plain.items())
    assert all(value.isfinite().all() for value in trick.values() if value.is_floating_point())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("recipe", ["paper", "paper-optimal"])
def test_the_authors_recipes_train(
    command: list[str],  # noqa: F811
    tmp_path: Path,
    recipe: str,
) -> None:
    """Darknet's loss goes down on eight images, without what varies them."""
    settings = ["schedule.warmup_steps=5", "nominal_batch_size=8", "optimizer.lr=0.005", "evaluation.interval=30"]
    settings += [
        f"augment.{name}=0" for name in ("multi_scale", "mosaic", "jitter", "flip_lr", "hue", "saturation", "value")
    ]
    arguments = [*command, "--hyp", recipe, "--epochs", "30", "--batch-size", "8"]
    assert train.main([*arguments, *(part for text in settings for part in ("--set", text))]) == 0
    losses = [sum(float(v) for k, v in row.items() if k.startswith("loss/")) for row in rows(tmp_path / "runs" / "exp")]
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")
def test_two_processes_with_all_tricks_stop_and_go_on_exactly(
    arguments: list[str],
    tmp_path: Path,
) -> None:
    arguments, parts = [*arguments, "--epochs", "3", "--name"], tmp_path / "runs" / "parts"
    runs = [
        {"arguments": [*arguments, "whole"]},
        {"arguments": [*arguments, "parts"], "fault": "stop", "step": 3},
        {"arguments": ["--resume", str(parts), *cpu(workers=1)]},
    ]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]  # noqa: F811
    command += [str(ROOT / "tests" / "ddp_worker.py"), str(tmp_path / "codes.json"), str(tmp_path / "runs.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_run(tmp_path / "runs" / "whole", parts)
