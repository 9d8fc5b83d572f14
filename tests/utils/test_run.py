"""utils/run.py: no run folder is overwritten, and --resume finds the run that is meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from utils.checkpoint import save_checkpoint
from utils.config import ConfigError, load_yaml
from utils.run import Run, new_run_folder


def test_names_count_up_and_nothing_is_overwritten(tmp_path: Path) -> None:
    project = tmp_path / "runs" / "train"
    assert new_run_folder(project, "exp") == project / "exp"
    (project / "exp" / "kept.txt").write_text("mine")
    (project / "exp2").write_text("a file of that name")
    assert new_run_folder(project, "exp") == project / "exp3"
    assert new_run_folder(project, "other") == project / "other"
    assert (project / "exp" / "kept.txt").read_text() == "mine"


def test_a_project_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="choose another --project"):
        new_run_folder(tmp_path / "file", "exp")
    with pytest.raises(ConfigError, match="choose another --project"):
        new_run_folder(tmp_path / "file" / "deeper", "exp")


def test_a_run_reads_back_its_configuration(tmp_path: Path) -> None:
    config = {"model": {"name": "x"}, "amp": "off", "lr": 1e-05, "size": [1, 2], "data": None}
    run = Run.create(tmp_path, "exp", config)
    assert (run.folder / "weights").is_dir()
    assert load_yaml(run.folder / "config.yaml") == config
    assert run.last == run.folder / "weights" / "last.pt"
    assert run.best == run.folder / "weights" / "best.pt"
    assert [path.name for path in run.folder.iterdir() if path.name.startswith(".")] == []


def test_a_run_is_found_by_folder_checkpoint_name_or_age(tmp_path: Path) -> None:
    first, second = (Run.create(tmp_path, "exp", {"a": 1}) for _ in range(2))
    first.last.touch()
    os.utime(first.last, (2e9, 2e9))
    assert Run.find(str(second.folder), tmp_path) == second
    assert Run.find(str(first.last), tmp_path) == first
    assert Run.find("exp2", tmp_path) == second
    assert Run.find("", tmp_path) == first, "the one that was saved last"
    os.utime(Run.create(tmp_path, ".dry-run", {}).folder / "config.yaml", (3e9, 3e9))
    assert Run.find("", tmp_path) == first, "a dry run that was killed is no run"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run in .*; name one: --resume RUN"):
        Run.find("", tmp_path)
    with pytest.raises(ConfigError, match=r"--resume nowhere: .*has no config.yaml"):
        Run.find("nowhere", tmp_path)
    stray = tmp_path / "weights.pt"
    stray.touch()
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        Run.find(str(stray), tmp_path)


def test_a_checkpoint_that_is_named_is_the_one_to_continue_from(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "exp", {"a": 1})
    run.best.touch()
    run.last.touch()
    assert Run.find(str(run.folder), tmp_path).checkpoint == run.last
    assert Run.find(str(run.last), tmp_path).checkpoint == run.last
    assert Run.find(str(run.best), tmp_path).checkpoint == run.best


def test_a_run_is_not_begun_anew_over_its_best_checkpoint(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "exp", {"a": 1})
    run.check_start()
    run.best.touch()
    with pytest.raises(ConfigError, match=r"last\.pt: is missing; .* --resume .*best\.pt"):
        run.check_start()
    Run(run.folder, run.best).check_start()


def test_weights_for_inference_alone_are_no_start_of_a_run_that_has_lost_its_last_checkpoint(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "exp", {"a": 1})
    save_checkpoint(run.best, {"ema": {}})
    with pytest.raises(ConfigError, match=r"last\.pt: is missing; a new run starts .* --weights .*best\.pt"):
        run.check_start()
