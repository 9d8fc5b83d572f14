"""Processes that are stopped, killed or interrupted: the commands end in bounded time, and runs go on at once."""

# ruff: noqa: F811 (fixtures of another file)

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import train
from tests.test_train import command, cpu, quick, rows  # noqa: F401
from utils import lock
from utils.checkpoint import load_checkpoint
from utils.config import ROOT

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds loader processes as Linux does")

PATIENCE = 4
"""Seconds that the trainings here wait for a batch."""

COMMANDS = [
    ["train.py"],
    ["val.py"],
    ["detect.py", "--source", "x.jpg"],
    ["export.py", "--format", "onnx"],
    ["-m", "data.doctor", "x.yaml"],
    ["-m", "data.convert", "a", "b", "--to", "yolo"],
    ["-m", "data.anchors", "x.yaml"],
    ["-m", "utils.report", "x"],
    ["-m", "utils.info", "x"],
    ["-m", "models.benchmark"],
]

OTHERS = ("spawn", "forkserver")
"""Ways to start a process that take long."""

LOADERS = """
import multiprocessing, sys, time
from data.watched_loader import WatchedLoader
multiprocessing.set_start_method(sys.argv[1])
batches = iter(WatchedLoader(range(1000), num_workers=3, batch_size=2, collate_fn=list))
for _ in range(6):
    next(batches)
print(*(each.pid for each in batches.workers), flush=True)
time.sleep(600)
"""

ASKED = """
import multiprocessing, os, subprocess, sys
from data.watched_loader import WatchedLoader
multiprocessing.set_start_method(sys.argv[1])
batches = iter(WatchedLoader(range(1000), num_workers=1, batch_size=2, collate_fn=list))
next(batches)
worker = batches.workers[0]
subprocess.run([sys.executable, "-S", "-c", f"import os; os.kill({worker.pid}, 15)"], check=True)
worker.join(0.5)
print(worker.exitcode)
worker.terminate()
worker.join(30)
print(worker.exitcode)
"""


def children(process: int) -> list[int]:
    """Ids of the child processes."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(number) for task in tasks for number in task.read_text().split()]


def alive(process: int) -> bool:
    """Whether a process is there, and no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "that takes too long"
        time.sleep(0.05)


@pytest.fixture
def patience() -> int:
    """Seconds that a training waits for a batch."""
    return PATIENCE


