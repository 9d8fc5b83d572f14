"""train.py from end to end, by its command line: what it leaves behind, exact resuming, and how it fails."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import train
from data.loader import eval_loader_of
from data.read import read_splits
from data.sampler import SAMPLE_ORDER, TrainSampler
from engine import failure, finish, job, loop
from engine.evaluate import evaluate
from engine.predictions import EvaluationOptions
from engine.run_log import SHARES
from models.predictor import open_predictor
from models.saved import build_saved
from utils import pictures, plots
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import ROOT, load_yaml
from utils.launch import Stop
from utils.metrics.build import build_metric
from utils.metrics.coco import FIGURES
from utils.run_records import RunRecord
from utils.train_config import saved_config
from utils.weights import load_saved_model

ONE_TO_ONE = "model.head={type: anchor_free, bins: 8, depth: 1, class_channels: 24, one_to_one: true}"
"""A head for `tiny_model` that needs no suppression."""

REGION = "model.head={type: region, anchors: [[12, 12, 20, 32, 32, 20], [24, 24, 40, 40, 60, 60]]}"
"""YOLOv2's head, whose loss changes after so many images."""

TIMES = ("seconds", "images_per_second", *SHARES.values())
ALL_AT_ONCE = (
    *("--epochs", "3", "--batch-size", "3", "--seed", "11"),
    *("--set", "nominal_batch_size=6", "--set", "augment.multi_scale=0.5", "--set", "augment.mixup=0.5"),
    *("--set", "optimizer.lr=0.01", "--set", "augment.close_mosaic=0.3"),
    *("--set", "augment.albumentations=[{type: GaussNoise, p: 0.5}]"),
)
"""Accumulation, several sizes, mosaic, mixup and albumentations: three batches and two steps an epoch."""

PLAIN = ("mosaic", "scale", "translate", "flip_lr", "hue", "saturation", "value")
OVERFIT = (
    *(part for name in PLAIN for part in ("--set", f"augment.{name}=0")),
    *("--set", "optimizer.lr=0.05", "--set", "schedule.warmup_epochs=0", "--set", "schedule.warmup_steps=5"),
    *("--set", "ema.decay=0.9", "--set", "norm_momentum=0.2", "--batch-size", "8"),
)


@pytest.fixture
def command(tiny_coco: Path, tiny_model: Path, tmp_path: Path) -> list[str]:
    """Arguments of a small training; batches of 4 where a test does not say otherwise."""
    about = ["--cfg", str(tiny_model), "--data", str(tiny_coco), "--project", str(tmp_path / "runs")]
    return [*about, "--batch-size", "4", "--epochs", "2", *cpu(), "--set", "amp=off"]


def cpu(*, workers: int = 0) -> list[str]:
    return ["--device", "cpu", "--threads", "1", "--workers", str(workers)]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_pictures(monkeypatch)


