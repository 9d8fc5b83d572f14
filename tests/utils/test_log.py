"""utils/log.py: results.csv stays whole through kills and resumes."""

from __future__ import annotations

import csv
import errno
import io
import logging
import math
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from utils import log as log_module
from utils.config import ConfigError
from utils.files import FileHeld
from utils.jpeg import encoded
from utils.log import MetricLog, Progress, duration, say, say_error, setup_logging
from utils.results import columns_of, read_results


def read(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_read_back_exactly(tmp_path: Path) -> None:
    log = MetricLog(tmp_path)
    values = {"loss/box": 1 / 3, "AP": None, "lr": 1e-17, "images": 12}
    log.log(1, values)
    log.log(2, {**values, "AP": np.float64(0.1)})
    log.close()
    rows = read(tmp_path)
    assert list(rows[0]) == ["epoch", *values]
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[0]["loss/box"]) == 1 / 3
    assert float(rows[0]["lr"]) == 1e-17
    assert rows[0]["AP"] == ""
    assert float(rows[1]["AP"]) == 0.1
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert not list(tmp_path.glob(".*")), "no temporary file is left"


class _AsyncWriterThread(threading.Thread):
    """Named as TensorBoard's."""


def test_only_tensorboards_disk_errors_are_told_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    setup_logging()
    for kind, error in ((_AsyncWriterThread, OSError("full")), (_AsyncWriterThread, KeyError("a"))):
        threading.excepthook(threading.ExceptHookArgs((type(error), error, None, kind(name="writer"))))
    error = OSError("other")
    threading.excepthook(threading.ExceptHookArgs((OSError, error, None, threading.Thread(name="mine"))))
    told = capsys.readouterr().err
    assert "full" not in told
    assert "Exception in thread writer" in told
    assert "Exception in thread mine" in told


def test_pictures_are_in_tensorboard_as_the_files_that_they_are(tmp_path: Path) -> None:
    path = tmp_path / "labels.jpg"
    path.write_bytes(encoded(np.full((30, 50, 3), 90, np.uint8), quality=80))
    log = MetricLog(tmp_path)
    log.pictures([path])
    log.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    (image,) = events.Images("labels")
    assert (image.encoded_image_string, image.height, image.width) == (path.read_bytes(), 30, 50)


def test_rows_of_epochs_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    log = MetricLog(tmp_path)
    for epoch in (1, 2, 3):
        log.log(epoch, {"loss": float(epoch)})
    log.close()
    log = MetricLog(tmp_path, finished_epochs=1)
    log.log(2, {"loss": 20.0, "AP": 0.5})
    log.close()
    rows = read(tmp_path)
    assert [(row["epoch"], row["loss"], row["AP"]) for row in rows] == [("1", "1.0", ""), ("2", "20.0", "0.5")]


def test_a_fresh_run_starts_a_fresh_table_and_a_damaged_one_is_mended(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("epoch,loss\n1,0.5\n2,0.4\nthree,0.3\n,\n4\n")
    log = MetricLog(tmp_path, finished_epochs=2)
    log.log(3, {"loss": 0.2})
    log.close()
    assert [(row["epoch"], row["loss"]) for row in read(tmp_path)] == [("1", "0.5"), ("2", "0.4"), ("3", "0.2")]


def test_progress_speaks_now_and_then_and_never_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "utils.log")
    with Progress(4, "Work", start=1, every=0.0) as progress:
        for _ in range(3):
            progress.advance("note")
    assert [record.getMessage().split(", ")[0] for record in caplog.records] == ["Work: 2/4", "Work: 3/4"]
    caplog.clear()
    with Progress(4, "Work", every=0.0, quiet=True) as progress:
        progress.advance()
    assert not caplog.records


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (9.4, "9s"), (59.6, "1m00s"), (245, "4m05s"), (3599.7, "1h00m"), (11221, "3h07m")]
)
def test_durations_read_naturally(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    "saved",
    [
        b"\xef\xbb\xbfepoch;loss/box;AP\r\n1;0,5;\r\n2;0,25;0,125\r\n",
        b"\xef\xbb\xbfepoch,loss/box,AP\r\n1,0.5,\r\n2,0.25,0.125\r\n",
        "epoch\tloss/box\tAP\r\n1\t0.5\t\r\n2\t2.5E-01\t0.125\r\n".encode("utf-16"),
        b"epoch;loss/box;AP\n1;0.5;\n2;0.25;0.125\n",
    ],
)
def test_a_table_that_a_spreadsheet_program_has_saved_is_read_back(tmp_path: Path, saved: bytes) -> None:
    (tmp_path / "results.csv").write_bytes(saved)
    assert columns_of(read_results(tmp_path / "results.csv"))["AP"][1] == 0.125
    log = MetricLog(tmp_path, finished_epochs=2)
    log.log(3, {"loss/box": 0.1, "AP": 1.0})
    log.close()
    rows = read(tmp_path)
    assert [float(row["loss/box"]) for row in rows] == [0.5, 0.25, 0.1]
    assert [row["AP"] and float(row["AP"]) for row in rows] == ["", 0.125, 1.0]
    assert not list(tmp_path.glob("results.old*"))


