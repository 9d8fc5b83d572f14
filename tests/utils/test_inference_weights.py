"""utils/inference_weights.py: best.pt of a training that has ended has what inference needs, and --resume says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from utils import inference_weights
from utils.checkpoint import TRAINING, load_checkpoint, repair_, save_checkpoint
from utils.config import ConfigError
from utils.inference_weights import check_goes_on, keep_inference_

STATE = {
    **{key: {"a": torch.ones(2000)} for key in TRAINING},
    "ema": {"a": torch.arange(2000.0)},
    "optimizer": {"state": {}, "param_groups": [{}]},
    "rng": {"cpu": torch.zeros(8, dtype=torch.uint8)},
    "sums": {},
    "ema_updates": 3,
    "sample_order": 2,
    "step": 7,
    "epoch": 3,
    "names": ["x"],
}


@pytest.fixture
def weights(tmp_path: Path) -> tuple[Path, Path]:
    """last.pt and best.pt of a run, one file of two names."""
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    save_checkpoint(last, STATE, best=best)
    return last, best


def test_best_gets_small_and_last_stays_as_it_is(weights: tuple[Path, Path]) -> None:
    last, best = weights
    before = last.read_bytes()
    keep_inference_(best, calibration={"temperature": 1.5})
    assert last.read_bytes() == before
    state = load_checkpoint(best)
    assert state.keys() == STATE.keys() - set(TRAINING) | {"format", "is_best", "calibration"}
    assert torch.equal(state["ema"]["a"], STATE["ema"]["a"])
    assert (state["step"], state["calibration"]) == (7, {"temperature": 1.5})
    assert best.stat().st_size < 0.6 * last.stat().st_size
    assert sorted(path.name for path in last.parent.iterdir()) == ["best.pt", "last.pt"]
    written = best.stat().st_mtime_ns
    keep_inference_(best, calibration={"temperature": 1.5})
    keep_inference_(best)
    assert best.stat().st_mtime_ns == written, "nothing is left to do"
    repair_(last, best)
    assert load_checkpoint(best).keys() == state.keys(), "a run that goes on leaves it"


def test_a_kill_while_it_is_written_leaves_the_whole_file_of_before(
    weights: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    last, best = weights
    with monkeypatch.context() as patch:
        patch.setattr(inference_weights.torch, "save", lambda _, file: file.write(b"half") and os._exit(0))
        if (child := os.fork()) == 0:
            keep_inference_(best)
    os.waitpid(child, 0)
    assert "optimizer" in load_checkpoint(best)
    assert len(list(last.parent.iterdir())) == 3, "what the kill left behind"
    repair_(last, best)
    assert sorted(path.name for path in last.parent.iterdir()) == ["best.pt", "last.pt"]
    keep_inference_(best)
    assert "optimizer" not in load_checkpoint(best)


def test_a_full_disk_leaves_the_larger_file_and_is_told(
    weights: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, best = weights

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inference_weights, "write_atomically", full)
    keep_inference_(best)
    assert "optimizer" in load_checkpoint(best)
    assert f"{best} keeps what --resume needs too" in caplog.text


def test_resume_is_refused_with_the_file_to_take(weights: tuple[Path, Path]) -> None:
    last, best = weights
    check_goes_on(best, last)
    keep_inference_(best)
    check_goes_on(last, last)
    check_goes_on(last.with_name("gone.pt"), last)
    with pytest.raises(ConfigError, match=r"best\.pt: the training has ended.*needs is in (.*last\.pt): --resume \1"):
        check_goes_on(best, last)
    last.unlink()
    with pytest.raises(ConfigError, match=r"no whole .*last\.pt to go on from; start a new run .*--weights .*best\.pt"):
        check_goes_on(best, last)