def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of so small a run."""
    for name in ("plot_labels", "plot_results"):
        monkeypatch.setattr(plots, name, lambda *_, **__: None)
    monkeypatch.setattr("engine.evaluate.plot_metric", lambda *_: None)
    for name in ("plot_batch", "plot_predictions"):
        monkeypatch.setattr(pictures, name, lambda *_, **__: None)


@pytest.fixture(scope="module")
def whole(tiny_coco: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of ALL_AT_ONCE that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    about = ["--cfg", str(tiny_model), "--data", str(tiny_coco), "--project", str(folder), *cpu()]
    with pytest.MonkeyPatch.context() as patch:
        without_pictures(patch)
        assert train.main([*about, "--set", "amp=off", *ALL_AT_ONCE]) == 0
    return folder / "exp"


@pytest.fixture
def stop_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """stop_after(k): the next run is asked to stop after its k-th step."""

    def install(step: int | None) -> None:
        asked = 0

        def requested(stop: Stop, _: torch.device) -> bool:
            nonlocal asked
            asked += 1
            return asked == step

        monkeypatch.setattr(Stop, "requested", requested)

    return install


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def without_times(run: Path) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows(run)]


def assert_same(one: object, two: object, where: str = "") -> None:
    """Equal to the last bit."""
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            assert_same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two), where
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_same(a, b, f"{where}[{index}]")
    else:
        assert one == two, where


def assert_same_run(one: Path, two: Path) -> None:
    """Weights, average, optimizer, generators, records and the table of two runs, to the last bit."""
    for name in ("last.pt", "best.pt"):
        first, second = (load_checkpoint(run / "weights" / name) for run in (one, two))
        assert first.keys() == second.keys(), name
        assert ("optimizer" in first) == (name == "last.pt"), "best.pt has what inference needs alone"
        for key in ("weights", "ema", "ema_updates", "optimizer", "scaler", "rng", "metrics", "best", "best_epoch"):
            if key in first:
                assert_same(first[key], second[key], f"{name}: {key}")
        assert (first["epoch"], first["step"], first["batch"]) == (second["epoch"], second["step"], second["batch"])
    assert without_times(one) == without_times(two)
    figures = [json.loads((run / "metrics.json").read_text()) for run in (one, two)]
    assert all(figure.pop("speed_ms") for figure in figures)
    assert figures[0] == figures[1]


# What a run leaves behind


def test_a_run_leaves_everything_that_the_reference_names(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unchanged = ("--set", "optimizer.lr_batch=null", "--set", "augment.scale=0.5")
    assert train.main([*command, *unchanged]) == 0
    run = tmp_path / "runs" / "exp"
    names = {path.name for path in run.iterdir()}
    assert {"weights", "config.yaml", "results.csv", "metrics.json", "labels.jpg", "results.jpg"} <= names
    assert {"train_batch0.jpg", "val_predictions.jpg", "pr_curve.jpg", "f1_curve.jpg", "confusion.jpg"} <= names
    assert {"report.html", "thumbnails.zip", "predictions.json", "ground_truth.json"} <= names
    assert not [path.name for path in run.glob("*.jpg") if path.stat().st_size > 1_000_000]
    assert "<h2>Training</h2>" in (run / "report.html").read_text()
    assert any(name.startswith("events.out.tfevents.") for name in names)
    assert sorted(path.name for path in (run / "weights").iterdir()) == ["best.pt", "last.prev.pt", "last.pt"]
    table = rows(run)
    assert [row["epoch"] for row in table] == ["1", "2"]
    assert {"AP", "AP50", "AP75", "lr", *TIMES} <= set(table[0])
    assert sum(key.startswith("loss/") for key in table[0]) == 3
    assert all(float(value) == float(value) for row in table for value in row.values())
    figures = json.loads((run / "metrics.json").read_text())
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"} <= figures.keys()
    assert {"per_class", "images", "speed_ms", "protocol", "f1", "calibration"} <= figures.keys()
    assert figures["images"] == 7
    best = torch.load(run / "weights" / "best.pt", weights_only=True)
    assert best["names"] == ["blue", "red"]
    assert best["category_ids"] == [2, 5]
    assert best["image_size"] == [64, 64]
    assert figures["f1"]["conf"] is None
    assert "thresholds" not in best, "nothing was found yet"
    assert max(float(row["AP"]) for row in table) == best["best"]
    assert load_yaml(run / "config.yaml")["recipe"]["epochs"] == 2
    out = capsys.readouterr().out
    assert "Average Precision  (AP) @[ IoU=0.50:0.95" in out
    assert f"python detect.py --weights {run / 'weights' / 'best.pt'} --source" in out
    assert "--conf-thres auto" not in out


@pytest.mark.usefixtures("quick")
def test_two_runs_of_one_seed_are_equal_and_no_folder_is_overwritten(
    command: list[str], whole: Path, tmp_path: Path
) -> None:
    assert train.main([*command, *ALL_AT_ONCE, *cpu(workers=2)]) == 0
    assert_same_run(whole, tmp_path / "runs" / "exp")
    other = [*command, *ALL_AT_ONCE, "--seed", "12", "--epochs", "1"]
    assert train.main(other) == 0
    assert without_times(tmp_path / "runs" / "exp2")[0] != without_times(tmp_path / "runs" / "exp")[0]
    assert_same_run(whole, tmp_path / "runs" / "exp")


# Stopping and going on


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("steps", [(1,), (2,), (3, 1), (5,)])
def test_stopping_anywhere_and_going_on_is_never_having_stopped(
    command: list[str], whole: Path, tmp_path: Path, stop_after: Callable, steps: tuple[int, ...]
) -> None:
    stop_after(steps[0])
    assert train.main([*command, *ALL_AT_ONCE, "--name", "parts"]) == 128 + signal.SIGTERM
    run = tmp_path / "runs" / "parts"
    assert load_checkpoint(run / "weights" / "last.pt")["step"] == steps[0]
    for number, step in enumerate((*steps[1:], None)):
        stop_after(step)
        torch.manual_seed(123 + number)  # whatever the process did before must not matter
        # config.yaml alone is enough; the number of workers is free.
        expected = 0 if step is None else 128 + signal.SIGTERM
        assert train.main(["--resume", str(run), *cpu(workers=(number + 1) % 2)]) == expected
    assert_same_run(whole, run)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("older", [False, True])
def test_a_run_of_a_release_with_another_order_of_images_begins_its_epoch_again_and_says_so(
    command: list[str], tmp_path: Path, stop_after: Callable, capsys: pytest.CaptureFixture[str], older: bool
) -> None:
    stop_after(5)
    assert train.main([*command, *ALL_AT_ONCE, "--name", "parts"]) != 0
    run = tmp_path / "runs" / "parts"
    last = run / "weights" / "last.pt"
    saved = load_checkpoint(last)
    assert (saved["sample_order"], saved["epoch"], saved["batch"], saved["step"]) == (SAMPLE_ORDER, 2, 2, 5)
    if older:
        del saved["sample_order"], saved["began_with"]
        saved["versions"] |= {"torch": "2.0.1+cpu", "albumentations": "not installed"}
        save_checkpoint(last, saved)
    positions = []

    def note(sampler: TrainSampler, epoch: int, start: int = 0) -> None:
        positions.append((epoch, start))
        set_position(sampler, epoch, start)

    set_position = TrainSampler.set_position
    stop_after(None)
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainSampler, "set_position", note)
        assert train.main(["--resume", str(run), *cpu()]) == 0
    told = "began under a release that drew its images in another order: epoch 3 begins from its start"
    output = capsys.readouterr()
    assert (told in output.out) == older
    told = (
        f"This run began with other versions: torch 2.0.1+cpu -> {torch.__version__}, albumentations not installed -> "
    )
    assert (told in output.out + output.err) == older
    assert positions[-1] == (2, 0 if older else 2)
    ended = load_checkpoint(last)
    assert (ended["epoch"], ended["batch"], ended["step"]) == (3, 0, 6), "the learning rate is that of its place"
    assert (ended["began_with"]["torch"] == "2.0.1+cpu") == older
    assert rows(run)[-1]["epoch"] == "3"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "recipe",
    [
        ("optimizer.type=sgd", "schedule.type=step"),
        ("amp=bf16",),
        ("cache=false",),
        (ONE_TO_ONE,),
        (REGION, "loss.prior_images=10"),
        ("balance=repeat", "balance_threshold=0.9", "nominal_batch_size=8"),
    ],
)
def test_every_kind_of_recipe_goes_on_exactly(
    command: list[str], tmp_path: Path, stop_after: Callable, recipe: tuple[str, ...]
) -> None:
    arguments = [*command, "--epochs", "4", *(part for text in recipe for part in ("--set", text))]
    stop_after(None)
    assert train.main([*arguments, "--name", "whole"]) == 0
    stop_after(3)
    assert train.main([*arguments, "--name", "parts"]) != 0
    stop_after(None)
    assert train.main(["--resume", str(tmp_path / "runs" / "parts" / "weights" / "last.pt"), *cpu()]) == 0
    assert_same_run(tmp_path / "runs" / "whole", tmp_path / "runs" / "parts")


@pytest.mark.usefixtures("quick")
def test_a_kill_between_checkpoints_costs_no_more_than_the_steps_since(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """last.pt in the middle of an epoch (save_minutes), then a crash: the rest is done again, with the same result."""
    arguments = [*command, "--set", "save_minutes=0"]
    assert train.main([*arguments, "--name", "whole"]) == 0
    step, calls = failure.train_step, []

    def crash(*args: object) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(failure, "train_step", crash)
    assert train.main([*arguments, "--name", "parts"]) == 130
    monkeypatch.setattr(failure, "train_step", step)
    run = tmp_path / "runs" / "parts"
    assert load_checkpoint(run / "weights" / "last.pt")["step"] == 3
    assert train.main(["--resume", "--project", str(tmp_path / "runs"), *cpu()]) == 0
    assert_same_run(tmp_path / "runs" / "whole", run)


@pytest.mark.usefixtures("quick")
def test_a_kill_between_the_small_best_checkpoint_and_the_figures_is_made_good_and_the_run_can_be_lengthened(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "exp"
    best = run / "weights" / "best.pt"
    with monkeypatch.context() as patch:
        patch.setattr(finish, "write_results", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert train.main([*command, "--epochs", "1"]) == 130
    assert "weights" not in load_checkpoint(best)
    assert not (run / "metrics.json").exists()
    assert train.main(["--resume", str(run), *cpu()]) == 0
    assert (run / "metrics.json").is_file()
    assert load_checkpoint(best)["epoch"] == 1
    assert train.main(["--resume", str(run), "--epochs", "+1", *cpu()]) == 0
    assert load_checkpoint(run / "weights" / "last.pt")["epoch"] == 2
    assert "weights" not in load_checkpoint(best)


@pytest.mark.usefixtures("quick")
def test_a_run_killed_before_its_first_checkpoint_starts_again(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = failure.train_step
    monkeypatch.setattr(failure, "train_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert train.main([*command, "--name", "parts"]) == 130
    monkeypatch.setattr(failure, "train_step", step)
    assert train.main(["--resume", str(tmp_path / "runs" / "parts"), *cpu()]) == 0
    assert train.main([*command, "--name", "whole"]) == 0
    assert_same_run(tmp_path / "runs" / "whole", tmp_path / "runs" / "parts")


@pytest.mark.usefixtures("quick")
def test_a_finished_run_can_be_lengthened_and_the_longer_run_resumes_exactly(
    command: list[str], tmp_path: Path, stop_after: Callable[[int | None], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """+2 epochs in one go, and the same stopped on the way, give the same; config.yaml keeps the new number."""
    runs = tmp_path / "runs"
    for name in ("whole", "parts"):
        assert train.main([*command, "--name", name]) == 0
    assert train.main(["--resume", str(runs / "whole"), "--epochs", "+2", *cpu()]) == 0
    assert "Now 4 epochs" in capsys.readouterr().out
    stop_after(3)
    assert train.main(["--resume", str(runs / "parts"), "--epochs", "4", *cpu()]) == 143
    stop_after(None)
    assert train.main(["--resume", str(runs / "parts"), *cpu()]) == 0
    assert [row["epoch"] for row in rows(runs / "whole")] == ["1", "2", "3", "4"]
    assert_same_run(runs / "whole", runs / "parts")
    assert train.main(["--resume", str(runs / "whole"), "--epochs", "3", *cpu()]) == 2
    assert "planned for 4; --resume can only lengthen it" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_a_run_in_tiles_resumes_exactly_and_other_tiles_are_refused(
    command: list[str], tmp_path: Path, tiny_coco: Path, stop_after: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "tiled.yaml"
    about = f"path: {tiny_coco.parent}\ntrain: train.json\nval: val.json\nimages: images\n"
    data.write_text(f"{about}tiling: {{size: 64, empty: 0.3}}\n")
    arguments = [*command, *ALL_AT_ONCE, "--epochs", "2", "--data", str(data)]
    assert train.main([*arguments, "--name", "whole"]) == 0
    out, splits = capsys.readouterr().out, read_splits(str(data), seed=11)
    assert f"{splits.tiles} for training with" in out
    assert "--tile 64 --overlap 0.2" in out
    whole = tmp_path / "runs" / "whole"
    assert json.loads((whole / "metrics.json").read_text())["protocol"]["tile"] == [64, 64]
    stop_after(3)
    assert train.main([*arguments, "--name", "parts"]) == 128 + signal.SIGTERM
    data.write_text(f"{about}tiling: {{size: 48, empty: 0.3}}\n")
    assert train.main(["--resume", str(tmp_path / "runs" / "parts"), *cpu()]) == 2
    assert "images or labels of train are not those that the run began with" in capsys.readouterr().err
    data.write_text(f"{about}tiling: {{size: 64, empty: 0.3}}\n")
    stop_after(None)
    assert train.main(["--resume", str(tmp_path / "runs" / "parts"), *cpu(workers=1)]) == 0
    assert_same_run(whole, tmp_path / "runs" / "parts")
    assert train.main([*arguments, "--dry-run"]) == 0
    assert f"tiles       {splits.tiles}" in capsys.readouterr().out


@pytest.mark.usefixtures("quick")
def test_other_pixels_and_the_checkpoint_of_another_run_are_refused(
    command: list[str], tmp_path: Path, tiny_coco: Path, stop_after: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_coco.parent, tmp_path / "data")
    command += ["--data", str(tmp_path / "data" / "data.yaml"), "--set", "cache=false"]
    for name, seed in (("one", "1"), ("two", "1"), ("three", "2")):
        stop_after(3)
        assert train.main([*command, "--name", name, "--seed", seed]) == 143
    stop_after(None)
    runs = tmp_path / "runs"
    last = runs / "one" / "weights" / "last.pt"
    own = last.read_bytes()
    for other in ("two", "three"):
        shutil.copy(runs / other / "weights" / "last.pt", last)
        assert train.main(["--resume", str(runs / "one"), *cpu()]) == 2
        assert f"{last}: is a checkpoint of another run than {runs / 'one'}" in capsys.readouterr().err
    older = {key: value for key, value in load_checkpoint(last).items() if key not in ("run", "files", "better_epoch")}
    torch.save(older, last)
    assert train.main(["--resume", str(runs / "one"), *cpu()]) == 2, "by its seed, where an older release wrote no id"
    last.write_bytes(own)

    image = tmp_path / "data" / "images" / "5.png"
    pixels = image.read_bytes()
    with Image.open(image) as opened:
        turned = opened.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned.save(image)
    capsys.readouterr()
    assert train.main(["--resume", str(runs / "one"), *cpu()]) == 2
    assert f"error: {image}: train: other pixels than the run began with" in capsys.readouterr().err
    image.write_bytes(pixels)
    assert train.main(["--resume", str(runs / "one"), *cpu()]) == 0

    older = {**load_checkpoint(runs / "two" / "weights" / "last.pt")}
    for key in ("run", "files", "better_epoch"):
        del older[key]
    torch.save(older, runs / "two" / "weights" / "last.pt")
    (runs / "two" / "run.lock").unlink()
    turned.save(image)
    assert train.main(["--resume", str(runs / "two"), *cpu()]) == 0, "a run of an older release goes on"


@pytest.mark.usefixtures("quick")
def test_a_finished_run_says_so_and_stays_as_it_is(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*command, "--epochs", "1"]) == 0
    run = tmp_path / "runs" / "exp"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "run.lock"}
    capsys.readouterr()
    assert train.main(["--resume", str(run), *cpu()]) == 0
    told = f"{run} is finished, after 1 epochs; python train.py --resume {run} --epochs +N trains it N epochs longer"
    assert told in capsys.readouterr().out
    best, last = run / "weights" / "best.pt", run / "weights" / "last.pt"
    assert train.main(["--resume", str(best), *cpu()]) == 2
    error = capsys.readouterr().err
    assert f"error: --resume {best}: the training has ended, and this holds what inference needs alone" in error
    assert f"--resume {last}" in error
    assert best.stat().st_size < 0.6 * last.stat().st_size
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "run.lock"} == before


def test_one_image_with_a_map_of_one_pixel_is_refused_before_a_run_folder_is_made(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--cfg", "cspdet-n", "--batch-size", "1"]
    expected = r"--batch-size 1: of one image of 32 x 32 px, the batch normalisation \S+ sees one value"
    for more in (["--img-size", "32"], ["--img-size", "64", "--set", "augment.multi_scale=0.5", "--dry-run"]):
        assert train.main([*command, *small, *more]) == 2
        error = capsys.readouterr().err
        assert re.search(expected, error), error
        assert "use a larger --batch-size or --img-size" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("quick")
def test_one_image_at_a_time_is_trained_where_every_map_is_larger(command: list[str]) -> None:
    assert train.main([*command, "--batch-size", "1", "--epochs", "1"]) == 0


@pytest.mark.usefixtures("quick")
def test_going_on_with_a_finished_run_only_evaluates_again(command: list[str], tmp_path: Path) -> None:
    assert train.main(command) == 0
    run = tmp_path / "runs" / "exp"
    before, table = load_checkpoint(run / "weights" / "last.pt"), (run / "results.csv").read_text()
    (run / "metrics.json").unlink()
    assert train.main(["--resume", str(run), *cpu()]) == 0
    assert_same(load_checkpoint(run / "weights" / "last.pt"), before)
    assert (run / "results.csv").read_text() == table
    assert (run / "metrics.json").is_file()


def test_sigterm_saves_and_resume_goes_on(command: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    arguments = [sys.executable, str(ROOT / "train.py"), *command, "--epochs", "100000"]
    log = tmp_path / "log.txt"
    with open(log, "w") as out:
        process = subprocess.Popen(arguments, cwd=tmp_path, stdout=out, stderr=out, env=environment)
    try:
        deadline = time.monotonic() + 120
        while "Epoch 1/" not in log.read_text() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    finally:
        process.kill()
    text = log.read_text()
    assert code == 128 + signal.SIGTERM, text
    assert "Stopped and saved. Continue with: python train.py --resume" in text
    assert "Traceback" not in text
    run = tmp_path / "runs" / "exp"
    checkpoint = load_checkpoint(run / "weights" / "last.pt")
    assert checkpoint["step"] >= 2
    config = run / "config.yaml"
    epochs = checkpoint["epoch"] + 1
    config.write_text(config.read_text().replace("epochs: 100000", f"epochs: {epochs}"))
    assert train.main(["--resume", str(run), *cpu()]) == 0
    assert len(rows(run)) == epochs


# Learning


@pytest.mark.usefixtures("quick")
def test_it_learns_its_training_images_by_heart(command: list[str], tmp_path: Path, capsys) -> None:
    arguments = [*command, *OVERFIT, "--epochs", "60", "--set", "evaluation.interval=30"]
    assert train.main(arguments) == 0
    table = rows(tmp_path / "runs" / "exp")
    assert [row["epoch"] for row in table if row["AP"]] == ["30", "60"]
    figures = json.loads((tmp_path / "runs" / "exp" / "metrics.json").read_text())
    assert figures["AP50"] > 0.9
    for name in ("loss/box", "loss/objectness", "loss/class"):
        assert float(table[-1][name]) < 0.5 * float(table[0][name])
    shipped = load_checkpoint(tmp_path / "runs" / "exp" / "weights" / "best.pt")["thresholds"]
    assert shipped == {"conf": figures["f1"]["conf"], "by_class": [None, None]}, "so few objects say little of a class"
    out = capsys.readouterr().out
    assert f"Best F1 at IoU 0.5: {figures['f1']['best']:.3f} at scores above {shipped['conf']:.3f}" in out
    assert out.endswith("--conf-thres auto\n")


@pytest.mark.usefixtures("quick")
def test_one_to_one_branches_learn_to_find_each_object_once(command: list[str], tmp_path: Path) -> None:
    """Counted without suppression, and beside what the other branches of the same model find."""
    arguments = [*command, "--set", ONE_TO_ONE, *OVERFIT, "--epochs", "100", "--set", "evaluation.interval=50"]
    assert train.main(arguments) == 0
    run = tmp_path / "runs" / "exp"
    table = rows(run)
    for name in ("box", "distribution", "class"):
        for key in (f"loss/{name}", f"loss/{name}_one_to_one"):
            assert float(table[-1][key]) < 0.7 * float(table[0][key])
    predictor = open_predictor(run / "weights" / "last.pt", device="cpu")
    assert predictor.info.nms == "none"
    config = saved_config(run / "config.yaml")
    images = read_splits(config.data).val
    loader = eval_loader_of(images, config)

    def found() -> tuple[float, int]:
        """AP50, and how many detections have a score above 0.2."""
        metric = build_metric(images)
        figures = evaluate(predictor, loader, metric, EvaluationOptions.of_training(config, "detect"))
        return figures["AP50"], sum(row["score"] > 0.2 for row in metric.predictions())

    objects = sum(int((~sample.crowd).sum()) for sample in images.samples)
    precision, count = found()
    assert precision > 0.9
    assert objects - 1 <= count <= objects
    state = load_saved_model(run / "weights" / "last.pt")
    _, predictor.model = build_saved(state["model"], len(state["names"]), state["ema"], where="last.pt")
    predictor.model.eval().head.one_to_one = False  # the branches that find each object often
    assert found()[1] > 1.5 * objects


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "settings",
    [
        ("optimizer.type=sgd", "optimizer.lr=0.2", "optimizer.clip_norm=5"),
        ("schedule.type=step", "schedule.milestones=[0.8]", "channels_last=false", "optimizer.clip_norm=null"),
        ("loss.assigner={type: anchor_iou}", "loss.box=mse", "loss.ignore_thresh=0.7"),
        ("amp=bf16", "loss.box=giou", "loss.objectness_target=one", "loss.label_smoothing=0.05"),
    ],
)
def test_every_kind_of_recipe_lowers_the_loss(command: list[str], tmp_path: Path, settings: tuple[str, ...]) -> None:
    overrides = [part for text in settings for part in ("--set", text)]
    assert train.main([*command, *OVERFIT, "--epochs", "25", "--set", "evaluation.interval=25", *overrides]) == 0
    losses = [sum(float(v) for k, v in row.items() if k.startswith("loss/")) for row in rows(tmp_path / "runs" / "exp")]
    assert losses[-1] < 0.85 * losses[0]


@pytest.mark.usefixtures("quick")
def test_the_step_schedule_is_in_the_table(command: list[str], tmp_path: Path) -> None:
    settings = ("type=step", "milestones=[0.5]", "warmup_epochs=0", "warmup_steps=0")
    overrides = [part for text in settings for part in ("--set", f"schedule.{text}")]
    assert train.main([*command, *overrides, "--epochs", "4", "--set", "optimizer={lr: 0.001, lr_batch: null}"]) == 0
    assert [float(row["lr"]) for row in rows(tmp_path / "runs" / "exp")] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])


@pytest.mark.usefixtures("quick")
def test_frozen_parts_stay_as_they_are_to_the_last_bit(command: list[str], tmp_path: Path) -> None:
    assert train.main([*command, "--epochs", "1", "--name", "start"]) == 0
    start = tmp_path / "runs" / "start" / "weights" / "last.pt"
    frozen = ["--weights", str(start), "--set", "freeze=[backbone, neck.top]", "--set", "optimizer.lr=0.05"]
    assert train.main([*command, *frozen]) == 0
    before, after = load_checkpoint(start)["ema"], load_checkpoint(tmp_path / "runs" / "exp" / "weights" / "last.pt")
    for part in ("weights", "ema"):
        for name, value in after[part].items():
            same = torch.equal(value, before[name])
            assert same == name.startswith(("backbone.", "neck.top.", "head.anchors_")), name


@pytest.mark.usefixtures("quick")
def test_weights_are_counted_and_what_does_not_fit_is_named(
    command: list[str], tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*command, "--epochs", "1", "--name", "start"]) == 0
    start = tmp_path / "runs" / "start" / "weights" / "best.pt"
    total = len(load_checkpoint(start)["ema"])
    capsys.readouterr()
    assert train.main([*command, "--epochs", "1", "--weights", str(start)]) == 0
    assert f"Weights: {total} of {total} tensors loaded from {start}" in capsys.readouterr().out
    other = tmp_path / "other.yaml"
    other.write_text(tiny_model.read_text().replace("channels: [16, 24, 32]", "channels: [16, 24, 40]"))
    assert train.main([*command, "--cfg", str(other), "--epochs", "1", "--weights", str(start)]) == 0
    out = capsys.readouterr().out
    assert f"of {total} tensors loaded from {start}" in out
    assert "of another shape, left as initialised: backbone.stages.2" in out


@pytest.mark.usefixtures("quick")
def test_training_stops_early_only_after_evaluations(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = iter([0.1, 0.3, 0.2, 0.3, 0.9])

    # The final evaluation, in engine/finish.py, is a real one.
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: dict.fromkeys(FIGURES, next(values)))
    settings = ["--epochs", "20", "--set", "patience=4", "--set", "evaluation.interval=2"]
    assert train.main([*command, *settings]) == 0
    run = tmp_path / "runs" / "exp"
    assert [row["AP"] for row in rows(run)] == ["", "0.1", "", "0.3", "", "0.2", "", "0.3"]
    assert load_checkpoint(run / "weights" / "best.pt")["epoch"] == 8, "of equal ones the later; patience counts from 4"
    assert "stopping early after epoch 8" in capsys.readouterr().out
    assert train.main(["--resume", str(run), *cpu()]) == 0
    assert len(rows(run)) == 8, "a run that stopped early has ended"


@pytest.mark.usefixtures("quick")
def test_a_run_with_little_patience_and_rare_evaluations_is_evaluated_before_it_ends(
    command: list[str], tmp_path: Path
) -> None:
    settings = ["--epochs", "4", "--set", "patience=1", "--set", "evaluation.interval=3"]
    assert train.main([*command, *settings]) == 0
    assert (tmp_path / "runs" / "exp" / "weights" / "best.pt").is_file()


@pytest.mark.usefixtures("quick")
def test_validation_images_without_any_object_are_no_obstacle(
    command: list[str], tmp_path: Path, tiny_coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((tiny_coco.parent / "val.json").read_text())
    content["annotations"] = []
    (tmp_path / "empty.json").write_text(json.dumps(content))
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tiny_coco.parent}\ntrain: train.json\nval: {tmp_path / 'empty.json'}\nimages: images\n")
    command += ["--data", str(data)]
    assert train.main([*command, "--epochs", "3", "--set", "patience=1"]) == 0
    out = capsys.readouterr().out
    assert "val: no object in 7 images: there is no AP" in out
    assert "AP –  AP50 –  AP75 – *" in out
    run = tmp_path / "runs" / "exp"
    assert json.loads((run / "metrics.json").read_text())["AP"] is None
    assert [row["AP"] for row in rows(run)] == ["", "", ""]
    assert load_checkpoint(run / "weights" / "best.pt")["epoch"] == 3
    assert RunRecord(run).figures["AP"] is None
    assert train.main([*command, "--tune", "2", "--name", "search"]) == 2
    assert "--tune has nothing to compare trials by: no object in 7 images" in capsys.readouterr().err


# Failing


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_number_that_is_not_finite_stops_before_the_weights_move(
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
) -> None:
    from engine import step

    seen: dict[str, object] = {}
    original, real_step = step.loss_terms, failure.train_step

    class Explode(torch.autograd.Function):
        """The identity with an infinite gradient."""

        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * float("inf")

    def spoiled(stepper: object, batch: object) -> dict[str, torch.Tensor]:
        terms = original(stepper, batch)
        if seen["state"].step == 2:
            bad = terms["box"] * float("nan") if where == "loss" else Explode.apply(terms["box"])
            terms = {**terms, "box": bad}
        return terms

    def watched(stepper: object, state: object, batches: list) -> dict[str, float]:
        seen["state"] = state
        seen["before"] = {name: p.detach().clone() for name, p in state.model.named_parameters()}
        seen["average"] = {name: p.clone() for name, p in state.ema.module.state_dict().items()}
        return real_step(stepper, state, batches)

    monkeypatch.setattr(step, "loss_terms", spoiled)
    monkeypatch.setattr(failure, "train_step", watched)
    assert train.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: the {where} of step 3 (epoch 2) is not a finite number: box ")
    assert ".png" in error
    assert ("first seen: the loss itself" if where == "loss" else "first seen: gradient, from the loss") in error
    assert len(error.splitlines()) == 7
    state = seen["state"]
    assert state.step == 2
    assert all(torch.equal(p, seen["before"][name]) for name, p in state.model.named_parameters())
    assert_same(dict(state.ema.module.state_dict()), seen["average"])
    assert load_checkpoint(tmp_path / "runs" / "exp" / "weights" / "last.pt")["step"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cfg", "cspeleenet-prn"], "'cspeleenet-prn': no such file.*Did you mean 'csppeleenet-prn.yaml'"),
        (["--data", "cocoo"], "'cocoo': no such file.*Did you mean 'coco.yaml'"),
        (["--hyp", "defualt"], "--hyp 'defualt': no such file.*Did you mean 'default.yaml'"),
        (["--set", "optimizer.learning_rate=1"], "optimizer.learning_rate: unknown key"),
        (["--set", "model.head.anchors=[[1, 2]]"], "anchors: 1 lists for 2 levels"),
        (["--set", "freeze=[bakbone]"], "freeze: .*Did you mean 'backbone'"),
        (["--set", "loss.boxx=ciou"], "boxx: unknown key.*Did you mean 'box'"),
        (["--set", "augment.albumentations=[{type: Blurr}]"], "Blurr: unknown transform.*'Blur'"),
        (["--set", "epochs=0"], "default.yaml: epochs: expected a whole number of at least 1, or auto, found 0"),
        (["--img-size", "100"], "--img-size.*multiples of 16.*the nearest is 96 x 96"),
        (["--seed", "-1"], "seed: expected a whole number of at least 0, found -1"),
        (["--workers", "-1"], "workers: expected a whole number of at least 0, found -1"),
        (["--device", "gpu"], "--device gpu: expected cpu, cuda"),
        (["--weights", "nothing.pt"], "nothing.pt: no such checkpoint"),
        (["--weights", "weights.bin"], "--weights weights.bin: "),
        (["--resume", "x"], "--resume continues a run as it was started; leave out --cfg, --data, .*--set"),
    ],
)
def test_a_wrong_command_line_ends_in_one_message(
    command: list[str],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    import re

    assert train.main([*command, *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1, error


@pytest.mark.parametrize("option", ["--epochs", "--batch-size", "--img-size"])
@pytest.mark.parametrize("value", ["0", "many", "-3"])
def test_a_number_that_is_none_ends_with_status_2(
    command: list[str], capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        train.main([*command, option, value])
    assert caught.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err


def test_a_mistake_is_told_before_a_run_folder_is_made(command: list[str], tmp_path: Path) -> None:
    for setting in ("model.head.anchors=[[1, 2]]", "loss.boxx=1", "augment.albumentations=[{type: Blurr}]"):
        assert train.main([*command, "--set", setting]) == 2
    assert not (tmp_path / "runs").exists()


def test_missing_arguments_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--data", "shapes"], ["--data", "my.yaml", "--weights", "best.pt"]):
        assert train.main(arguments) == 2
        assert "--cfg is missing" in capsys.readouterr().err
    assert train.main(["--resume", "--project", str(tmp_path)]) == 2
    assert "no run in" in capsys.readouterr().err
    assert train.main(["--resume", str(tmp_path)]) == 2
    assert "it has no config.yaml" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("model: 3\n")
    assert train.main(["--resume", str(tmp_path)]) == 2
    assert "config.yaml" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_vanishes_is_named_without_a_traceback(
    command: list[str], tmp_path: Path, tiny_coco: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    import shutil

    folder = tmp_path / "data"
    shutil.copytree(tiny_coco.parent, folder)
    (folder / "images" / "5.png").write_bytes((folder / "images" / "5.png").read_bytes()[:120])
    arguments = ["--data", str(folder / "data.yaml"), *cpu(workers=workers), "--set", "cache=false"]
    code = train.main([*command, *arguments])
    error = capsys.readouterr().err
    assert code == 2, error
    assert "5.png" in error
    assert "Traceback" not in error
    assert len(error.splitlines()) <= 2, error


@pytest.mark.usefixtures("quick")
def test_deterministic_is_kept_by_the_run_and_by_its_resuming(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(job, "use_deterministic_kernels", lambda: calls.append(1))
    assert train.main([*command, "--epochs", "1", "--deterministic"]) == 0
    run = tmp_path / "runs" / "exp"
    assert load_yaml(run / "config.yaml")["recipe"]["deterministic"] is True
    assert train.main(["--resume", str(run), "--epochs", "+1", *cpu()]) == 0
    assert len(calls) == 2
    assert train.main([*command, "--epochs", "1"]) == 0
    assert len(calls) == 2


def test_nothing_is_attached_to_the_model_from_outside(tiny_model: Path) -> None:
    """EMA, DDP and compile wrap the model; its own state dict stays as build_model made it."""
    from models.build import build_model
    from models.config import load_model_config

    model: nn.Module = build_model(load_model_config(tiny_model), 2)
    assert all(name.split(".")[0] in ("backbone", "neck", "head") for name in model.state_dict())
