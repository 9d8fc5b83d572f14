"""data/anchors.py: coverage of boxes, the fit, and the command."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from data import anchors
from utils.config import ConfigError
from utils.recipe import RecipeConfig
from utils.structures import LabelledImages, Sample
from utils.train_config import TrainConfig

CENTRES = np.array([[10.0, 14], [30, 20], [60, 80], [200, 150]])


def clusters(*, each: int = 50, spread: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.concatenate([centre * rng.normal(1, spread, (each, 2)) for centre in CENTRES])


def images_of(sizes: np.ndarray, *, crowd: bool = False) -> LabelledImages:
    """One image of 64 x 64 with boxes of these widths and heights."""
    boxes = np.concatenate((np.zeros((len(sizes), 2)), sizes), axis=1)
    sample = Sample(Path("0.png"), 1, 64, 64, boxes, np.zeros(len(sizes), np.int64), np.full(len(sizes), crowd))
    return LabelledImages((sample,), ("thing",), (1,), {})


class Head:
    """Two levels of two anchors, which refuse what a real head refuses."""

    def __init__(self) -> None:
        self.anchors = [torch.full((2, 2), 500.0), torch.full((2, 2), 600.0)]

    def set_anchors_(self, levels: list[list[float]]) -> None:
        assert min(map(min, levels)) > 0
        self.anchors = [torch.tensor(level).view(2, 2) for level in levels]


def fit_head(sizes: np.ndarray) -> Head:
    head = Head()
    config = TrainConfig({"resize": "letterbox"}, RecipeConfig(), "shapes", (64, 64), None, 0, 0)
    anchors.fit_anchors_(head, images_of(sizes), config)
    return head


def test_no_objects_are_told_with_the_crowds() -> None:
    with pytest.raises(ConfigError, match="nothing to fit anchors to: no object in 0 images"):
        anchors.box_sizes(LabelledImages((), (), (), {}), (64, 64), "letterbox")
    with pytest.raises(ConfigError, match="no object in 1 images, and 5 crowd regions"):
        anchors.box_sizes(images_of(np.ones((5, 2)), crowd=True), (64, 64), "letterbox")


def test_the_fit_finds_the_clusters_whatever_the_seed() -> None:
    sizes = clusters()
    for seed in range(3):
        np.testing.assert_allclose(anchors.fit_anchors(sizes, 4, seed=seed), CENTRES, rtol=0.05)
    np.testing.assert_array_equal(anchors.fit_anchors(sizes, 4), anchors.fit_anchors(sizes[::-1], 4))


def test_coverage_is_what_a_loop_counts() -> None:
    rng = np.random.default_rng(0)
    sizes, found = rng.uniform(2, 300, (60, 2)), rng.uniform(5, 100, (5, 2))
    answered, best = 0, []
    for w, h in sizes:
        answered += any(max(w / a, a / w, h / b, b / h) < 4 for a, b in found)
        best.append(max(min(w, a) * min(h, b) / (w * h + a * b - min(w, a) * min(h, b)) for a, b in found))
    assert anchors.cover(sizes, found) == pytest.approx((answered / 60, np.mean(best)))


def test_anchors_are_replaced_only_where_they_fail() -> None:
    sizes = clusters()
    good, bad = [CENTRES[:2], CENTRES[2:]], [CENTRES[:2] * 20, CENTRES[2:] * 20]
    assert anchors.better_anchors(sizes, good, least_recall=0.98) is None
    levels, before, after = anchors.better_anchors(sizes, bad, least_recall=0.98)
    assert before.recall < 0.6
    assert after.recall == 1
    np.testing.assert_allclose(np.array(levels).reshape(-1, 2), CENTRES, rtol=0.05)


@pytest.mark.parametrize("different", [1, 2, 4])
def test_few_different_sizes_are_taken_with_scaled_copies(different: int) -> None:
    sizes = np.repeat(CENTRES[:different], 20, axis=0)
    found = anchors.fit_anchors(sizes, 9)
    assert found.shape == (9, 2)
    assert len(np.unique(found, axis=0)) == 9
    assert (np.diff(found.prod(axis=1)) >= 0).all()
    assert anchors.cover(sizes, found) == (1, 1)
    assert all((np.abs(found / size - 1) < 1e-9).all(axis=1).any() for size in CENTRES[:different])


def test_the_head_gets_anchors_for_boxes_of_one_size(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sizes = np.full((145, 2), (0.45, 13.5))
    head = fit_head(sizes)
    assert anchors.cover(sizes, np.concatenate([level.numpy() for level in head.anchors])).recall == 1
    assert "cover 0.000 of the boxes, those fitted to them 1.000" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_low_recall_is_warned_of_whether_or_not_a_fit_helps(caplog: pytest.LogCaptureFixture) -> None:
    far = 4.5 ** np.arange(6)  # no two of them within the factor of one anchor that is one of them
    sizes = np.stack((far, far[::-1]), axis=1)
    head = fit_head(sizes)
    recall = anchors.cover(sizes, np.concatenate([level.numpy() for level in head.anchors])).recall
    assert recall < 0.98
    assert f"those in use cover {recall:.3f} of the boxes, and anchor_recall asks for 0.98" in caplog.text
    assert "anchor-free" in caplog.text


def test_hairs_keep_a_width_above_zero_and_are_counted_as_rounded() -> None:
    hairs = np.stack((np.full(200, 0.04), np.linspace(8, 64, 200)), axis=1)
    head = fit_head(hairs)
    own = np.concatenate([level.numpy() for level in head.anchors])
    np.testing.assert_allclose(own[:, 0], 0.04, rtol=1e-6)
    levels, _, after = anchors.better_anchors(hairs, [np.full((2, 2), 500.0)] * 2, least_recall=0.98)
    assert after == anchors.cover(hairs, np.array(levels).reshape(-1, 2))
    sides = np.array([[1e-7, 0.0312], [0.25, 9.97], [12.34, 456.78]])
    assert anchors.rounded(sides).tolist() == [[0.01, 0.031], [0.25, 10.0], [12.3, 456.8]]


def test_a_large_set_is_fitted_by_a_sample_that_is_always_the_same(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(anchors, "SAMPLE", 1000)
    rng = np.random.default_rng(5)
    sizes = np.exp(rng.normal(3, 0.8, (6000, 2)))
    iou, rows = anchors._iou, []
    with monkeypatch.context() as patch:
        patch.setattr(anchors, "_iou", lambda boxes, others: (rows.append(len(boxes)), iou(boxes, others))[1])
        found = anchors.fit_anchors(sizes, 6)
    assert max(rows) == 1000
    np.testing.assert_array_equal(found, anchors.fit_anchors(rng.permutation(sizes), 6))
    assert not np.array_equal(found, anchors.fit_anchors(sizes, 6, seed=1))
    levels, _, after = anchors.better_anchors(sizes, [np.full((3, 2), 900.0)] * 2, least_recall=0.98)
    assert after == anchors.cover(sizes, np.array(levels).reshape(-1, 2)), "of all boxes"
    assert "fitting 6 to a sample of 1000 of 6000 boxes" in caplog.text


def test_the_command_prints_what_a_model_file_takes(tiny_coco: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(tiny_coco), "--img-size", "64", "--num", "4", "--levels", "2"]
    assert anchors.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(level) for level in found["anchors"]] == [4, 4]
    assert found["recall"] == 1
    assert anchors.main(command) == 0
    assert f"anchors: [{', '.join(map(str, found['anchors']))}]" in capsys.readouterr().out
    assert anchors.main([*command, "--num", "5"]) == 2
    assert "--num 5 anchors cannot be shared equally by --levels 2" in capsys.readouterr().err
    assert anchors.main([str(tiny_coco), "--levels", "4", "--json"]) == 0
    assert [len(level) for level in json.loads(capsys.readouterr().out)["anchors"]] == [6] * 4, "three anchors a level"
    assert anchors.main([*command, "--num", "80"]) == 0
    assert "different sizes; the other anchors are scaled copies" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        anchors.main([*command, "--seed", "-1"])
    assert "expected a whole number from 0, found -1" in capsys.readouterr().err


def classes_in_pictures(count: int, *, crowd: bool = False) -> LabelledImages:
    """Images of two sizes with objects in proportion; those of one class differ in size by 30 %, of the other not."""
    rng, samples = np.random.default_rng(5), []
    for number in range(count):
        side = 64 * (1 + number % 2)
        width, labels = 4 * np.exp(rng.normal(0, 0.3)), np.array([0, 1, 1])
        sides = side / 64 * np.array([[width, width], [20, 10], [5, 40]])
        boxes = np.concatenate((np.zeros((3, 2)), sides), axis=1)
        samples.append(Sample(Path(f"{number}.png"), number, side, side, boxes, labels, np.full(3, crowd)))
    return LabelledImages(tuple(samples), ("one", "other"), (1, 2), {})


def test_the_spread_is_that_of_the_sizes_within_a_class() -> None:
    spread = anchors.size_spread(classes_in_pictures(3000), (96, 96), "letterbox")
    assert spread == pytest.approx((0.3**2 / 3) ** 0.5, rel=0.05)


def test_few_objects_do_not_make_a_spread() -> None:
    few = [anchors.size_spread(classes_in_pictures(count), (96, 96), "letterbox") for count in (1, 5, 50)]
    assert few == sorted(few, reverse=True)
    assert few[0] > 0.7
    nothing = [LabelledImages((), ("one",), (1,), {}), classes_in_pictures(4, crowd=True), images_of(np.zeros((9, 2)))]
    for images in nothing:
        assert anchors.size_spread(images, (64, 64), "letterbox") == anchors.COCO_SPREAD
