"""The export of each tool gives a first training batch and a first validation batch, named from another folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.loader import build_eval_loader, train_loader_of, train_set_of
from data.read import read_splits
from data.split import main as split
from tests.data.exports import BOXES, EXPORTS, SPLIT
from utils.augment_config import AugmentConfig
from utils.recipe import RecipeConfig
from utils.train_config import TrainConfig

SIDE = 64


PLAIN = AugmentConfig(mosaic=0, mixup=0, scale=0, translate=0, flip_lr=0, multi_scale=0)
RECIPE = RecipeConfig(epochs=1, batch_size=2, augment=PLAIN)
CONFIG = TrainConfig({"resize": "letterbox"}, RECIPE, "", (SIDE, SIDE), None, 0, 0)


@pytest.mark.parametrize("name", EXPORTS)
def test_the_first_batch_shows_the_objects(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = EXPORTS[name](tmp_path / "my pets").relative_to(tmp_path)
    if name not in SPLIT:
        assert split([str(data), "pets-split", "--val", "0.5"]) == 0
        data = Path("pets-split", "data.yaml")
    splits = read_splits(str(data))
    dataset = train_set_of(splits.train, CONFIG)
    batch = next(iter(train_loader_of(dataset, CONFIG, stride=32)))
    stems = [Path(path).stem.split("-")[-1] for path in batch.paths]
    assert batch.images.shape == (len(stems), 3, SIDE, SIDE)
    assert len(batch.targets) == sum(len(BOXES[stem]) for stem in stems)
    batch = next(
        iter(build_eval_loader(splits.val, image_size=(SIDE, SIDE), resize="letterbox", batch_size=2, workers=0))
    )
    assert batch.images.shape == (1, 3, SIDE, SIDE)
    assert not batch.problems
