"""utils/report.py: groups of seeds, verdicts, and a page that stands alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.utils.metrics.test_bootstrap import predictions, split
from utils import report
from utils.config import dump_yaml
from utils.files import write_atomically
from utils.thumbnails import FILE, thumbnail, write_thumbnails


def make_run(
    folder: Path,
    *,
    ap: float,
    seed: int | None = None,
    noise: float | None = None,
    lr: float = 0.1,
    small: float = -1,
) -> Path:
    folder.mkdir(parents=True)
    classes = {"<b>": {"AP": ap, "AP50": ap}, "rare": {"AP": small, "AP50": small}}
    figures = {"AP": ap, "AP50": ap + 0.1, "APs": small, "images": 12, "per_class": classes}
    write_atomically(folder / "metrics.json", json.dumps({**figures, "protocol": {}, "speed_ms": {}}))
    if seed is not None:
        config = {"model": {"name": "x"}, "recipe": {"lr": lr}, "seed": seed, "workers": seed}
        write_atomically(folder / "config.yaml", dump_yaml(config))
        write_atomically(folder / "results.csv", f"epoch,loss/box,AP\n1,3.0,\n2,2.0,{ap}\n")
    if noise is not None:
        truth = split()
        write_atomically(folder / "predictions.json", json.dumps(predictions(truth, noise=noise)))
        write_atomically(folder / "ground_truth.json", json.dumps(truth))
    return folder


def test_what_is_no_finished_run_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(tmp_path)]) == 2
    assert "has no metrics.json; is it the folder of a run?" in capsys.readouterr().err
    write_atomically(tmp_path / "config.yaml", "{}")
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


def test_runs_with_one_seed_are_compared_and_not_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [make_run(tmp_path / f"before{seed}", ap=0.5 + seed / 10, seed=seed) for seed in (0, 1)]
    after = [make_run(tmp_path / f"after{seed}", ap=0.7 + seed / 10, seed=seed) for seed in (0, 1, 2)]
    assert report.main([*map(str, before + after), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [[Path(run).name for run in group["runs"]] for group in found["groups"]] == [
        ["before0", "before1"],
        ["after0", "after1", "after2"],
    ]
    assert report.main([str(before[0]), str(after[0]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [group["deviation"]["AP"] for group in found["groups"]] == [None, None]
    assert len(found["against_first"]) == 1
    same_name = [make_run(tmp_path / project / "exp", ap=0.5, seed=0) for project in ("old", "new")]
    assert report.main([*map(str, same_name), "--json"]) == 0
    assert [group["name"] for group in json.loads(capsys.readouterr().out)["groups"]] == ["old/exp", "new/exp"]


def test_a_folder_that_is_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "a", ap=0.5, seed=0)
    for again in (run, run / "metrics.json", tmp_path / "b" / ".." / "a"):
        (tmp_path / "b").mkdir(exist_ok=True)
        assert report.main([str(run), str(again), "--json"]) == 2
        assert "the run is given twice and would count twice" in capsys.readouterr().err


def test_figures_that_do_not_exist_are_dashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / f"a{seed}", ap=0.5, seed=seed) for seed in (0, 1)]
    runs.append(make_run(tmp_path / "b", ap=0.6, seed=0, lr=0.2))
    page = tmp_path / "page.html"
    assert report.main([*map(str, runs), "--html", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "AP", "AP50", "APs", "images"]
    assert [line.count("–") for line in lines[1:3]] == [1, 1]
    assert "-1" not in "".join(lines[:3])
    text = page.read_text()
    for name in ("APs", "rare"):
        assert f"<td>{name}</td><td>–</td><td>–</td>" in text
    assert report.main([*map(str, runs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"][0]["mean"]["APs"] is None


def test_the_page_has_classes_over_all_seeds_under_the_name_of_the_group(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"a{seed}", ap=0.5 + seed / 10, small=0.2, seed=seed) for seed in (0, 1, 2)]
    runs.append(make_run(tmp_path / "b", ap=0.55, seed=0, lr=0.2, small=0.1))
    page = tmp_path / "page.html"
    assert report.main([*map(str, runs), "--html", str(page)]) == 0
    text = page.read_text()
    assert text.count("<th>a0 (3 seeds)</th><th>b</th>") == 3, "figures, classes, settings"
    assert "<td>&lt;b&gt;</td><td class='best'>0.6 ± 0.1</td><td>0.55</td>" in text
    assert "<td>rare</td><td class='best'>0.2 ± 0</td><td>0.1</td>" in text


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


def test_the_pictures_on_which_two_runs_differ_most_are_shown(tmp_path: Path) -> None:
    one, two = (make_run(tmp_path / name, ap=0.5, noise=1) for name in ("one", "two"))
    truth, rows = split(), predictions(split(), noise=1)
    ids = [image["id"] for image in truth["images"]]
    worse, better = sorted(ids, key=lambda number: -sum(row["image_id"] == number for row in rows))[:2]
    spoilt = [row for row in rows if row["image_id"] != worse]
    write_atomically(two / "predictions.json", json.dumps(spoilt))
    spoilt = [row for row in rows if row["image_id"] != better]
    write_atomically(one / "predictions.json", json.dumps(spoilt))
    page = tmp_path / "page.html"
    arguments = [str(one), str(two), "--samples", "5", "--html", str(page)]
    assert report.main(arguments) == 0
    assert "have no thumbnails.zip" in page.read_text()
    small = np.zeros((64, 64, 3), np.uint8)
    write_thumbnails(two / FILE, [(number, thumbnail(small, f"<{number}>.jpg")) for number in ids])
    assert report.main(arguments) == 0
    text = page.read_text()
    fewer, more = text.partition("B makes fewer errors")[2].split("B makes more errors")
    assert re.findall(r"&lt;(\d+)&gt;.jpg: A", fewer) == [str(better)]
    assert re.findall(r"&lt;(\d+)&gt;.jpg: A", more) == [str(worse)]
    assert "<script" not in text


def test_runs_on_other_images_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (make_run(tmp_path / name, ap=0.5, noise=1) for name in ("one", "two"))
    write_atomically(two / "ground_truth.json", json.dumps(split(5)))
    assert report.main([str(one), str(two), "--project", str(tmp_path / "reports")]) == 0
    assert "not evaluated on the same images" in capsys.readouterr().out
    assert (tmp_path / "reports" / "report" / "report.html").is_file()
