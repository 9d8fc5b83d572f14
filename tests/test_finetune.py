"""train.py from weights: the start is epoch 0, best.pt is never worse than it, and a run goes on exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train
from engine import loop
from models.predictor import open_predictor
from tests.test_train import (
    assert_same,
    assert_same_run,
    cpu,
    rows,
    stop_after,  # noqa: F401
    without_pictures,
)
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import load_yaml


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pictures(monkeypatch)


@pytest.fixture(scope="module")
def knowing(tiny_coco: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that finds something: of a short training at a high rate."""
    folder = tmp_path_factory.mktemp("knowing")
    plain = [f"augment.{name}=0" for name in ("mosaic", "scale", "translate", "flip_lr", "hue", "saturation", "value")]
    plain += ["optimizer.lr=0.05", "schedule.warmup_epochs=0", "schedule.warmup_steps=5", "ema.decay=0.9", "amp=off"]
    sets = [part for text in [*plain, "norm_momentum=0.2", "evaluation.interval=100"] for part in ("--set", text)]
    about = ["--cfg", str(tiny_model), "--data", str(tiny_coco), "--project", str(folder), *cpu()]
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        assert train.main([*about, *sets, "--batch-size", "8", "--epochs", "40"]) == 0
    path = folder / "exp" / "weights" / "last.pt"
    assert load_checkpoint(path)["best"] > 0.05
    return path


@pytest.fixture
def command(tiny_coco: Path, tiny_model: Path, tmp_path: Path) -> list[str]:
    about = ["--cfg", str(tiny_model), "--data", str(tiny_coco), "--project", str(tmp_path)]
    return [*about, "--hyp", "finetune", "--batch-size", "4", "--epochs", "3", *cpu(), "--set", "amp=off"]


def renamed(path: Path, target: Path, names: list[str]) -> Path:
    """The same checkpoint for classes of other names."""
    save_checkpoint(target, {**load_checkpoint(path), "names": names})
    return target


