"""A process that fails ends all of them within a minute, with its error, wherever they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import distributed

from tests.torchrun import launch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not distributed.is_gloo_available(), reason="this PyTorch has no gloo"),
]

GONE = "shared disk is gone; mount it again"
PLACES = [("scan", 1), ("scan", 0), ("step", 1), ("step", 0), ("evaluation", 1), ("count", 0), ("save", 0)]
PLACES = [(*place, 1) for place in PLACES] + [("scan", 1, 2), ("step", 1, 2), ("count", 0, 2)]
"""Phase, rank, and over how many machines the two processes are spread."""


@pytest.fixture
def command(tiny_coco: Path, tiny_model: Path, tmp_path: Path) -> list[str]:
    about = ["--cfg", str(tiny_model), "--data", str(tiny_coco), "--device", "cpu", "--threads", "1", "--workers", "1"]
    return [*about, "--epochs", "2", "--batch-size", "4", "--set", "amp=off", "--project", str(tmp_path / "runs")]


@pytest.mark.parametrize("kind", ["raise", "kill"])
@pytest.mark.parametrize(("phase", "rank", "machines"), PLACES)
def test_all_end_with_the_error_of_one(
    command: list[str], tmp_path: Path, phase: str, rank: int, kind: str, machines: int
) -> None:
    fault = {"phase": phase, "kind": kind, "ranks": [rank]}
    ended = launch(tmp_path / "launch", command, fault, processes=2 // machines, machines=machines)
    print(f"{phase}, {kind} on rank {rank}, {machines} machines: {ended.seconds:.1f} s")
    assert all(code != 0 for code in ended.codes), ended.log
    assert ended.seconds < 60
    assert "]: Traceback" not in ended.log
    if kind == "raise":
        assert len(ended.errors) == 1, ended.log
        assert ended.errors[0] == f"error: {f'[rank {rank}] ' if rank else ''}{GONE}"
    else:  # torchrun says it too, and on one machine may end the other process before that does
        assert "(SIGKILL)" in ended.log
        assert all(f"[rank {rank}] ended without a word" in error for error in ended.errors), ended.log
        assert len(ended.errors) == 1 or phase == "scan" or machines == 1


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [([0, 1, 2], {f"error: {GONE}"}), ([1, 2], {f"error: [rank 1] {GONE}", f"error: [rank 2] {GONE}"})],
)
def test_what_all_end_with_is_said_once(
    command: list[str], tmp_path: Path, ranks: list[int], expected: set[str]
) -> None:
    fault = {"phase": "scan", "kind": "raise", "ranks": ranks}
    ended = launch(tmp_path / "launch", [*command, "--batch-size", "6"], fault, processes=3)
    assert ended.codes == [1]
    assert len(ended.errors) == 1, ended.log
    assert ended.errors[0] in expected
    assert ended.seconds < 60


def test_what_differs_is_said_by_each(command: list[str], tmp_path: Path) -> None:
    fault = {"phase": "scan", "kind": "raise", "ranks": [0, 1], "text": "no disk in machine {rank}"}
    ended = launch(tmp_path / "launch", command, fault)
    errors = sorted(error.replace("[rank 0] ", "") for error in ended.errors)  # it may have been the first
    assert errors == ["error: [rank 1] no disk in machine 1", "error: no disk in machine 0"]


def test_a_mistake_of_the_program_shows_its_traceback_and_ends_all(command: list[str], tmp_path: Path) -> None:
    ended = launch(tmp_path / "launch", command, {"phase": "step", "kind": "bug", "ranks": [1]})
    assert ended.codes == [1]
    assert ended.log.count("KeyError: 'an error of the program'") == 1
    assert ended.seconds < 60


@pytest.mark.parametrize(("phase", "rank"), [("scan", 0), ("scan", 1), ("count", 0)])
def test_what_takes_long_without_a_fault_is_waited_for(
    command: list[str], tmp_path: Path, phase: str, rank: int
) -> None:
    """Longer than collectives may take: reading the data, before the process group; and rank 0's counting."""
    fault = {"phase": phase, "kind": "slow", "seconds": 8, "timeout": 3, "ranks": [rank]}
    ended = launch(tmp_path / "launch", command, fault)
    assert ended.codes == [0], ended.log


def test_a_process_that_hangs_in_a_step_ends_all_at_the_timeout(command: list[str], tmp_path: Path) -> None:
    fault = {"phase": "step", "kind": "slow", "seconds": 90, "timeout": 3, "ranks": [1], "call": 2}
    ended = launch(tmp_path / "launch", command, fault)
    assert ended.codes == [1]
    assert ended.seconds < 60
    assert "error: no answer from the other processes (Timed out waiting 3000ms for" in ended.log
