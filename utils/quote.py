"""Values as messages quote them: short, on one line, whatever they are."""

from __future__ import annotations

import reprlib

MOST = 60
"""Characters of a value that a message quotes."""

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, MOST, MOST, MOST


def quoted(value: object) -> str:
    """A value in quotes where it is a text, cut to `MOST` characters; never raises.

    >>> quoted("leaky"), quoted(["a"]), len(quoted("x" * 10**6))
    ("'leaky'", "['a']", 60)
    """
    try:
        text = _SHORT.repr(value)
    except Exception:  # an object of a foreign file may raise anything, and a number of 5,000 digits does
        text = f"a {type(value).__name__}"
    return text if len(text) <= MOST else f"{text[: MOST - 3]}..."


def first_line(error: BaseException) -> str:
    """What an error of another program says, in a line of at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    printable = "".join(character if character.isprintable() else "?" for character in lines[0][:200])
    return printable if len(lines[0]) <= 200 else f"{printable[:197]}..."


def cut(text: str, most: int = 2_000) -> str:
    """A text of several lines, such as a list of mistakes, cut to `most` characters."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text) - most:,} characters more)"
