"""torchrun --max-restarts: a killed process costs the steps since the last checkpoint, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import distributed

from tests.test_train import assert_same_run
from tests.torchrun import launch
from utils.checkpoint import load_checkpoint

pytestmark = pytest.mark.skipif(not distributed.is_gloo_available(), reason="this PyTorch has no gloo")


@pytest.fixture
def command(tiny_coco: Path, tiny_model: Path) -> list[str]:
    """Three epochs of two steps, each with a checkpoint."""
    about = ["--cfg", str(tiny_model), "--data", str(tiny_coco), "--device", "cpu", "--threads", "1", "--workers", "0"]
    return [*about, "--epochs", "3", "--batch-size", "4", "--set", "amp=off", "--set", "save_minutes=0"]


def test_a_killed_process_is_started_again_and_the_run_goes_on_by_itself(command: list[str], tmp_path: Path) -> None:
    """Killed before the second step of the second epoch: the weights are those of a run that nobody killed."""
    kill = {"phase": "step", "kind": "kill", "ranks": [1], "call": 4}
    whole = launch(tmp_path / "whole", [*command, "--project", str(tmp_path / "whole")], {**kill, "ranks": []})
    assert whole.codes == [0], whole.log
    # An older run of that name, by the same command: not of this launch.
    older = tmp_path / "killed" / "exp"
    older.mkdir(parents=True)
    note = json.loads((tmp_path / "whole" / "exp" / "launch.json").read_text())
    (older / "launch.json").write_text(json.dumps({**note, "command": {**note["command"], "project": str(older)}}))
    arguments = [*command, "--project", str(tmp_path / "killed")]
    killed = launch(tmp_path / "killed", arguments, kill, options=["--max-restarts", "2"])
    assert killed.codes == [0], killed.log
    run = tmp_path / "killed" / "exp2"
    assert killed.log.count(f"torchrun has restarted this training: continuing {run}") == 1
    assert "Continuing" in killed.log
    assert killed.log.count("after epoch 1, batch 1") == 1
    assert load_checkpoint(run / "weights" / "last.pt")["step"] == 6
    assert_same_run(tmp_path / "whole" / "exp", run)
    assert not (tmp_path / "killed" / "exp3").exists()
