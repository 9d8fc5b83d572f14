"""A run that is killed anywhere ends, resumed, in the very same weights.

The short form runs with the suite. The long form, 50 runs on real images that last about a minute each:
python -m pytest -m slow tests/test_kill.py -s
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import train
from engine.run_log import SHARES
from utils.checkpoint import load_checkpoint
from utils.config import ROOT

TIMES = ("seconds", "images_per_second", *SHARES.values())
PARTS = ("optimizer", "scaler", "rng", "step", "epoch", "batch", "best", "best_epoch", "better_epoch", "ema_updates")


def start(arguments: list[str], log: Path) -> subprocess.Popen:
    """train.py in a process group of its own, which a kill takes whole, loader processes and all."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *arguments, "--device", "cpu", "--threads", "1"]
    with open(log, "a") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)


def finish(arguments: list[str], log: Path) -> None:
    code = start(arguments, log).wait(1200)
    assert code == 0, log.read_text()


def fingerprint(run: Path) -> dict[str, str]:
    """SHA-256 of what must not depend on kills: weights, EMA, optimizer, the table of losses and APs, the figures."""
    state = load_checkpoint(run / "weights" / "last.pt")
    best = load_checkpoint(run / "weights" / "best.pt")
    with open(run / "results.csv", newline="") as file:
        table = [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]
    figures = json.loads((run / "metrics.json").read_text())
    figures.pop("speed_ms")
    parts = {
        "weights": state["weights"],
        "ema": state["ema"],
        "optimizer": [state[key] for key in PARTS],
        "best": [best["ema"], best["epoch"]],
        "results": table,
        "metrics": figures,
    }
    return {name: digest(value) for name, value in parts.items()}


def digest(value: object) -> str:
    """SHA-256 over plain values and the bytes of tensors, in order."""
    total = hashlib.sha256()

    def add(part: object) -> None:
        if isinstance(part, torch.Tensor):
            total.update(f"{part.dtype}{tuple(part.shape)}".encode() + part.contiguous().numpy().tobytes())
        elif isinstance(part, dict):
            for key, inner in part.items():
                total.update(repr(key).encode())
                add(inner)
        elif isinstance(part, list | tuple):
            for inner in part:
                add(inner)
        else:
            total.update(repr(part).encode())

    add(value)
    return total.hexdigest()


def killed_after(run: Path, arguments: list[str], seconds: float, log: Path, *, rows: int = -1) -> str:
    """Start the run, kill it so long after its folder has appeared, and resume it; says where the kill hit.

    Args:
        rows: of its table that are waited for first; 0 waits for a checkpoint.
    """
    process = start(arguments, log)
    deadline = time.monotonic() + 120
    while not is_so_far(run, rows) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(seconds)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    where = where_it_was(run)
    assert (run / "config.yaml").is_file(), log.read_text()
    finish(["--resume", str(run), "--workers", "1"], log)
    return where


def is_so_far(run: Path, rows: int) -> bool:
    """Whether a run has so many rows in its table; 0: a checkpoint, -1: a folder."""
    if rows <= 0:
        return (run / ("config.yaml" if rows else "weights/last.pt")).is_file()
    table = run / "results.csv"
    return table.is_file() and len(table.read_text().splitlines()) > rows


def where_it_was(run: Path) -> str:
    """What a killed run was doing, by what it left behind."""
    if (run / "metrics.json").is_file():
        return "finished"
    if list((run / "weights").glob(".*")):
        return "writing a checkpoint"
    if not (run / "weights" / "last.pt").is_file():
        return "before the first checkpoint"
    epoch, batch = (load_checkpoint(run / "weights" / "last.pt")[key] for key in ("epoch", "batch"))
    return f"after the checkpoint of epoch {epoch}, batch {batch}"


def test_killed_at_two_moments_and_resumed_it_is_the_same_run(
    tiny_coco: Path, tiny_model: Path, tmp_path: Path
) -> None:
    common = ["--cfg", str(tiny_model), "--data", str(tiny_coco), "--project", str(tmp_path), "--workers", "1"]
    common += ["--epochs", "8", "--batch-size", "4", "--set", "save_minutes=0.0002", "--set", "augment.mixup=0.3"]
    assert train.main([*common, "--name", "whole", "--device", "cpu", "--threads", "1"]) == 0
    expected = fingerprint(tmp_path / "whole")
    for rows in (0, 5):
        run = tmp_path / f"killed{rows}"
        log = tmp_path / f"{run.name}.log"
        where = killed_after(run, [*common, "--name", run.name], 0.05, log, rows=rows)
        assert where not in ("finished", "before the first checkpoint"), "the kill was too late or too early"
        assert fingerprint(run) == expected, log.read_text()
        assert f"Continuing {run} after epoch" in log.read_text()


@pytest.mark.slow
def test_fifty_kills_on_real_images(shared: Path, tmp_path: Path) -> None:
    """Prints each kill with where it hit; the moments are random, by a seed that is printed."""
    data = shared / "data" / "bccd" / "data.yaml"
    common = ["--cfg", "cspdet-n", "--data", str(data), "--project", str(tmp_path), "--workers", "1", "--epochs", "3"]
    common += ["--img-size", "96", "--batch-size", "16", "--set", "save_minutes=0.03", "--set", "augment.mixup=0.2"]
    begin = time.monotonic()
    finish([*common, "--name", "whole"], tmp_path / "whole.log")
    span = time.monotonic() - begin - 5
    expected = fingerprint(tmp_path / "whole")
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6)))
    count = int(os.environ.get("KILL_COUNT", 50))
    moments = [random.Random(f"{seed} {number}").uniform(0, span) for number in range(count)]
    print(f"\nwhole run {span + 5:.0f} s; seed {seed}; weights {expected['weights']}, EMA {expected['ema']}")

    def trial(number: int) -> bool:
        run = tmp_path / f"killed{number}"
        where = killed_after(run, [*common, "--name", run.name], moments[number], tmp_path / f"{run.name}.log")
        same = fingerprint(run) == expected
        print(f"{number + 1:3}: killed {moments[number]:5.1f} s in, {where}: {'same' if same else 'DIFFERENT'}")
        return same

    with ThreadPoolExecutor(2) as pool:
        same = list(pool.map(trial, range(count)))
    print(f"{sum(same)} of {count} equal the uninterrupted run")
    assert all(same)