@pytest.fixture
def running(command: list[str], tmp_path: Path, patience: int) -> Iterator[subprocess.Popen]:
    """A training with two loader processes that would take for ever, after its first epoch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    arguments = [*command, *cpu(workers=2), "--epochs", "100000", "--set", f"worker_timeout={patience}"]
    arguments += ["--set", "evaluation.interval=100000"]
    log = tmp_path / "log.txt"
    with open(log, "w") as out:
        line = [sys.executable, str(ROOT / "train.py"), *arguments]
        process = subprocess.Popen(line, stdout=out, stderr=out, env=environment, start_new_session=True)
    last = tmp_path / "runs" / "exp" / "weights" / "last.pt"
    try:
        wait_until(lambda: last.is_file() or process.poll() is not None, 120)
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def shorten(run: Path) -> int:
    """Plan a run for one more epoch than it has; returns their number."""
    epochs = load_checkpoint(run / "weights" / "last.pt")["epoch"] + 1
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("epochs: 100000", f"epochs: {epochs}"))
    return epochs


def test_loader_processes_that_are_stopped_end_the_run_in_bounded_time(
    running: subprocess.Popen, tmp_path: Path
) -> None:
    loaders = children(running.pid)
    assert len(loaders) >= 2
    begin = time.monotonic()
    for loader in loaders:
        os.kill(loader, signal.SIGSTOP)
    assert running.wait(60) == 2
    assert time.monotonic() - begin < 30
    text = (tmp_path / "log.txt").read_text()
    assert f"error: no batch came from the loader processes for {PATIENCE} s: is a disk or network drive stuck?" in text
    assert "The last checkpoint is whole; to go on from it: python train.py --resume" in text
    assert "Traceback" not in text
    assert not any(map(alive, loaders))


@pytest.mark.parametrize("number", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_loader_process_that_is_killed_at_any_time_is_named(
    running: subprocess.Popen, tmp_path: Path, number: int
) -> None:
    time.sleep(0.1 * number)
    os.kill(children(running.pid)[-1], signal.SIGKILL)
    assert running.wait(60) == 2
    text = (tmp_path / "log.txt").read_text()
    assert "error: a loader process was killed, by somebody or by the system for want of memory" in text, text[-1500:]
    assert "ended without a word" not in text


@pytest.mark.usefixtures("quick")
def test_a_second_process_is_refused_and_after_kill_9_the_run_goes_on_at_once(
    running: subprocess.Popen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "exp"
    with monkeypatch.context() as patched:
        patched.setattr(lock, "PATIENCE_SECONDS", 0.3)
        assert train.main(["--resume", str(run), *cpu()]) == 2
    assert f"error: {run}: is being trained by process {running.pid} on " in capsys.readouterr().err
    assert running.poll() is None, "and the first goes on"
    loaders = children(running.pid)
    os.kill(running.pid, signal.SIGKILL)
    wait_until(lambda: not alive(running.pid), 20)
    epochs = shorten(run)
    assert train.main(["--resume", str(run), *cpu(workers=1)]) == 0
    assert len(rows(run)) == epochs
    wait_until(lambda: not any(map(alive, loaders)), 10)


def test_loader_processes_that_are_stopped_end_with_a_training_that_is_killed(running: subprocess.Popen) -> None:
    loaders = children(running.pid)
    assert len(loaders) >= 2
    for loader in loaders[:1]:
        os.kill(loader, signal.SIGSTOP)
    os.kill(running.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, loaders)), 10)


@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(m, marks=pytest.mark.slow) for m in ("spawn", "forkserver"))]
)
def test_every_kind_of_loader_process_ends_with_its_parent(method: str) -> None:
    command = [sys.executable, "-c", LOADERS, method]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        loaders = [int(number) for number in process.stdout.readline().split()]
        assert len(loaders) == 3
        for loader in loaders:
            os.kill(loader, signal.SIGSTOP)
        process.kill()
        wait_until(lambda: not any(map(alive, loaders)), 10)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize(
    "method", ["forkserver", *(pytest.param(m, marks=pytest.mark.slow) for m in ("fork", "spawn"))]
)
def test_every_kind_of_loader_process_ends_when_its_trainer_asks_alone(method: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", ASKED, method], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert process.stdout == "None\n0\n", process.stdout + process.stderr


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:2]))
def test_ctrl_c_during_start_up_leaves_no_traceback(arguments: list[str], tmp_path: Path) -> None:
    for seconds in (0.3, 1.2):
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
        assert "Traceback" not in error
        assert "KeyboardInterrupt" not in error
        assert process.returncode in (-signal.SIGINT, 130) or (process.returncode, "error: " in error) == (2, True)


def cpu_seconds(process: int) -> float:
    """Time that a process has computed for."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_it_waits(process: int) -> None:
    """Until a process has computed next to nothing for a second."""
    deadline, before = time.monotonic() + 60, -1.0
    while (now := cpu_seconds(process)) - before > 0.05:
        assert time.monotonic() < deadline, "it goes on and on"
        before = now
        time.sleep(1.0)


@pytest.mark.parametrize("patience", [600])
def test_ctrl_c_twice_ends_a_training_that_waits_and_says_what_is_left(
    running: subprocess.Popen, tmp_path: Path
) -> None:
    for loader in children(running.pid):
        os.kill(loader, signal.SIGSTOP)
    wait_until_it_waits(running.pid)  # for a batch, and would for 600 seconds
    os.killpg(running.pid, signal.SIGINT)
    time.sleep(1.0)
    os.killpg(running.pid, signal.SIGINT)  # too soon: a cluster tells every process of a job, and torchrun once more
    time.sleep(3.0)
    assert running.poll() is None, "the first asks it to save after the step, which never ends"
    text = (tmp_path / "log.txt").read_text()
    assert "error" not in text
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(30) == 130
    text = (tmp_path / "log.txt").read_text()
    assert "error: stopped at once\n  The last checkpoint is whole; to go on from it: python train.py --resume" in text
    assert "Stopped and saved" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "name", ["SIGINT", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGTERM", "SIGHUP"))]
)
def test_a_signal_to_every_process_saves_and_ends(running: subprocess.Popen, tmp_path: Path, name: str) -> None:
    """Ctrl-C, a cluster, and a terminal that is closed."""
    number = getattr(signal, name)
    os.killpg(running.pid, number)
    assert running.wait(60) == 128 + number
    text = (tmp_path / "log.txt").read_text()
    assert "Stopped and saved. Continue with: python train.py --resume" in text
    assert "error" not in text
    assert "Traceback" not in text


GIVEN_UP = """
import sys, time
from data.watched_loader import _given_up_after
with _given_up_after(4):
    print("waits", flush=True)
    for _ in range(20):
        time.sleep(0.1)
"""


def test_time_in_which_a_process_is_stopped_does_not_count_as_patience() -> None:
    process = subprocess.Popen([sys.executable, "-c", GIVEN_UP], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0


def test_a_training_outlives_the_reader_of_its_output(command: list[str], tmp_path: Path) -> None:
    arguments = [*command, *cpu(workers=1), "--epochs", "2", "--set", "augment.mosaic=0"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    process.wait(120)
    assert len(rows(tmp_path / "runs" / "exp")) == 2
    assert (tmp_path / "runs" / "exp" / "metrics.json").is_file()
    assert "Traceback" not in error, error