@pytest.mark.parametrize(
    ("saved", "reason"),
    [
        (b"epoch,loss\n1,\xff\xfe\n", "is not text in UTF-8"),
        (b"PK\x03\x04 a workbook", "expected a first line with the column 'epoch'|not one of"),
        (b"epoch,loss\n1,12-Mar\n", "line 2: loss: expected a number, found '12-Mar'"),
        (b"epoch,loss\nx,1\ny,2\n", "not one of 2 lines begins with the number of an epoch"),
    ],
)
def test_a_table_that_cannot_be_read_is_kept_beside_the_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, saved: bytes, reason: str
) -> None:
    for number in (1, 2):
        (tmp_path / "results.csv").write_bytes(saved)
        log = MetricLog(tmp_path, finished_epochs=2)
        log.log(3, {"loss": 0.1})
        log.close()
        assert (tmp_path / f"results.old{number}.csv").read_bytes() == saved
        assert [row["epoch"] for row in read(tmp_path)] == ["3"]
    assert re.search(reason, caplog.text)
    assert f"kept as {tmp_path / 'results.old1.csv'}" in caplog.text


def test_where_older_releases_wrote_minus_one_there_is_a_gap(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("epoch,loss/box,AP,AP50\n1,-1.0,-1.0,-1.0\n2,0.5,0.0,0.25\n")
    columns = columns_of(read_results(tmp_path / "results.csv"))
    assert math.isnan(columns["AP"][0])
    assert math.isnan(columns["AP50"][0])
    assert (columns["loss/box"][0], columns["AP"][1]) == (-1.0, 0.0)


@pytest.fixture
def own_logging() -> Iterator[None]:
    """The root logger as a command sets it up, for a while."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, threading.excepthook
    setup_logging()
    yield
    root.handlers[:], threading.excepthook = before[0], before[2]
    root.setLevel(before[1])


class Broken(io.StringIO):
    """A terminal or pipe whose other end is gone, or a file on a full disk."""

    def write(self, _: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def flush(self) -> None:
        self.write("")

    def isatty(self) -> bool:
        return True


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("stream", [None, Broken()])
def test_work_goes_on_where_its_log_cannot_be_written(monkeypatch: pytest.MonkeyPatch, stream: Broken | None) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    logging.getLogger("x").warning("text")
    with Progress(3, "Work") as progress:
        for _ in range(3):
            progress.advance("note")


def test_a_program_without_streams_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    say("result")
    say_error("mistake")


def test_a_result_that_cannot_be_printed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken())
    with pytest.raises(OSError, match="Input/output error"):
        say("result")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConfigError("a\nb: wrong", "and more"), "error: a\\nb: wrong\nand more\n"),
        (ValueError("a\nb: wrong"), "error: a\\nb: wrong\n"),
        (FileNotFoundError(2, "No such file", "a\nb"), "error: [Errno 2] No such file: 'a\\nb'\n"),
        ("two\n  lines", "error: two\n  lines\n"),
    ],
)
def test_errors_keep_only_the_lines_that_are_meant(
    error: object, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say_error(error)
    assert capsys.readouterr().err == told


def test_a_table_that_another_program_holds_gets_its_rows_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A spreadsheet program on Windows, whose files cannot be replaced."""
    log = MetricLog(tmp_path)
    log.log(1, {"loss": 3.0})

    def held(*_: object) -> None:
        raise FileHeld(errno.EACCES, "results.csv: another program holds the file (Access is denied)")

    with monkeypatch.context() as patch:
        patch.setattr(log_module, "write_atomically", held)
        log.log(2, {"loss": 2.0})
        log.log(3, {"loss": 1.0})
    assert [row["epoch"] for row in read(tmp_path)] == ["1"]
    assert [record.message for record in caplog.records] == [
        "results.csv: another program holds the file (Access is denied). The run goes on; the table will have all rows "
        "when it can be written again"
    ]
    log.close()
    assert [row["loss"] for row in read(tmp_path)] == ["3.0", "2.0", "1.0"]


def test_an_event_file_that_cannot_be_written_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = MetricLog(tmp_path)

    def held(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Access is denied", "events.out.tfevents.1")

    for name in ("add_scalar", "flush", "add_pr_curve_raw"):
        monkeypatch.setattr(log.board, name, held)
    log.log(1, {"loss": 3.0})
    log.pr_curves(np.linspace(0, 1, 3), {"a": np.ones(3)})
    log.close()
    assert [row["loss"] for row in read(tmp_path)] == ["3.0"]
    assert len(caplog.records) == 1
    assert caplog.records[0].message.startswith("TensorBoard's file cannot be written ([Errno 13] Access is denied")


def test_a_row_that_came_no_further_than_the_checkpoint_is_in_the_table(tmp_path: Path) -> None:
    log = MetricLog(tmp_path)
    log.log(1, {"loss": 3.0, "AP": None})
    log.close()
    last = {"epoch": 2, "loss": 1 / 3, "AP": math.nan}
    MetricLog(tmp_path, finished_epochs=2, last=last).close()
    expected = [{"epoch": "1", "loss": "3.0", "AP": ""}, {"epoch": "2", "loss": repr(1 / 3), "AP": ""}]
    assert read(tmp_path) == expected
    MetricLog(tmp_path, finished_epochs=2, last={**last, "loss": 9.0}).close()
    MetricLog(tmp_path, finished_epochs=2).close()
    assert read(tmp_path) == expected, "a row that is there stays"
    MetricLog(tmp_path, finished_epochs=3, last=last).close()
    assert read(tmp_path) == expected
