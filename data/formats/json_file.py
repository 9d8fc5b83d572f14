"""COCO's JSON file as text and content, and the line of an entry that is wrong."""

from __future__ import annotations

import gc
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.config import ConfigError
from utils.files import read_regular
from utils.text import from_json, shorten, shown_json

_ENDLESS_NUMBER = re.compile(r"[0-9]{4301}")
LARGEST = 1e9
"""Beyond every coordinate of an image."""
ID_LIMIT = 10**18
"""Ids are smaller: they stand in tables of 64 bits."""


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause garbage collection, which would visit the millions of objects of a big file again and again.

    Parsing 400 MB (118,000 images, as COCO's train2017) then takes 9 s of processor time instead of 16 s.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def load_coco(file: Path, *, outlines: bool = True) -> Any:
    """The content of a COCO JSON file: an object with the list `images` and, if any, the list `annotations`.

    Args:
        outlines: whether annotations with a usable bbox keep their segmentation, most of such a file.
    Raises:
        ConfigError: the file cannot be read or holds something else.
    """
    text = _read(file)
    content = _parse(file, text, None if outlines else _without_outline)
    if isinstance(content, list):
        raise ConfigError(f"{file}: a list, as in COCO results (predictions); expected ground truth with 'images'")
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise ConfigError(f"{file}: no COCO JSON; expected an object with the lists images, annotations, categories")
    if not isinstance(content.get("annotations", []), list):
        raise ConfigError(f"{file}: 'annotations' is {shown_json(content['annotations'])}, expected a list")
    _check_lists_once(file, text)
    return content


def _check_lists_once(file: Path, text: str) -> None:
    """Refuse a list that stands twice, of which a parser of JSON keeps the last alone; `text` is a valid object.

    Raises:
        ConfigError: names the list and the line of its second.
    """
    names = [name for name in ("images", "annotations", "categories") if text.count(f'"{name}"') > 1]
    decode, seen = json.JSONDecoder().raw_decode, set[str]()
    position = _next_token(text, text.index("{") + 1)
    while names and text[position] != "}":
        name, position = decode(text, position)
        if name in seen and name in names:
            line = text.count("\n", 0, position) + 1
            raise ConfigError(f"{file}:{line}: a second list '{name}'; write all its entries into one")
        seen.add(name)
        position = _next_token(text, decode(text, _next_token(text, position))[1])


def _read(file: Path) -> str:
    try:
        return read_regular(file).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text (byte {error.start})") from None


def _parse(file: Path, text: str, change: Callable[[dict[str, Any]], Any] | None) -> Any:
    try:
        return from_json(text, change)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}:{error.lineno}: not valid JSON ({error.msg}); was the file copied whole?") from None
    except ValueError as error:
        if match := _ENDLESS_NUMBER.search(text):
            line = text.count("\n", 0, match.start()) + 1
            raise ConfigError(f"{file}:{line}: a number of more than 4,300 digits; correct it") from None
        raise ConfigError(f"{file}: {error}; no COCO JSON is") from None


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    """An object of the file without `segmentation`, unless its box may have to come from there."""
    box = entry.get("bbox")
    if "segmentation" in entry and isinstance(box, list) and len(box) == 4:
        usual = all(type(value) in (int, float) and -LARGEST < value < LARGEST for value in box)
        if usual and box[2] and box[3]:
            del entry["segmentation"]
    return entry


class Lines:
    """File and line of the entries of a JSON file; it is read again for them only if something is wrong with one.

    Args:
        known: the lines of the entries of each list, where they are known already.
    """

    def __init__(self, file: Path, known: Mapping[str, Sequence[int]] | None = None) -> None:
        self.file = file
        self._lines: dict[str, Sequence[int]] = dict(known or {})

    def where(self, key: str, index: int, entry: Any) -> str:
        """`file:line: annotation 7`, for entry `index` of the list `key` (images or annotations)."""
        if key not in self._lines:
            try:
                self._lines[key] = _entry_lines(_read(self.file), key)
            except RecursionError:  # nested just so deep that it could be read, higher up in the stack
                self._lines[key] = []
        line = self._lines[key][index] if self._lines[key] else 1
        number = entry.get("id") if isinstance(entry, dict) else None
        named = isinstance(number, (int, float, str))
        called = f"{key.removesuffix('s')} {shorten(number)}" if named else f"{key}[{index}]"
        return f"{self.file}:{line}: {called}"


def _entry_lines(text: str, key: str) -> list[int]:
    """The line of each entry of the top-level list `key` of valid JSON; empty if all is on one line."""
    if "\n" not in text.rstrip():
        return []
    decode = json.JSONDecoder().raw_decode
    position = _next_token(text, text.index("{") + 1)
    while True:
        name, position = decode(text, position)
        value = _next_token(text, position)
        if name == key:
            break
        position = _next_token(text, decode(text, value)[1])
    lines, line, counted = [], 1, 0
    position = _next_token(text, value + 1)
    while text[position] != "]":
        line, counted = line + text.count("\n", counted, position), position
        lines.append(line)
        position = _next_token(text, decode(text, position)[1])
    return lines


def _next_token(text: str, position: int) -> int:
    """The first position from `position` on that is neither space nor a separator of JSON."""
    match = re.compile(r"[\s,:]*").match(text, position)
    return match.end() if match else position


def as_id(value: Any) -> int | str | None:
    """An id as a whole number if it is one ('12' and 12.0 too), other text unchanged, None for the rest.

    A number that 64 bits cannot hold is a text: such an id is as good as any other, but tables of numbers have no room.
    """
    if type(value) is int:
        return value if abs(value) < ID_LIMIT else str(value)
    if isinstance(value, float) and value.is_integer():
        return int(value) if abs(value) < ID_LIMIT else repr(value)
    if isinstance(value, str) and value:
        return int(value) if re.fullmatch(r"0|-?[1-9][0-9]{0,17}", value) else value
    return None


def as_float(value: Any) -> float:
    """A number of JSON as a float; NaN where it is none, or too large for one."""
    try:
        return float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return math.nan
