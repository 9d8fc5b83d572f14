"""Two processes (gloo, CPU) against one: same batches, same losses, same weights, same figures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

import train
from data.config import load_data_config, read_split
from tests.test_train import OVERFIT, assert_same_run, rows
from utils.config import ROOT
from utils.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="this PyTorch has no gloo")

SETTINGS = ("nominal_batch_size=4", "augment.multi_scale=0.3", "augment.mixup=0.3", "optimizer.lr=0.005", "amp=off")
"""Four batches of two images and two steps an epoch."""


@pytest.fixture(scope="module")
def folder(tiny_coco: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs: `single` by one process; the others, and codes.json, by two."""
    folder = tmp_path_factory.mktemp("ddp")
    base = ["--cfg", str(tiny_model), "--data", str(tiny_coco), "--project", str(folder), "--epochs", "2"]
    base += ["--device", "cpu", "--threads", "1", "--workers", "0", "--batch-size", "2"]
    base += [part for setting in SETTINGS for part in ("--set", setting)]
    assert train.main([*base, *OVERFIT, "--name", "start", "--epochs", "40", "--set", "evaluation.interval=40"]) == 0
    base += ["--weights", str(folder / "start" / "weights" / "last.pt")]
    # Frozen parts keep their batch normalisation, so that every rank computes the same function of an image.
    frozen = [*base, "--set", "freeze=[backbone, neck]", "--name"]
    assert train.main([*frozen, "single"]) == 0
    resumed = ["--resume", str(folder / "parts"), "--device", "cpu", "--threads", "1", "--workers", "1"]
    runs = [
        {"arguments": [*frozen, "double"]},
        {"arguments": [*base, "--name", "whole"]},
        {"arguments": [*base, "--name", "parts"], "fault": "stop", "step": 3},
        {"arguments": resumed},
        {"arguments": [*base, "--name", "bad"], "fault": "nan", "step": 2},
        {"arguments": [*base, "--name", "odd", "--batch-size", "3"]},
    ]
    (folder / "runs.json").write_text(json.dumps(runs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "tests" / "ddp_worker.py"), str(folder / "codes.json"), str(folder / "runs.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)
    (folder / "log.txt").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_all_ranks_end_with_the_same_status(folder: Path) -> None:
    stopped = 128 + signal.SIGTERM
    assert json.loads((folder / "codes.json").read_text()) == [
        [0, 0],
        [0, 0],
        [stopped, stopped],
        [0, 0],
        [2, 2],
        [2, 2],
    ]


def test_two_processes_compute_what_one_computes(folder: Path) -> None:
    one, two = (load_checkpoint(folder / name / "weights" / "last.pt") for name in ("single", "double"))
    start = load_checkpoint(folder / "start" / "weights" / "last.pt")
    for part in ("weights", "ema"):
        for name, value in one[part].items():
            torch.testing.assert_close(two[part][name], value, rtol=1e-3, atol=2e-5, msg=f"{part}: {name}")
    assert (one["weights"]["head.convs.0.weight"] - start["ema"]["head.convs.0.weight"]).abs().max() > 1e-3
    assert (one["step"], one["epoch"]) == (two["step"], two["epoch"]) == (4, 2)
    for first, second in zip(rows(folder / "single"), rows(folder / "double"), strict=True):
        for key, value in first.items():
            if key.startswith("loss/") or key == "lr":
                assert float(second[key]) == pytest.approx(float(value), rel=1e-4), key
            elif key.startswith("AP"):
                assert float(second[key]) == pytest.approx(float(value), abs=2e-3), key


def test_one_rank_writes_and_the_figures_are_of_all_images(folder: Path) -> None:
    figures = {name: json.loads((folder / name / "metrics.json").read_text()) for name in ("single", "double")}
    assert figures["single"].keys() == figures["double"].keys()
    assert figures["single"]["images"] == figures["double"]["images"] == 7
    assert figures["single"]["AP50"] > 0.2, "something is found"
    for key in ("AP", "AP50", "AR100"):
        assert figures["double"][key] == pytest.approx(figures["single"][key], abs=2e-3)
    assert sorted(path.name for path in (folder / "double" / "weights").iterdir()) == ["best.pt", "last.pt"]
    assert len(list((folder / "double").glob("events.out.tfevents.*"))) == 1
    assert not (folder / "double2").exists()
    assert (folder / "log.txt").read_text().count("Run folder: " + str(folder / "double")) == 1


def test_what_was_measured_is_what_was_saved(folder: Path, tiny_coco: Path) -> None:
    """With batch normalisation at work, each rank has statistics of its own; those that are saved count."""
    for name in ("whole", "parts"):
        state = load_checkpoint(folder / name / "weights" / "last.pt")
        images = read_split(load_data_config(str(tiny_coco)), "val")
        config = train.saved_config(folder / name / "config.yaml")
        predictor = train.open_predictor(folder / name / "weights" / "last.pt", device="cpu")
        metric = train.metric_of(images, config.recipe)
        found = train.evaluate(predictor, train.eval_loader_of(images, config), metric, **train.protocol(config.recipe))
        for key, value in state["metrics"].items():
            assert found[key] == pytest.approx(value, abs=1e-6), key


def test_a_stop_on_one_rank_stops_all_and_going_on_is_exact(folder: Path) -> None:
    assert_same_run(folder / "whole", folder / "parts")


def test_a_bad_loss_on_one_rank_is_told_with_its_step(folder: Path) -> None:
    log = (folder / "log.txt").read_text()
    assert "error: the loss of step 3 (epoch 2) is not a finite number: box nan" in log
    assert load_checkpoint(folder / "bad" / "weights" / "last.pt")["step"] == 2


def test_a_batch_that_cannot_be_split_is_refused_without_a_folder(folder: Path) -> None:
    assert "batch size 3 cannot be split over 2 processes" in (folder / "log.txt").read_text()
    assert not (folder / "odd").exists()
