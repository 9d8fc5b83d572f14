"""A JSON object entry by entry: COCO's lists of a million annotations, whose text would fill the memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from utils.files import open_regular

LIST = object()
"""Stands for the beginning of a list; its entries follow."""

Place = tuple[int, int, int]
"""Where an entry of a list is in its file: its first byte, the byte behind it, and its line."""

WINDOW = 1 << 20
"""Bytes that are read at once."""

_BLANKS = re.compile("[ \t\n\r]*")
_BEHIND = frozenset(" \t\n\r,:]}")
"""What may stand behind a value."""
_decode = json.JSONDecoder().raw_decode


def entries(file: Path) -> Iterator[tuple[str, Any, Place | None]]:
    """The keys of the object in a file, with their values; the entries of a list one after another.

    A key whose value is a list comes with `LIST`, and then with each entry and its place. Another one comes once,
    without a place.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not one JSON object in UTF-8; RecursionError: it is nested about 1,000 deep.
    """
    with open_regular(file) as opened:
        text = _Window(opened)
        text.skip("{")
        more = not text.skips("}")
        while more:
            key = text.key()
            text.skip(":")
            if text.skips("["):
                yield key, LIST, None
                yield from _entries_of_list(key, text)
            else:
                yield key, text.value(), None
            more = text.skip(",}") == ","
        if text.token():
            raise Irregular("there is more after the object")


def _entries_of_list(key: str, text: _Window) -> Iterator[tuple[str, Any, Place]]:
    more = not text.skips("]")
    while more:
        text.token()
        start, line = text.place()
        value = text.value()
        yield key, value, (start, text.place()[0], line)
        more = text.skip(",]") == ","


class Irregular(ValueError):
    """Something that is not one JSON object; nobody sees the message, for `load_coco` has one with the line."""


class _Window:
    """The part of a file that is being read, as text."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._decoded = file, codecs.getincrementaldecoder("utf-8")().decode
        self._text, self._at, self._ended = "", 0, False
        self._start, self._line, self._known = 0, 1, 0
        """Byte and line of the character `_known` of the text."""
        if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
            self._start = len(codecs.BOM_UTF8)
        file.seek(self._start)

    def token(self) -> str:
        """The character with which the next token begins; '' at the end of the file."""
        while True:
            match = _BLANKS.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if self._ended:
                return ""
            self._extend()

    def skip(self, expected: str) -> str:
        """Pass one of the expected characters; returns it."""
        found = self.token()
        if not found or found not in expected:
            raise Irregular(f"found {found!r}, expected one of {expected!r}")
        self._at += 1
        return found

    def skips(self, character: str) -> bool:
        """Pass a character, if it is the next one."""
        found = self.token() == character
        self._at += found
        return found

    def key(self) -> str:
        """The text that comes next."""
        if self.token() != '"':
            raise Irregular("expected a key")
        return str(self.value())

    def value(self) -> Any:
        """The value that comes next."""
        self.token()
        while True:
            try:
                value, end = _decode(self._text, self._at)
            except ValueError:
                if self._ended:
                    raise
            else:
                if self._ended or self._text[end : end + 1] in _BEHIND:  # else a number may go on
                    self._at = end
                    return value
            self._extend()

    def place(self) -> tuple[int, int]:
        """Byte and line in the file where the next token begins."""
        known, self._known = self._known, self._at
        passed = self._text[known : self._at]
        self._start += len(passed) if passed.isascii() else len(passed.encode())
        self._line += passed.count("\n")
        return self._start, self._line

    def _extend(self) -> None:
        """Leave what has been read, and read on: of a value that is longer, twice as much each time."""
        self.place()
        rest = self._text[self._at :]
        data = self._file.read(max(WINDOW, len(rest)))
        self._ended = not data
        self._text, self._at, self._known = rest + self._decoded(data, self._ended), 0, 0
