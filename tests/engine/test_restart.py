"""Which run a launch that torchrun has restarted goes on with."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.restart import continued, note_launch

Start = Callable[..., None]


@pytest.fixture
def args(tmp_path: Path) -> Namespace:
    return Namespace(project=str(tmp_path), cfg="a.yaml", epochs="3", set=["amp=off"], resume=None, dry_run=False)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Become a process that some torchrun starts, or no torchrun."""

    def start(agent: str | None, *, attempt: int = 0, process: int = 1) -> None:
        for name in ("LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_ERROR_FILE"):
            monkeypatch.delenv(name, raising=False)
        if agent is not None:
            monkeypatch.setenv("LOCAL_RANK", "0")
            monkeypatch.setenv("WORLD_SIZE", "1")
            monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", agent and f"/tmp/x/{agent}/attempt_{attempt}/0/error.json")
        monkeypatch.setattr(os, "getpid", lambda: process)

    return start


@pytest.fixture
def run(start: Start, args: Namespace, tmp_path: Path) -> Path:
    """Begun by process 1 of a torchrun without a run id."""
    folder = tmp_path / "exp"
    folder.mkdir()
    start("none_abc")
    note_launch(folder, args)
    return folder


def test_a_restarted_launch_goes_on_with_its_run_again_and_again(start: Start, args: Namespace, run: Path) -> None:
    for attempt in (1, 2):
        start("none_abc", attempt=attempt, process=1 + attempt)
        found = continued(args)
        assert (found.resume, found.cfg, found.epochs, found.set) == (str(run), None, None, [])
        note_launch(run, found)


@pytest.mark.parametrize("agent", ["none_xyz", "", None])
def test_another_launch_begins_anew(start: Start, args: Namespace, run: Path, agent: str | None) -> None:
    """Of the same run id and command; without a folder for torchrun's error files; without torchrun."""
    start(agent, attempt=1, process=2)
    assert continued(args) is args


def test_another_command_or_the_same_process_begins_anew(start: Start, args: Namespace, run: Path) -> None:
    start("none_abc", process=1)
    assert continued(args) is args
    start("none_abc", attempt=1, process=2)
    other = Namespace(**{**vars(args), "cfg": "b.yaml"})
    assert continued(other) is other


def test_nothing_is_noted_without_torchrun_or_in_a_dry_run(start: Start, args: Namespace, tmp_path: Path) -> None:
    start(None)
    note_launch(tmp_path, args)
    start("none_abc")
    note_launch(tmp_path, Namespace(**{**vars(args), "dry_run": True}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[]", '{"command": {}}', '{"command": {}, "agents": []}'])
def test_a_damaged_note_is_passed_over(start: Start, args: Namespace, run: Path, content: str) -> None:
    (run / "launch.json").write_text(content)
    start("none_abc", attempt=1, process=2)
    assert continued(args) is args
