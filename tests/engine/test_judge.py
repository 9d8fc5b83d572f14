"""A training whose val has nothing to do with what it learns: verdict, choice of best.pt, and the same after a stop."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import train
from engine.judge import certain_part
from engine.state import NOISE, TrainState
from tests.test_train import OVERFIT, assert_same_run, cpu, rows, without_pictures
from tests.utils.metrics.test_detection import filled, random_ground_truth
from utils.checkpoint import load_checkpoint
from utils.launch import Stop
from utils.metrics.bootstrap import ResampledAP, ap_interval
from utils.recipe import RecipeConfig
from utils.structures import Detections

EPOCHS = 48
SETTINGS = ("--epochs", f"{EPOCHS}", "--set", "evaluation.interval=2", "--set", "evaluation.train_images=8")


@pytest.fixture(scope="module")
def unrelated(tiny_coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml: training is tiny_coco's, val is noise with boxes anywhere."""
    folder = tmp_path_factory.mktemp("unrelated")
    shutil.copytree(tiny_coco.parent / "images", folder / "images")
    shutil.copy(tiny_coco.parent / "train.json", folder)
    rng = np.random.default_rng(1)
    images, annotations = [], []
    for number in range(1, 7):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3)).astype(np.uint8)).save(folder / "images" / f"val{number}.png")
        images.append({"id": number, "file_name": f"val{number}.png", "width": 64, "height": 64})
        x, y, w, h = (int(value) for value in rng.integers(8, 30, 4))
        about = {"id": number, "image_id": number, "category_id": (2, 5)[number % 2]}
        annotations.append({**about, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
    categories = json.loads((folder / "train.json").read_text())["categories"]
    val = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(val))
    (folder / "data.yaml").write_text("train: train.json\nval: val.json\nimages: images\n")
    return folder / "data.yaml"


def test_a_training_that_memorises_says_so_and_goes_on_exactly(
    unrelated: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    without_pictures(monkeypatch)
    about = ["--cfg", str(tiny_model), "--data", str(unrelated), "--project", str(tmp_path), *cpu()]
    command = [*about, "--set", "amp=off", *OVERFIT, *SETTINGS]
    assert train.main([*command, "--name", "whole"]) == 0
    out = capsys.readouterr().out
    run = tmp_path / "whole"
    table = rows(run)
    due = [int(row["epoch"]) for row in table if row["AP_train"]]
    assert due == [*range(6, EPOCHS + 1, 6)]
    assert float(table[-1]["AP_train"]) > 0.5
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["verdict"]["kind"] == "memorises" and not figures["verdict"]["told_apart"]
    before, _, after = out.partition("Verdict: memorises. AP on training images is")
    assert "Epoch 12/" in before and f"Epoch {EPOCHS}/" in after, "it is said while the training runs"
    assert after.count("Verdict: memorises") == 1, "and once more at the end"
    assert f"AP on training images {float(table[-1]['AP_train']):.3f}" in after
    assert load_checkpoint(run / "weights" / "best.pt")["epoch"] == EPOCHS

    asked: list[int] = []

    def requested(*_: object) -> bool:
        asked.append(1)
        return len(asked) == 31

    monkeypatch.setattr(Stop, "requested", requested)
    assert train.main([*command, "--name", "parts"]) == 128 + signal.SIGTERM
    torch.manual_seed(5)
    assert train.main(["--resume", str(tmp_path / "parts"), *cpu()]) == 0
    assert_same_run(run, tmp_path / "parts")
    assert capsys.readouterr().out.count("Verdict: memorises") == 2, "when it became true, and at the end"
    (tmp_path / "parts" / "metrics.json").unlink()  # as if it had been killed after its last epoch
    assert train.main(["--resume", str(tmp_path / "parts"), *cpu()]) == 0
    assert_same_run(run, tmp_path / "parts")


def new_state() -> TrainState:
    return TrainState.create(nn.Linear(2, 2), RecipeConfig(), torch.device("cpu"))


def chosen(figures: list[float | None], certain: list[float]) -> tuple[int, TrainState]:
    """After which epoch best.pt was written last."""
    state, last = new_state(), 0
    for figure, low in zip(figures, certain, strict=True):
        state.epoch += 1
        if state.note_result(figure, certain=low):
            last = state.epoch
    return last, state


def test_as_long_as_ap_is_noise_the_newest_epoch_is_chosen() -> None:
    figures = [0.0, 0.011, 0.001, 0.003, 0.002]
    last, state = chosen(figures, [-np.inf, 0.002, -np.inf, -np.inf, -np.inf])
    assert (last, state.best, state.best_epoch, state.told_apart) == (5, 0.011, 2, False)


@pytest.mark.parametrize("first", range(1, 6))
def test_once_it_is_not_every_choice_is_that_of_ap(first: int) -> None:
    """Whatever was chosen before: from a highest AP that is certain on, it is as if AP had decided from the start."""
    figures = [0.02, 0.04, 0.03, 0.05, 0.3, 0.4, 0.35, 0.4, 0.39]
    certain = [0.5 * NOISE if n < first else 2 * NOISE for n in range(len(figures))]
    last, state = chosen(figures, certain)
    plain, other = chosen(figures, [np.inf] * len(figures))
    assert last == plain == 8 and state.told_apart
    assert (state.best, state.best_epoch, state.better_epoch) == (other.best, other.best_epoch, other.better_epoch)


def test_the_choice_survives_a_checkpoint_and_older_ones_go_on_by_ap() -> None:
    _, state = chosen([0.0, 0.005], [-np.inf, -np.inf])
    state.verdict = {"kind": "memorises", "text": "", "advice": []}
    content = state.state_dict()
    again = new_state()
    again.load_state_dict(content)
    assert (again.told_apart, again.verdict) == (False, state.verdict)
    assert again.note_result(0.001, certain=-np.inf)
    for key in ("told_apart", "verdict"):
        del content[key]
    again.load_state_dict(content)
    assert again.told_apart and again.verdict is None and not again.note_result(0.001)


def test_val_is_resampled_only_where_it_can_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = random_ground_truth(images=12)
    found = {image["id"]: [] for image in truth["images"]}
    for each in truth["annotations"]:
        found[each["image_id"]].append(each)
    detections = {
        image: Detections(
            np.array([[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in objects)], np.float32).reshape(
                -1, 4
            ),
            np.ones(len(objects), np.float32),
            np.array([(2, 3, 7, 11).index(each["category_id"]) for each in objects], np.int64),
        )
        for image, objects in found.items()
    }
    metric = filled(truth, detections)
    config = SimpleNamespace(recipe=RecipeConfig(), seed=3)
    job, state = SimpleNamespace(metric=metric, config=config), new_state()
    assert certain_part(job, state, {"AP": 0.9}) > NOISE
    assert certain_part(job, state, {"AP": None}) == certain_part(job, state, {"AP": NOISE}) == -np.inf
    state.best = 0.95
    assert certain_part(job, state, {"AP": 0.9}) == -np.inf, "not the highest"
    state.told_apart = True
    monkeypatch.setattr("engine.judge.ap_interval", None)
    assert certain_part(job, state, {"AP": 0.99}) == np.inf


def lucky(images: int) -> tuple[dict, list]:
    """One object found among so many images."""
    truth = random_ground_truth(3, images=images)
    first = next(each for each in truth["annotations"] if not each["iscrowd"])
    row = {key: first[key] for key in ("image_id", "category_id", "bbox")}
    return truth, [{**row, "score": 0.9}]


def test_what_one_image_brings_is_not_certain_and_what_all_bring_is() -> None:
    truth, rows_of_one = lucky(40)
    whole = ResampledAP(truth, rows_of_one)()
    low, high = ap_interval(truth, rows_of_one)
    assert low == 0 and whole > 0 and high > whole
    assert (low, high) == ap_interval(truth, rows_of_one), "seeded"
    every = [
        {key: each[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for each in truth["annotations"]
        if not each["iscrowd"]
    ]
    assert ap_interval(truth, every)[0] > 0.99
    assert ap_interval(truth, every, images=10)[0] > 0.99, "of a larger val some are looked at"
    assert ap_interval({**truth, "annotations": []}, []) == ap_interval({**truth, "images": []}, []) == (0, 1)
