"""Logging: the logger's set-up, one place for scalars, and the progress of long work."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from tqdm import tqdm

from utils.config import ConfigError
from utils.files import FileHeld, write_atomically
from utils.results import read_results
from utils.text import can_hold, printable, printable_lines, shorten_message

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)
T = TypeVar("T")


def say(text: object = "", *, error: bool = False) -> None:
    """Print the result of a command, or a note beside it on standard error.

    All output goes through here or through the logger, so that nothing in a file's or a class's name can steer the
    terminal: what it cannot print, and what it would obey, is shown as in JSON, and JSON stays valid. Where the reader
    of a pipe has gone (`| head`), nothing is printed any more.

    Raises:
        OSError: it cannot be written.
    """
    stream = sys.stderr if error else sys.stdout
    if stream is None:  # closed, as of a service (>&-) or a program without a console
        return
    try:
        print(printable_lines(str(text), stream.encoding or "utf-8"), file=stream, flush=True)
    except BrokenPipeError:
        _silence(stream)


def say_error(error: object) -> None:
    """Print why a command ends, on standard error, in at most a page.

    Args:
        error: a text or an exception. Python's own are one line, whatever the names in them hold.
    """
    text = printable(error) if isinstance(error, OSError) or type(error) is ValueError else str(error)
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8" and not can_hold(encoding, text):
        text += f"\nHere Python finds only files whose names are {encoding}; with PYTHONUTF8=1 it finds all"
    say(f"error: {shorten_message(text)}", error=True)


class _TqdmHandler(logging.Handler):
    """Writes log lines to standard output above a running progress bar.

    A training outlives its terminal, the reader of its pipe, and the disk that its output goes to: what cannot be
    written there is lost, and nothing else.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.args, tuple):  # a path is one line, even if its name is not
            record.args = tuple(printable(value) if isinstance(value, Path) else value for value in record.args)
        if sys.stdout is None:
            return
        try:
            tqdm.write(printable_lines(self.format(record), sys.stdout.encoding or "utf-8"), file=sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:
            _silence(sys.stdout)
        except OSError:
            pass


def _silence(stream: TextIO) -> None:
    """Lead a stream that has no reader to nowhere, so that not even what is left in it fails at the end."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def setup_logging(*, rank: int = 0) -> None:
    """Log plain lines to standard output; ranks other than 0 log only errors."""
    handler = _TqdmHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if rank == 0 else logging.ERROR)
    threading.excepthook = _thread_failed
    for noisy in ("matplotlib", "PIL", "tensorboard", "albumentations", "faster_coco_eval"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """Report errors of threads, except TensorBoard's writer: its errors are raised again at the next write."""
    if not (issubclass(failure.exc_type, OSError) and type(failure.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(failure)


class Progress:
    """A progress bar on a terminal; elsewhere a log line now and then.

    Args:
        total: units of work.
        title: what is being done.
        start: units already done.
        every: seconds between plain lines.
        quiet: show nothing (ranks other than 0).
    """

    def __init__(self, total: int, title: str, *, start: int = 0, every: float = 30.0, quiet: bool = False) -> None:
        self.total, self.title, self.done, self.every, self.quiet = total, title, start, every, quiet
        self.begin = self.last = time.monotonic()
        self.first = start
        self.note = ""
        self.bar = None
        if not quiet and sys.stderr is not None and sys.stderr.isatty():
            with contextlib.suppress(OSError):  # as for log lines
                self.bar = tqdm(total=total, initial=start, desc=title, leave=False, dynamic_ncols=True)

    def advance(self, note: str = "") -> None:
        """Count one unit as done."""
        self.done += 1
        self.note = note
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            with contextlib.suppress(OSError):
                self.bar.update()
        elif not self.quiet and time.monotonic() - self.last > self.every and self.done < self.total:
            self.last = time.monotonic()
            logger.info("%s: %d/%d, %s left%s", self.title, self.done, self.total, self._left(), note and f", {note}")

    def _left(self) -> str:
        spent = time.monotonic() - self.begin
        return duration(spent / max(self.done - self.first, 1) * (self.total - self.done))

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            with contextlib.suppress(OSError):
                self.bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tracked(items: Iterable[T], total: int, title: str, *, quiet: bool = False) -> Iterator[T]:
    """The `items`, each counted by a `Progress` when the next one is asked for."""
    with Progress(total, title, quiet=quiet) as progress:
        for item in items:
            yield item
            progress.advance()


def duration(seconds: float) -> str:
    """Seconds as 9s, 4m05s or 3h07m."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


class MetricLog:
    """One dict of scalars an epoch -> a row of results.csv and TensorBoard.

    Args:
        folder: of the run.
        finished_epochs: rows of later epochs, written before a run was killed, are dropped.
        last: the row of the last of them with its 'epoch', which may have got no further than the checkpoint; NaN is an
            empty field.

    A table that another program holds, or an event file that cannot be written, is told and does not end a training.
    """

    def __init__(self, folder: Path, *, finished_epochs: int = 0, last: Mapping[str, float] | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # half a second to import, and only training needs it

        self.path = folder / "results.csv"
        self.told: set[str] = set()
        self.is_behind = False
        """The table lacks rows, because another program holds it."""
        self.rows = [row for row in self._read() if int(row["epoch"]) <= finished_epochs]
        self.board = SummaryWriter(str(folder), purge_step=finished_epochs + 1)
        if last and last["epoch"] == finished_epochs > max((int(row["epoch"]) for row in self.rows), default=0):
            values = {key: None if math.isnan(value) else value for key, value in last.items() if key != "epoch"}
            self.log(finished_epochs, values)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        try:
            return read_results(self.path)
        except ConfigError as error:
            names = (self.path.with_name(f"results.old{number}.csv") for number in itertools.count(1))
            aside = next(path for path in names if not path.exists())
            os.replace(self.path, aside)
            logger.warning("%s. It is kept as %s, and the table goes on without its rows", error, aside)
            return []

    def log(self, epoch: int, values: dict[str, float | None]) -> None:
        """Add the row of `epoch` (counted from 1); None is an empty field."""
        texts = {key: "" if value is None else repr(float(value)) for key, value in values.items()}
        row = {"epoch": str(epoch), **texts}
        self.rows.append(row)
        self._write()
        with self._telling():
            for key, value in values.items():
                if value is not None:
                    self.board.add_scalar(key, value, epoch)
            self.board.flush()

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """TensorBoard's files are no reason to end a training; where the disk is full, its checkpoint says so."""
        try:
            yield
        except OSError as error:
            self._tell(f"TensorBoard's file cannot be written ({printable(error)}); the run goes on without it")

    def _tell(self, text: str) -> None:
        if text not in self.told:
            self.told.add(text)
            logger.warning("%s", text)

    def _write(self) -> None:
        """Write the whole table atomically, so that a kill leaves no half row."""
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        try:
            write_atomically(self.path, text.getvalue())
        except FileHeld as error:
            self._tell(f"{error}. The run goes on; the table will have all rows when it can be written again")
            self.is_behind = True
        else:
            self.is_behind = False

    def pictures(self, paths: Sequence[Path]) -> None:
        """Show JPEG files in TensorBoard under their names, as they are: its own are PNG, ten times as large."""
        from PIL import Image  # commands that log no pictures start sooner without the two
        from tensorboard.compat.proto.summary_pb2 import Summary

        for path in paths:
            with self._telling():
                with Image.open(path) as picture:
                    width, height = picture.size
                content = Summary.Image(
                    height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes()
                )
                self.board._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=path.stem, image=content)]))

    def pr_curves(self, recall: np.ndarray, precision: Mapping[str, np.ndarray]) -> None:
        """Precision over recall in TensorBoard: (R,) recall, and (R,) precision of each class."""
        import numpy as np

        unknown = np.zeros(len(recall))  # the counts behind the curve, which COCO's evaluation does not keep
        for name, values in precision.items():
            counts = (unknown, unknown, unknown, unknown)
            with self._telling():
                self.board.add_pr_curve_raw(
                    f"PR/{printable(name)}", *counts, values, recall, num_thresholds=len(recall)
                )

    def close(self) -> None:
        """Finish the TensorBoard file, and a table that lacks rows."""
        if self.is_behind:
            self._write()
        with self._telling():
            self.board.close()


def first_few(names: Sequence[str], most: int) -> str:
    """The first `most` names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def error_text(error: Exception) -> str:
    """The message for the user; what a loader process raised comes wrapped in its traceback, whose last line counts."""
    text = str(error).strip()
    return text.rpartition("Error: ")[2] if "Original Traceback" in text else text
