"""train.py --seeds and --tune on tiny data: real trainings, ended early, gone on with, and over processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train
from tests.test_train import assert_same_run, command, stop_after  # noqa: F401  (fixtures)
from utils.config import ROOT, load_yaml
from utils.recipe import load_recipe


@pytest.fixture
def quick(command: list[str]) -> list[str]:  # noqa: F811
    return [*command, "--set", "anchor_recall=null"]


def test_seeds_that_were_stopped_go_on_and_are_what_single_runs_are(
    quick: list[str],
    tmp_path: Path,
    stop_after: Callable[[int | None], None],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = tmp_path / "runs"
    stop_after(6)  # in the second of two trainings of four steps
    assert train.main([*quick, "--seeds", "2", "--seed", "5"]) == 128 + 15
    assert (runs / "exp-seed5" / "metrics.json").is_file()
    assert not (runs / "exp-seed6" / "metrics.json").exists()
    assert "goes on with what is left" in capsys.readouterr().out
    stop_after(None)
    assert train.main([*quick, "--seeds", "2", "--seed", "5"]) == 0
    content = json.loads((runs / "exp-seeds.json").read_text())
    assert set(content["mean"]) == set(content["deviation"]) >= {"AP", "AP50"}
    assert "exp (2 seeds)" in capsys.readouterr().out
    assert train.main([*quick, "--name", "one", "--seed", "6"]) == 0
    assert_same_run(runs / "one", runs / "exp-seed6")
    assert load_yaml(runs / "exp-seed6" / "config.yaml")["seed"] == 6


def test_a_search_over_trainings(
    quick: list[str], tiny_coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("optimizer.lr: {low: 0.001, high: 0.1, log: true}\nema.ramp: [5, 10]\n")
    arguments = [*quick, "--tune", "2", "--tune-space", str(space), "--name", "search"]
    assert train.main(arguments) == 0
    folder = tmp_path / "runs" / "search"
    assert {"tune.journal", "trials.csv", "best.yaml", "trial-0", "trial-1"} == {path.name for path in folder.iterdir()}
    recipe = load_recipe(str(folder / "best.yaml"))
    assert recipe.epochs == 2
    kept = [load_yaml(folder / f"trial-{number}" / "config.yaml")["recipe"] for number in range(2)]
    assert recipe.optimizer.lr in [each["optimizer"]["lr"] for each in kept]
    assert "Best of 2 trials" in capsys.readouterr().out
    assert train.main(arguments) == 0, "nothing is left to do"
    other = shutil.copytree(tiny_coco.parent, tmp_path / "elsewhere")
    assert train.main([*arguments, "--data", str(other / "data.yaml")]) == 0, "the same data in another place"
    content = json.loads((other / "train.json").read_text())
    content["annotations"][0]["bbox"][2] -= 1
    (other / "train.json").write_text(json.dumps(content))
    assert train.main([*arguments, "--data", str(other / "data.yaml")]) == 2
    assert "begun with other settings (not the same: data)" in capsys.readouterr().err
    assert len(list(folder.glob("trial-*"))) == 2


def test_epochs_auto_is_a_number_in_the_run(
    quick: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = quick.index("--epochs")
    without = quick[:place] + quick[place + 2 :]
    options = ["--set", "epochs=auto", "--set", "optimizer.lr_batch=16", "--dry-run"]
    assert train.main([*without, *options]) == 0
    text = capsys.readouterr().out
    assert "Epochs: 500 for 8 training images" in text
    assert "for 500 epochs" in text
    assert not (tmp_path / "runs" / "exp").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "2", "--tune", "2"], "--seeds and --tune: choose one"),
        (["--seeds", "2", "--batch-size", "auto"], "--seeds: trainings that are compared need one batch size"),
        (["--tune-space", "x.yaml"], "give --tune N too"),
        (["--tune", "2", "--tune-space", "x.yaml"], "x.yaml: cannot be read"),
        (["--resume", "x", "--seeds", "2"], "--resume continues a run as it was started; leave out"),
        (["--set", "loss.box_gian=3"], "recipe: loss.box_gian: unknown key"),
    ],
)
def test_options_that_do_not_go_together(
    quick: list[str], options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*quick, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")
def test_seeds_over_two_processes(quick: list[str], tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [*launch, str(ROOT / "train.py"), *quick, "--seeds", "2"]
    for _ in range(2):  # the second finds all done
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("Mean and standard deviation") == 1
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["exp-seed0", "exp-seed1", "exp-seeds.json"]
