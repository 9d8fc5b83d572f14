"""results.csv: the table of a training, as train.py writes it and as spreadsheet programs give it back."""

from __future__ import annotations

import codecs
import csv
import math
from pathlib import Path

from utils.config import ConfigError
from utils.metrics.figures import is_figure
from utils.text import shown

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_results(path: Path) -> list[dict[str, str]]:
    """The rows of a results.csv, values as text; an empty one has no value. Lines that are no epoch are left out.

    Spreadsheet programs put a mark before the text (BOM), write UTF-16, separate by semicolons or tabs, and some then
    have a comma in a number: all of it is read.

    Raises:
        ConfigError: not such a table, not UTF-8 or UTF-16, or a value is not a number.
    """
    lines = _text(path).splitlines()
    if not lines:
        return []
    delimiter = max(",;\t", key=lines[0].count)
    table = csv.DictReader(lines, delimiter=delimiter)
    if "epoch" not in (table.fieldnames or ()):
        raise ConfigError(f"{path}: expected a first line with the column 'epoch', found {shown(lines[0], 100)}")
    rows = []
    for number, row in enumerate(table, start=2):
        epoch = (row["epoch"] or "").strip()
        if epoch.isdigit():
            values = {key: _number(value or "", delimiter) for key, value in row.items() if key}
            if wrong := [key for key, value in values.items() if value is None]:
                wrong_value = shown(row[wrong[0]], 50)
                raise ConfigError(f"{path}: line {number}: {wrong[0]}: expected a number, found {wrong_value}")
            rows.append({key: value for key, value in values.items() if value is not None})
    if not rows and len(lines) > 1:
        raise ConfigError(f"{path}: not one of {len(lines) - 1} lines begins with the number of an epoch")
    return rows


def columns_of(rows: list[dict[str, str]]) -> dict[str, list[float]]:
    """Column -> its numbers; NaN for a blank field, and for the -1 of older releases where there was no figure."""
    return {key: [_value(key, row.get(key) or "") for row in rows] for key in (rows[0] if rows else ())}


def _text(path: Path) -> str:
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith(_UTF16) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not text in UTF-8 ({error.reason} at byte {error.start})") from None


def _number(text: str, delimiter: str) -> str | None:
    """A number as Python writes it, "" for none; None where the text is something else."""
    text = text.strip()
    if delimiter != "," and "." not in text:
        text = text.replace(",", ".")
    try:
        float(text or "0")
    except ValueError:
        return None
    return text


def _value(key: str, text: str) -> float:
    value = float(text) if text else math.nan
    return math.nan if value == -1 and is_figure(key) else value
