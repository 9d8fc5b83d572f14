"""data/anchors.py: coverage of boxes, the fit, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data import anchors
from utils.config import ConfigError

CENTRES = np.array([[10.0, 14], [30, 20], [60, 80], [200, 150]])


def clusters(*, each: int = 50, spread: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.concatenate([centre * rng.normal(1, spread, (each, 2)) for centre in CENTRES])


def test_no_boxes_are_told() -> None:
    from utils.structures import LabelledImages

    with pytest.raises(ConfigError, match="no box to fit anchors to"):
        anchors.box_sizes(LabelledImages((), (), (), {}), (64, 64), "letterbox")


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
    assert anchors.better_anchors(sizes[:3], bad, least_recall=0.98) is None, "too few boxes"


def test_fewer_boxes_than_anchors_is_an_error() -> None:
    with pytest.raises(ConfigError, match="9 anchors need as many different boxes, and there are 1"):
        anchors.fit_anchors(np.ones((20, 2)), 9)


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
