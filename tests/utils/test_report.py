"""utils/report.py: groups of seeds, verdicts, and a page that stands alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.utils.test_metrics_bootstrap import predictions, split
from utils import report
from utils.config import dump_yaml
from utils.run import write_whole


def make_run(folder: Path, *, ap: float, seed: int | None = None, noise: float | None = None, lr: float = 0.1) -> Path:
    folder.mkdir()
    figures = {"AP": ap, "AP50": ap + 0.1, "images": 12, "per_class": {"<b>": {"AP": ap, "AP50": ap}}}
    write_whole(folder / "metrics.json", json.dumps({**figures, "protocol": {}, "speed_ms": {}}))
    if seed is not None:
        config = {"model": {"name": "x"}, "recipe": {"lr": lr}, "seed": seed, "workers": seed}
        write_whole(folder / "config.yaml", dump_yaml(config))
        write_whole(folder / "results.csv", f"epoch,loss/box,AP\n1,3.0,\n2,2.0,{ap}\n")
    if noise is not None:
        truth = split()
        write_whole(folder / "predictions.json", json.dumps(predictions(truth, noise=noise)))
        write_whole(folder / "ground_truth.json", json.dumps(truth))
    return folder


def test_what_is_no_finished_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path)]) == 2
    assert "has no metrics.json; is it the folder of a run?" in capsys.readouterr().err
    write_whole(tmp_path / "config.yaml", "{}")
    assert report.main([str(tmp_path)]) == 2
    assert "the training has not finished" in capsys.readouterr().err


def test_seeds_are_one_group_with_mean_and_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / f"a{seed}", ap=0.5 + seed / 10, seed=seed) for seed in (0, 1)]
    runs.append(make_run(tmp_path / "b", ap=0.7, seed=0, lr=0.2))
    assert report.main([*map(str, runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [group["name"] for group in found["groups"]] == ["a0", "b"]
    assert found["groups"][0]["mean"]["AP"] == pytest.approx(0.55)
    assert found["groups"][0]["deviation"]["AP"] == pytest.approx(0.0707, abs=1e-4)
    assert found["groups"][1]["deviation"]["AP"] is None
    assert "no predictions.json" in found["against_first"][0]["note"]


def test_the_better_run_is_named_and_the_page_needs_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = make_run(tmp_path / "bad", ap=0.4, seed=0, noise=6)
    good = make_run(tmp_path / "good", ap=0.6, seed=0, noise=1, lr=0.2)
    page = tmp_path / "page.html"
    assert report.main([str(bad), str(good), "--samples", "30", "--html", str(page)]) == 0
    assert "A = bad, B = good: B beats A" in capsys.readouterr().out
    text = page.read_text()
    assert "B beats A" in text
    assert "<svg" in text
    assert "&lt;b&gt;" in text, "names are escaped"
    assert "recipe.lr" in text
    assert "src=" not in text and "<script" not in text


def test_runs_on_other_images_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (make_run(tmp_path / name, ap=0.5, noise=1) for name in ("one", "two"))
    write_whole(two / "ground_truth.json", json.dumps(split(5)))
    assert report.main([str(one), str(two), "--project", str(tmp_path / "reports")]) == 0
    assert "not evaluated on the same images" in capsys.readouterr().out
    assert (tmp_path / "reports" / "report" / "report.html").is_file()
