"""engine/search.py: a search that finds, prunes, goes on and is shared."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine import search as search_module
from engine.search import SPACE, Pruned, Trial, load_space, search
from utils.config import ROOT, ConfigError, load_yaml

SPACE_OF_TWO = {"a.x": {"low": 0.0, "high": 1.0}, "b": [1, 2, 3]}


def values(trial: Trial) -> dict[str, float]:
    return {key: float(value) for key, value in (text.split("=") for text in trial.settings)}


def test_the_best_settings_are_written_as_a_recipe(tmp_path: Path) -> None:
    seen = []

    def objective(trial: Trial) -> float:
        found = values(trial)
        seen.append(trial.number)
        return -((found["a.x"] - 0.7) ** 2) - (found["b"] != 2)

    study = search(tmp_path, 25, objective, space=SPACE_OF_TWO)
    assert seen == list(range(25))
    assert abs(study.best_params["a.x"] - 0.7) < 0.2
    best = load_yaml(tmp_path / "best.yaml")
    assert best == {"a": {"x": study.best_params["a.x"]}, "b": 2}
    with open(tmp_path / "trials.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 25


def test_a_search_that_was_killed_goes_on_and_counts_only_what_was_finished(tmp_path: Path) -> None:
    def killed(trial: Trial) -> float:
        if trial.number == 2:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, 5, killed, space=SPACE_OF_TWO)
    numbers: list[int] = []

    def objective(trial: Trial) -> float:
        numbers.append(trial.number)
        return 1.0

    search(tmp_path, 5, objective, space=SPACE_OF_TWO)
    assert numbers == [3, 4, 5], "two were finished before, one was cut off"
    search(tmp_path, 5, objective, space=SPACE_OF_TWO)
    assert len(numbers) == 3, "nothing is left to do"


def test_a_trial_far_behind_is_not_finished(tmp_path: Path) -> None:
    finished = []

    def objective(trial: Trial) -> float:
        level = 1.0 if trial.number < 5 else 0.0
        for epoch in range(1, 11):
            trial.report(epoch, level * epoch)
        finished.append(trial.number)
        return level

    search(tmp_path, 8, objective, space=SPACE_OF_TWO)
    assert finished == list(range(5))
    assert "pruned" in (tmp_path / "trials.csv").read_text()
    assert issubclass(Pruned, Exception)


@pytest.mark.parametrize("end", ["", "\n"], ids=["cut", "written on"])
def test_a_torn_last_line_is_cut_off(end: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    search(tmp_path, 2, lambda trial: trial.number, space=SPACE_OF_TWO)
    journal = tmp_path / "tune.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines) + lines[-1][: len(lines[-1]) // 2] + end.encode())
    seen = []
    study = search(tmp_path, 4, lambda trial: seen.append(trial.number) or 1.0, space=SPACE_OF_TWO)
    assert seen == [2, 3]
    assert [trial.value for trial in study.trials] == [0, 1, 1, 1]
    assert "the last line was not written to its end and is cut off" in caplog.text
    assert journal.read_bytes().startswith(b"".join(lines))
    caplog.clear()
    search(tmp_path, 5, lambda trial: 1.0, space=SPACE_OF_TWO)
    assert "cut off" not in caplog.text, "it is whole again"


def test_a_torn_line_among_others_is_named_and_its_remedy_works(tmp_path: Path) -> None:
    search(tmp_path, 3, lambda trial: trial.number, space=SPACE_OF_TWO)
    journal = tmp_path / "tune.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    place = len(lines) - 8
    journal.write_bytes(b"".join([*lines[:place], lines[place][:9], *lines[place:]]))
    with pytest.raises(ConfigError, match=rf"tune\.journal: line {place + 1} is damaged.*head -n {place}\)") as caught:
        search(tmp_path, 4, lambda trial: 1.0, space=SPACE_OF_TWO)
    assert "another --name" in str(caught.value)
    assert not (tmp_path / "tune.journal.lock").exists()
    journal.write_bytes(b"".join(lines[:place]))
    assert len(search(tmp_path, 4, lambda trial: 1.0, space=SPACE_OF_TWO).trials) >= 4


def test_a_lock_that_a_killed_process_left_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search_module, "LOCK_SECONDS", 3)
    folder = Path("runs") / "search"
    folder.mkdir(parents=True)
    lock = folder / "tune.journal.lock"
    lock.touch()
    assert len(search(folder, 1, lambda trial: 1.0, space=SPACE_OF_TWO).trials) == 1
    assert not lock.exists()


WORKER = """
import sys
from pathlib import Path
from engine.search import search

def wait(trial):
    print(trial.number, flush=True)
    sys.stdin.readline()
    for epoch in range(5):
        trial.report(epoch, 1.0)
    return 1.0

search(Path(sys.argv[1]), 12, wait, space={"a.x": {"low": 0.0, "high": 1.0}})
"""
"""Each trial waits for a line, and after the last line for none."""


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", WORKER, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=ROOT, text=True, bufsize=1, **pipes)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal here")
def test_of_two_processes_that_share_a_search_one_may_be_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed, lives = start(tmp_path), start(tmp_path)
    try:
        first, other = int(killed.stdout.readline()), int(lives.stdout.readline())
        killed.stdin.write("\n")
        cut_off = int(killed.stdout.readline())
        lives.stdin.write("\n")
        second = int(lives.stdout.readline())
        killed.kill()
        rest, _ = lives.communicate(timeout=120)  # closes its stdin
    finally:
        killed.kill()
        lives.kill()
        killed.communicate()
    assert lives.returncode == 0, rest
    assert {first, other, cut_off, second, *map(int, rest.split())} == set(range(13)), "no trial is done twice"
    seen = []
    caplog.set_level("INFO")
    space = {"a.x": {"low": 0.0, "high": 1.0}}
    study = search(tmp_path, 14, lambda trial: seen.append(trial.number) or 2.0, space=space)
    assert f"Trial {cut_off} was cut off and does not count" in caplog.text
    assert seen == [13, 14], "twelve were finished by the two"
    assert [trial.number for trial in study.trials if trial.state.name != "COMPLETE"] == [cut_off]
    assert study.best_value == 2


def test_a_space_is_checked(tmp_path: Path) -> None:
    assert load_space(None) == SPACE
    path = tmp_path / "space.yaml"
    path.write_text("optimizer.lr: {low: 2, high: 1}\n")
    with pytest.raises(ConfigError, match="low 2 is not below high 1"):
        load_space(path)
    path.write_text("optimizer.lr: 3\n")
    with pytest.raises(ConfigError, match=r"expected \{low: A, high: B"):
        load_space(path)
