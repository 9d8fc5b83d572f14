"""train.py --tune by two processes that share a folder, one of them killed: real trainings, tiny.

About a minute. tests/engine/test_tune.py does the same with trials that only wait.
python -m pytest -m slow tests/test_tune_shared.py
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from tests.test_kill import finish, start

DEADLINE = 300
"""Seconds that anything here may take on a busy machine."""


def trials_of(folder: Path, process: subprocess.Popen) -> list[FrozenTrial]:
    """What a process has done in a search so far; read without a change to the journal."""
    journal = folder / "tune.journal"
    if not journal.is_file() or not journal.stat().st_size:
        return []
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    trials = optuna.load_study(study_name="cspdet", storage=storage).trials if storage.get_all_studies() else []
    return [trial for trial in trials if trial.user_attrs.get("process") == process.pid]


def wait_until_it_trains(folder: Path, process: subprocess.Popen, log: Path) -> int:
    """The number of a trial that the process is in the middle of: its first checkpoint is there."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and process.poll() is None:
        for trial in trials_of(folder, process):
            begun = (folder / f"trial-{trial.number}" / "weights" / "last.pt").exists()
            if begun and trial.state == TrialState.RUNNING:
                return trial.number
        time.sleep(0.02)
    raise AssertionError(f"no trial to kill: {log.read_text()}")


@pytest.mark.slow
def test_two_processes_share_a_search_and_one_is_killed(tiny_coco: Path, tiny_model: Path, tmp_path: Path) -> None:
    space, folder = tmp_path / "space.yaml", tmp_path / "search"
    space.write_text("optimizer.lr: {low: 0.001, high: 0.1, log: true}\n")
    command = ["--cfg", str(tiny_model), "--data", str(tiny_coco), "--img-size", "64", "--workers", "0"]
    command += ["--epochs", "16", "--batch-size", "4", "--project", str(tmp_path), "--name", "search"]
    command += ["--tune-space", str(space)]
    logs = [tmp_path / f"{name}.log" for name in ("killed", "lives", "later")]
    killed, lives = (start([*command, "--tune", "2"], log) for log in logs[:2])
    try:
        wait_until_it_trains(folder, lives, logs[1])
        cut_off = wait_until_it_trains(folder, killed, logs[0])
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        assert lives.wait(DEADLINE) == 0, logs[1].read_text()
    finally:
        for process in (killed, lives):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert states(folder)[cut_off] == "running", "nobody is left to say what became of it"
    done = counted(folder)
    assert len(done) == 2
    finish([*command, "--tune", str(len(done) + 1)], logs[2])
    assert f"Trial {cut_off} was cut off and does not count" in logs[2].read_text()
    assert states(folder)[cut_off] == "fail"
    assert len(counted(folder)) == 3
    assert done < counted(folder)
    assert (folder / "best.yaml").is_file()


def states(folder: Path) -> dict[int, str]:
    with open(folder / "trials.csv", newline="") as file:
        return {int(row["trial"]): row["state"] for row in csv.DictReader(file)}


def counted(folder: Path) -> set[int]:
    return {number for number, state in states(folder).items() if state in ("complete", "pruned")}
