"""Top-1 and top-5 against a count by hand, ties, ranks, and the wrong inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.utils.samples import whole_images
from utils.metrics.build import build_metric
from utils.metrics.classification import MANY, ClassificationMetric
from utils.structures import LabelledImages


def random_case(count: int = 50, classes: int = 12) -> tuple[dict[int, int], torch.Tensor]:
    rng = np.random.default_rng(5)
    truth = {10 * number: int(rng.integers(classes - 1)) for number in range(count)}
    return truth, torch.from_numpy(rng.dirichlet(np.ones(classes), count)).float()


def test_nothing_found_is_no_figure() -> None:
    metric = ClassificationMetric({}, ["cat", "dog"])
    figures = metric.compute()
    assert (figures["top1"], figures["top5"], figures["images"]) == (None, None, 0)
    assert figures["per_class"]["cat"] == {"top1": None, "top5": None, "images": 0}
    assert metric.predictions() == []
    assert metric.confusion().sum() == 0
    assert "Top-1 = –" in metric.table()
    metric.update([], torch.zeros(0, 2))


def test_figures_are_those_of_a_count_by_hand() -> None:
    truth, probabilities = random_case()
    metric = ClassificationMetric(truth, [f"class {label}" for label in range(12)])
    metric.update(list(truth)[:20], probabilities[:20])
    metric.update(list(truth)[20:], probabilities[20:])
    labels = list(truth.values())
    order = np.argsort(-probabilities.numpy(), axis=1)
    first = [order[i, 0] == label for i, label in enumerate(labels)]
    five = [label in order[i, :5] for i, label in enumerate(labels)]
    figures = metric.compute()
    assert figures["top1"] == pytest.approx(np.mean(first), abs=1e-12)
    assert figures["top5"] == pytest.approx(np.mean(five), abs=1e-12)
    assert figures["images"] == 50
    for label in range(12):
        mine = [hit for hit, own in zip(first, labels, strict=True) if own == label]
        row = figures["per_class"][f"class {label}"]
        assert row["images"] == len(mine)
        assert row["top1"] == (pytest.approx(np.mean(mine), abs=1e-12) if mine else None)
    assert np.trace(metric.confusion()) == sum(first)
    assert metric.confusion().sum(axis=1).tolist() == [labels.count(label) for label in range(12)]
    rows = metric.predictions()
    assert rows[0]["labels"] == order[0, :5].tolist()
    assert rows[0]["scores"][0] == pytest.approx(probabilities[0].max().item())
    metric.reset()
    assert metric.compute()["images"] == 0


def test_a_model_that_says_the_same_of_everything_is_right_for_the_first_classes_only() -> None:
    metric = ClassificationMetric({label: label for label in range(10)}, [str(label) for label in range(10)])
    metric.update(list(range(10)), torch.full((10, 10), 0.1))
    figures = metric.compute()
    assert (figures["top1"], figures["top5"]) == (0.1, 0.5)
    assert metric.predictions()[7]["labels"] == [0, 1, 2, 3, 4]


def test_ranks_together_count_every_image_once() -> None:
    truth, probabilities = random_case()
    names = [str(label) for label in range(12)]
    whole, *parts = (ClassificationMetric(truth, names) for _ in range(3))
    whole.update(list(truth), probabilities)
    for rank, part in enumerate(parts):
        part.update(list(truth)[rank::2], probabilities[rank::2])
    parts[0].extend(parts[1].predictions())
    parts[0].extend(parts[1].predictions())  # a loader that fills the last batch up gives images twice
    assert parts[0].compute() == whole.compute()
    assert parts[0].predictions() == whole.predictions()


def test_the_table_shows_the_worst_of_many_classes() -> None:
    few = ClassificationMetric({1: 0, 2: 1}, ["cat", "dog"])
    few.update([1, 2], torch.tensor([[0.9, 0.1], [0.8, 0.2]]))
    assert few.table().splitlines()[-2:] == [" cat     1.000  1.000       1", " dog     0.000  1.000       1"]
    many = ClassificationMetric({label: label for label in range(60)}, [f"c{label}" for label in range(60)])
    wrong = torch.eye(60)
    wrong[59] = wrong[0]
    many.update(list(range(60)), wrong)
    lines = many.table().splitlines()
    assert f"the {MANY} of 60 classes with the lowest top-1" in many.table()
    assert len(lines) == 5 + MANY
    assert lines[5].split()[0] == "c59"


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="label 2 has no name; there are 2 names"):
        ClassificationMetric({1: 2}, ["cat", "dog"])
    metric = ClassificationMetric({1: 0, 2: 1}, ["cat", "cat"])
    assert metric.names == ("cat (0)", "cat (1)")
    metric.update([1], torch.tensor([[0.5, 0.5]]))
    for image_id, message in ((1, "was counted before"), (3, "not among the 2 images")):
        with pytest.raises(ValueError, match=message):
            metric.update([image_id], torch.tensor([[0.5, 0.5]]))
    with pytest.raises(ValueError, match="not finite"):
        metric.update([2], torch.tensor([[float("nan"), 0.5]]))
    with pytest.raises(ValueError, match=r"expected 1 x 2, images and classes, found \(1, 3\)"):
        metric.update([2], torch.ones(1, 3))


def test_the_split_decides_and_the_models_order_of_classes_counts() -> None:
    images = whole_images([0, 1, 2], names=("ant", "bee", "cow"))
    metric = build_metric(images, category_ids=(3, 1, 2), names=("cow", "ant", "bee"))
    metric.update([1, 2, 3], torch.eye(3)[[1, 2, 0]])
    assert metric.compute()["top1"] == 1
    assert isinstance(build_metric(images), ClassificationMetric)
    boxes = LabelledImages((), ("ant",), (1,), {"images": [], "annotations": [], "categories": []})
    assert type(build_metric(boxes)).__name__ == "DetectionMetric"
