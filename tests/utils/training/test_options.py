"""utils/training/options.py: what --epochs and --batch-size mean."""

from __future__ import annotations

import pytest

from utils.training.options import parse_train_args, total_epochs


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
        parse_train_args(options)
    assert "expected a whole number from 1" in capsys.readouterr().err


def test_a_batch_size_may_be_found_by_trial() -> None:
    assert parse_train_args(["--batch-size", "auto"]).batch_size == "auto"
    assert parse_train_args(["--batch-size", "4"]).batch_size == 4
