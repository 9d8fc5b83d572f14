"""Types of command-line options, for argparse, and which of them were given."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any, NoReturn

from utils.config import ROOT
from utils.log import say
from utils.text import shorten, shorten_message

LARGEST = 1_000_000_000
"""Of what options count: pixels, images, processes; more is a slip of the finger."""


class Parser(argparse.ArgumentParser):
    """argparse whose messages go where all output goes: what was typed, or filled in by a shell, is quoted in them."""

    def add_model(self) -> None:
        """Add the options that name a model: --weights, --cfg and --trust."""
        self.add_argument(
            "--weights", help=".pt, .weights, .onnx or OpenVINO .xml (default: newest runs/train/*/weights/best.pt)"
        )
        self.add_argument("--cfg", help="darknet .cfg or model config, for darknet .weights only")
        self.add_argument("--trust", action="store_true", help="run the code that a .torchscript file contains")

    def add_run_folder(self, kind: str) -> None:
        """Add --project and --name, the folder of a run: runs/KIND/exp where they are left out."""
        self.add_argument("--project", default=str(ROOT / "runs" / kind), help="folder of runs")
        self.add_argument("--name", default="exp", help="folder of this run in PROJECT; never overwritten")

    def error(self, message: str) -> NoReturn:
        """Print the usage and what is wrong; ends the program with status 2."""
        super().error(shorten_message(message))

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            say(message.removesuffix("\n"), error=file is not sys.stdout)


def whole_number(text: str) -> int:
    """A whole number from 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= LARGEST:
        limit = f" to {LARGEST:,}" if value > LARGEST else ""
        raise argparse.ArgumentTypeError(f"expected a whole number from 1{limit}, found {shorten(text)}")
    return value


def epochs(text: str) -> str:
    """N or +N; kept as text until it is known what it adds to."""
    digits = text.removeprefix("+")
    if not digits.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, or +N, found {text}")
    whole_number(digits)
    return text


def batch_size(text: str) -> int | str:
    """A whole number from 1, or 'auto'."""
    return text if text == "auto" else whole_number(text)


def seed(text: str) -> int:
    """A whole number from 0, as NumPy's generators take it."""
    if not text.isdecimal() or len(text) > 18:
        limit = " of at most 18 digits" if text.isdecimal() else ""
        raise argparse.ArgumentTypeError(f"expected a whole number from 0{limit}, found {shorten(text)}")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, found {shorten(text)}")
    return value


def default_workers() -> int:
    """The default number of loader processes: half of the available cores, 1 to 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // 2, 1), 8)


def given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options `names` that the command line sets: whose value is not None."""
    return {name: value for name in names if (value := getattr(args, name)) is not None}
