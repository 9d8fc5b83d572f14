"""The albumentations pipeline: labels follow, draws come from the generator, mistakes are named."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.pipeline import AlbumentationsPipeline
from tests.data.test_transforms import painted, rng
from utils.config import ROOT, ConfigError


def test_no_transforms_is_no_change() -> None:
    item = painted()
    assert AlbumentationsPipeline([])(item, rng()) is item


def test_boxes_labels_and_crowd_follow_the_transforms() -> None:
    item = replace(painted(), crowd=np.array([False, True, False]))
    specs = [{"type": "HorizontalFlip", "p": 1.0}, {"type": "Crop", "x_min": 0, "y_min": 0, "x_max": 75, "y_max": 90}]
    result = AlbumentationsPipeline(specs)(item, rng())
    assert result.image.shape == (90, 75, 3)
    assert result.labels.tolist() == [0, 1], "the third lies outside the crop"
    assert result.crowd.tolist() == [False, True]
    np.testing.assert_allclose(result.boxes, [[60, 30, 75, 50], [20, 10, 40, 70]], atol=1e-3)


def test_transforms_draw_from_the_generator_they_are_given() -> None:
    specs = [{"type": "RandomBrightnessContrast", "p": 1.0}, {"type": "GaussNoise", "p": 0.5}, {"type": "ISONoise"}]
    first, second = AlbumentationsPipeline(specs), AlbumentationsPipeline(specs)
    images = []
    for pipeline in (first, second, first):
        pipeline(painted(), np.random.default_rng(99))  # what was drawn before must not matter
        images.append(pipeline(painted(), np.random.default_rng(5)).image)
    assert np.array_equal(images[0], images[1])
    assert np.array_equal(images[0], images[2])
    assert not np.array_equal(images[0], first(painted(), np.random.default_rng(6)).image)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"type": "HorizontalFilp"},
            r"augment.albumentations\[1\].*HorizontalFilp: unknown transform.*'HorizontalFlip'",
        ),
        ({"p": 0.5}, r"augment.albumentations\[1\].*type"),
        ({"type": "Blur", "blur_limt": 3}, r"augment.albumentations\[1\].blur_limt: unknown key.*'blur_limit'"),
        ({"type": "HorizontalFlip", "p": 7}, r"augment.albumentations\[1\]: albumentations refuses .*p"),
        ({"type": "Blur", "blur_limit": "much"}, r"augment.albumentations\[1\]: albumentations refuses"),
        ({"type": "Crop", "x_min": 5, "x_max": 2}, r"augment.albumentations\[1\]: albumentations refuses"),
        ({"type": 3}, r"augment.albumentations\[1\].*3: unknown transform"),
        ({"type": ["Blur"]}, r"augment.albumentations\[1\].*unknown transform"),
    ],
)
def test_a_wrong_transform_or_argument_is_named(spec: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        AlbumentationsPipeline([{"type": "Blur", "p": 0.1}, spec])
    assert len(str(caught.value)) < 1500


def test_transforms_that_make_something_else_than_an_image_are_refused() -> None:
    pipeline = AlbumentationsPipeline([{"type": "Normalize", "p": 1.0}])
    with pytest.raises(ValueError, match=r"augment.albumentations: .*uint8.*found float32.*leave out Normalize"):
        pipeline(painted(), rng())


def test_the_library_is_imported_by_one_file() -> None:
    folders = [ROOT / name for name in ("data", "engine", "models", "utils", "benchmarks")]
    files = [*ROOT.glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))]
    importing = [
        file for file in files if re.search(r"^\s*(import|from) albumentations", file.read_text("utf-8"), re.M)
    ]
    assert importing == [ROOT / "data" / "pipeline.py"]


def test_training_without_the_key_does_not_import_the_library(tiny_coco: Path) -> None:
    code = f"""
import sys
sys.modules["albumentations"] = None  # its import fails, as where it is not installed
import detect, export, train, val
from data.dataset import TrainDataset
from data.read import read_splits
from utils.augment_config import AugmentConfig
images = read_splits({str(tiny_coco)!r}).train
options = dict(image_size=(64, 64), resize="letterbox", seed=0)
TrainDataset(images, AugmentConfig(), **options)
try:
    TrainDataset(images, AugmentConfig(albumentations=[dict(type="Blur")]), **options)
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ConfigError augment.albumentations: the library cannot be imported")
    assert "pip install 'albumentations>=2.0,<3'" in done.stdout
