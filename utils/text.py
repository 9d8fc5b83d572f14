"""Foreign text in messages: names and values from files that nobody here wrote, short and in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

LONGEST_MESSAGE = 3500
"""Characters of a whole message; a terminal shows about two pages of it."""

NESTED = "lists or objects nested in each other without end"
_UNPRINTABLE = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
"""Control characters without tab and line feed, those that turn the direction of writing, and halves of characters,
which stand for the bytes of a file name that is not UTF-8."""
_IN_LINE = re.compile(f"[\t\n{_UNPRINTABLE}]")
_IN_TEXT = re.compile(f"[{_UNPRINTABLE}]")
_HALVES = re.compile("[\ud800-\udfff]")


def printable(text: object) -> str:
    r"""A name in one line for a message: line breaks, terminal escapes and bytes that are not UTF-8 as JSON has them.

    >>> printable("a\nb.jpg")
    'a\\nb.jpg'
    """
    return _IN_LINE.sub(_escape, str(text))


def printable_lines(text: str, encoding: str = "utf-8") -> str:
    """A message of several lines for a terminal or file of an encoding; only line breaks and tabs stay."""
    text = _IN_TEXT.sub(_escape, text)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(letter if can_hold(encoding, letter) else _escape(letter) for letter in text)
    return text


def can_hold(encoding: str, text: str) -> bool:
    """Whether an encoding has every character of a text."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def from_json(text: str | bytes, change: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """The value of a JSON text from a file.

    Args:
        change: what stands for an object, made from its keys and values as soon as it is read.
    Raises:
        ValueError: it is not JSON, has a number of more than 4,300 digits, or is nested about 1,000 deep.
    """
    try:
        return json.loads(text, object_hook=change)
    except RecursionError:
        raise ValueError(NESTED) from None


def to_json(value: Any, *, indent: int | None = None, allow_nan: bool = False) -> str:
    """JSON text that UTF-8 can hold and that reads back as it was, file names that are not UTF-8 too.

    Raises:
        ValueError: a number that is not finite, unless `allow_nan`; or nested about 1,000 deep.
    """
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=allow_nan)
    except RecursionError:
        raise ValueError(NESTED) from None
    return _HALVES.sub(_escape, text)


def class_name(names: Sequence[str], label: int) -> str:
    """The name of a class; its number where there is none."""
    return names[label] if 0 <= label < len(names) else str(label)


def shorten(text: object, length: int = 80) -> str:
    """A text in one line, cut to `length` characters."""
    text = str(text)
    line = printable(text[: length + 1])
    return line if len(line) <= length and len(text) <= length else f"{line[: length - 3]}..."


def shown(value: object, length: int = 80) -> str:
    """A plain value as Python writes it, cut to `length`; visits no more of it than that."""
    return _cut(_pieces(value, lambda scalar: _python(scalar, length)), length)


def shown_json(value: object, length: int = 80) -> str:
    """A plain value as JSON shows it, cut to `length`; visits no more of it than that."""
    return _cut(_pieces(value, lambda scalar: _json(scalar, length)), length)


def first_line(error: BaseException, length: int = 200) -> str:
    """The first line of what an error of another program says, or its kind where it says nothing."""
    return shorten((str(error).strip() or type(error).__name__).splitlines()[0], length)


def shorten_message(message: str) -> str:
    """A message cut to LONGEST_MESSAGE; says how much is left out."""
    if len(message) <= LONGEST_MESSAGE:
        return message
    return f"{message[:LONGEST_MESSAGE]}... ({len(message) - LONGEST_MESSAGE:,} more characters)"


def listed(words: Iterable[object], length: int = 1500) -> str:
    """Words for a message, 'a, b, c'; of a long list the beginning, and how many more there are."""
    texts = [shorten(word) for word in words]
    last, end = 0, 0
    while last < len(texts) and end + len(texts[last]) + 2 <= length:
        end, last = end + len(texts[last]) + 2, last + 1
    more = len(texts) - last
    return ", ".join(texts[:last]) + (f" and {more:,} more" if more else "")


def _cut(pieces: Iterator[str], length: int) -> str:
    text = ""
    for piece in pieces:
        text += piece
        if len(text) > length:
            break
    return shorten(text, length)


def _pieces(value: object, write: Callable[[object], str]) -> Iterator[str]:
    """The text of a value piece by piece, so that a reader can stop early."""
    if isinstance(value, dict):
        yield "{"
        for number, (key, item) in enumerate(value.items()):
            yield ", " if number else ""
            yield from _pieces(key, write)
            yield ": "
            yield from _pieces(item, write)
        yield "}"
    elif isinstance(value, (list, tuple)):
        start, end = "[]" if isinstance(value, list) else "()"
        yield start
        for number, item in enumerate(value):
            yield ", " if number else ""
            yield from _pieces(item, write)
        yield "," + end if isinstance(value, tuple) and len(value) == 1 else end
    else:
        yield write(value)


def _python(value: object, length: int) -> str:
    if isinstance(value, (str, bytes)):
        return repr(value[: length + 1])
    try:
        return repr(value)
    except Exception:  # an object of a foreign file may raise anything, and a number of 5,000 digits does
        return f"a value of type {type(value).__name__}"


def _json(value: object, length: int) -> str:
    if isinstance(value, str):
        return json.dumps(value[: length + 1], ensure_ascii=False)
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return f"a value of type {type(value).__name__}"


def _escape(match: re.Match[str] | str) -> str:
    return json.dumps(match if isinstance(match, str) else match[0])[1:-1]
