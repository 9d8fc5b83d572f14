"""engine/options.py: what --epochs and --batch-size mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.options import resolve, total_epochs
from train import parse_args
from utils.config import ConfigError


def test_epochs_are_a_number_or_an_addition() -> None:
    assert total_epochs(None) is None
    assert total_epochs("7") == total_epochs("7", planned=3) == 7
    assert total_epochs("+7", planned=3) == 10
    with pytest.raises(ValueError, match=r"--epochs \+7: '\+N' adds to a run that --resume names"):
        total_epochs("+7")


@pytest.mark.parametrize(
    "options", [["--epochs", "0"], ["--epochs", "+0"], ["--epochs", "++2"], ["--batch-size", "all"]]
)
def test_what_is_no_number_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_args(options)
    assert "expected a whole number from 1" in capsys.readouterr().err


def test_a_batch_size_may_be_found_by_trial() -> None:
    assert parse_args(["--batch-size", "auto"]).batch_size == "auto"
    assert parse_args(["--batch-size", "4"]).batch_size == 4


def test_a_seed_of_zero_is_given_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"leave out --seed$"):
        resolve(parse_args(["--resume", str(tmp_path), "--seed", "0"]))


def test_data_alone_is_enough(tiny_coco: Path) -> None:
    config, _ = resolve(parse_args(["--data", str(tiny_coco)]))
    assert config.recipe.epochs == "auto"
    named, _ = resolve(parse_args(["--data", str(tiny_coco), "--cfg", "cspdet-n", "--hyp", "default"]))
    assert config == named