def test_the_start_is_epoch_0_and_stays_best_where_training_does_harm(
    command: list[str], knowing: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm = ["--set", "optimizer.lr=0.5", "--set", "finetune.rate=1", "--set", "schedule.warmup_steps=0"]
    assert train.main([*command, *harm, "--weights", str(knowing)]) == 0
    said = capsys.readouterr().out
    source = load_checkpoint(knowing)
    figure = source["metrics"]["AP"]
    assert f"Epoch 0  the start  AP {figure:.3f}" in said
    assert f"No epoch was as good as the start, AP {figure:.3f}: best.pt is the start" in said
    run = tmp_path / "exp"
    assert [row["epoch"] for row in rows(run)] == ["1", "2", "3"], "the start is no row of the table"
    assert all(float(row["AP"]) < figure for row in rows(run))
    best = load_checkpoint(run / "weights" / "best.pt")
    assert (best["epoch"], best["step"], best["best"], best["start_figure"]) == (0, 0, figure, figure)
    assert best["metrics"]["AP"] == figure
    assert_same(best["ema"], source["ema"])
    assert open_predictor(run / "weights" / "best.pt", device="cpu").names == ("blue", "red")
    config = load_yaml(run / "config.yaml")
    assert config["start"] == {"known": 2, "new": [], "scales": {}}
    assert config["recipe"]["finetune"] == {"head_epochs": 0, "rate": 1.0}


def test_other_recipes_evaluate_the_start_too_and_a_better_epoch_replaces_it(
    command: list[str],
    knowing: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures = iter([0.2, 0.195, 0.3, 0.25])
    evaluated = loop.average_figures

    def pretended(*arguments: object) -> dict:
        return {**evaluated(*arguments), "AP": next(figures)}

    monkeypatch.setattr(loop, "average_figures", pretended)
    assert train.main([*command, "--hyp", "default", "--weights", str(knowing)]) == 0
    said = capsys.readouterr().out
    assert "Epoch 0  the start  AP 0.200" in said
    assert "No epoch was" not in said
    saved = {name: load_checkpoint(tmp_path / "exp" / "weights" / f"{name}.pt") for name in ("best", "last")}
    assert (saved["best"]["epoch"], saved["best"]["best"], saved["last"]["best_epoch"]) == (2, 0.3, 2)
    assert saved["last"]["start_figure"] == 0.2


def test_a_training_that_loses_begins_anew_and_learns_slower(
    command: list[str],
    knowing: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stop_after: Callable,  # noqa: F811
) -> None:
    harm = ["--set", "optimizer.lr=0.5", "--set", "schedule.warmup_steps=0", "--set", "ema.decay=0.5", "--epochs", "6"]
    stop_after(None)
    assert train.main([*command, *harm, "--weights", str(knowing), "--name", "whole"]) == 0
    said = capsys.readouterr().out
    assert "beginning anew from the start; loaded weights learn at 0.1 times the learning rate" in said
    table = rows(tmp_path / "whole")
    assert [row["epoch"] for row in table] == ["1", "2", "3", "4", "5", "6"], "what was taken back left no row"
    best, last = (load_checkpoint(tmp_path / "whole" / "weights" / f"{name}.pt") for name in ("best", "last"))
    assert best["best"] >= last["start_figure"] > 0
    rates = {group["rate"] for group in last["optimizer"]["param_groups"]}
    assert len(rates) == 1
    assert rates < {0.1, 0.01, 0.001}
    assert all(float(row["AP"]) >= 0.97 * last["start_figure"] for row in table[:3]) or rates == {0.001}

    for number, stop in enumerate((3, 6, 9)):
        stop_after(stop)
        assert train.main([*command, *harm, "--weights", str(knowing), "--name", f"parts{number}"]) != 0
        stop_after(None)
        assert train.main(["--resume", str(tmp_path / f"parts{number}"), *cpu()]) == 0
        assert_same_run(tmp_path / "whole", tmp_path / f"parts{number}")


@pytest.mark.parametrize(
    ("names", "stop"),
    [(["blue", "red"], 2), (["red", "green"], 1), (["red", "green"], 3), (["cat", "dog"], 2)],
)
def test_stopping_on_either_side_of_the_head_s_phase_and_going_on_is_never_having_stopped(
    command: list[str],
    knowing: Path,
    tmp_path: Path,
    stop_after: Callable,  # noqa: F811
    names: list[str],
    stop: int,
) -> None:
    weights = renamed(knowing, tmp_path / "x.pt", names)
    stop_after(None)
    assert train.main([*command, "--weights", str(weights), "--name", "whole"]) == 0
    stop_after(stop)
    assert train.main([*command, "--weights", str(weights), "--name", "parts"]) != 0
    weights.unlink()
    stop_after(None)
    assert train.main(["--resume", str(tmp_path / "parts"), *cpu()]) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    config = load_yaml(tmp_path / "parts" / "config.yaml")
    alone = 0 if names == ["blue", "red"] else 1
    assert config["recipe"]["finetune"]["head_epochs"] == alone
    assert config["start"]["known"] == {"blue": 2, "red": 1, "cat": 0}[names[0]]
    last = load_checkpoint(tmp_path / "parts" / "weights" / "last.pt")
    assert (last["start_figure"] is None) == (names[0] == "cat")


def test_the_body_stays_to_the_bit_while_the_head_learns_alone(
    command: list[str],
    knowing: Path,
    tmp_path: Path,
    stop_after: Callable,  # noqa: F811
) -> None:
    source = load_checkpoint(knowing)["ema"]
    weights = renamed(knowing, tmp_path / "x.pt", ["red", "green"])
    for stop, held in ((2, True), (3, False)):
        stop_after(stop)
        arguments = [*command, "--weights", str(weights), "--set", "finetune.rate=1", "--name", f"to{stop}"]
        assert train.main(arguments) != 0
        after = load_checkpoint(tmp_path / f"to{stop}" / "weights" / "last.pt")["weights"]
        body = {name for name in source if not name.startswith("head.")}
        assert all(torch.equal(after[name], source[name]) for name in body) == held
        assert not torch.equal(after["head.convs.0.weight"], source["head.convs.0.weight"])


def test_a_kill_during_the_evaluation_of_the_start_costs_nothing_else(
    command: list[str], knowing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its checkpoint there is nothing: the run begins anew. After it the start is not evaluated again."""
    run = tmp_path / "parts"
    arguments = [*command, "--weights", str(knowing), "--set", "finetune.rate=1"]
    assert train.main([*arguments, "--name", "whole"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(loop, "average_figures", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train.main([*arguments, "--name", "parts"]) == 130
    assert not (run / "weights" / "last.pt").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_one_epoch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train.main(["--resume", str(run), *cpu()]) == 130
    assert load_checkpoint(run / "weights" / "last.pt")["start_figure"] > 0
    (run / "weights" / "best.pt").unlink()  # a kill between the two
    evaluations, evaluated = [], loop.average_figures
    with monkeypatch.context() as patch:
        patch.setattr(loop, "average_figures", lambda *a: (evaluations.append(1), evaluated(*a))[1])
        assert train.main(["--resume", str(run), *cpu()]) == 0
    assert len(evaluations) == 3, "those of the epochs"
    assert_same_run(tmp_path / "whole", run)


def test_darknet_weights_go_on_with_their_loss_unless_told_otherwise(
    command: list[str], knowing: Path, tiny_model: Path, tmp_path: Path
) -> None:
    import export

    weights = tmp_path / "x.weights"
    assert export.main(["--weights", str(knowing), "--format", "darknet", "--output", str(weights)]) == 0
    for name, sets in (("own", []), ("told", ["--set", "loss.objectness_target=iou"])):
        assert train.main([*command, "--epochs", "1", "--weights", str(weights), "--name", name, *sets]) == 0
    own, told = (load_yaml(tmp_path / name / "config.yaml") for name in ("own", "told"))
    assert own["start"]["known"] == 2
    assert own["recipe"]["loss"] == {
        "assigner": {"type": "anchor_iou", "iou_thresh": 0.213},
        "objectness_target": "one",
        "ignore_thresh": 0.7,
    }
    assert told["recipe"]["loss"] == {**own["recipe"]["loss"], "objectness_target": "iou"}
