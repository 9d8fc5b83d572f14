"""data/splits.py: what is refused before a training, and what is warned of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.splits import read_splits, warn_of_small_objects
from utils.config import ConfigError
from utils.provenance import data_fingerprint
from utils.recipe import RecipeConfig
from utils.structures import LabelledImages
from utils.train_config import TrainConfig


def test_a_training_set_of_crowds_alone_is_refused(tiny_coco: Path, tmp_path: Path) -> None:
    content = json.loads((tiny_coco.parent / "train.json").read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    (tmp_path / "train.json").write_text(json.dumps(content))
    folder = tiny_coco.parent
    (tmp_path / "d.yaml").write_text(f"train: train.json\nval: {folder}/val.json\nimages: {folder}/images\n")
    crowds = len(content["annotations"])
    with pytest.raises(ConfigError, match=f"nothing to learn: no object in 8 images, and {crowds} crowd regions"):
        read_splits(str(tmp_path / "d.yaml"))


def test_the_fingerprint_names_both_splits(tiny_coco: Path) -> None:
    splits = read_splits(str(tiny_coco))
    assert splits.fingerprint() == {"train": data_fingerprint(splits.train), "val": data_fingerprint(splits.val)}


@pytest.mark.parametrize(("narrow", "told"), [(0, False), (5, False), (6, True), (100, True)])
def test_objects_too_small_to_be_trained_on_are_warned_of(
    narrow: int, told: bool, tiny_coco: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = read_splits(str(tiny_coco)).train.samples[0]  # of 96 x 96
    config = TrainConfig({"resize": "letterbox"}, RecipeConfig(), "d", (96, 96), None, 0, 0)
    boxes = np.tile([10.0, 10, 13, 60], (100, 1))
    boxes[:narrow, 2] = 12
    sample = replace(first, boxes=boxes, labels=np.zeros(100, np.int64), crowd=np.zeros(100, bool))
    images = LabelledImages((sample,), ("thing",), (1,), {})
    warn_of_small_objects(images, config)
    assert (f"{narrow} of 100 training objects are no more than 2 pixels wide or high" in caplog.text) == told
    caplog.clear()
    warn_of_small_objects(replace(images, samples=()), config)
    warn_of_small_objects(images, replace(config, image_size=(192, 192)))
    assert not caplog.text
    warn_of_small_objects(images, replace(config, image_size=(48, 48)))
    assert "100 of 100" in caplog.text
