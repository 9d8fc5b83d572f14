"""The font for a text: DejaVu Sans, which matplotlib brings along, else an installed one that has the letters."""

from __future__ import annotations

import itertools
import logging
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

from utils.text import shorten

logger = logging.getLogger(__name__)

_ALWAYS = frozenset(map(chr, (*range(0x250), *range(0x384, 0x526)))) | {"…"}
"""Letters of the default font that need no look into it: Latin, Greek and Cyrillic ones."""

load_font = lru_cache(maxsize=64)(ImageFont.truetype)


def font_for(text: str) -> str:
    """The file of the font that has the most letters of `text` (OpenCV's own fonts are ASCII only)."""
    special = frozenset(text) - _ALWAYS
    return _font_file(special) if special else _default_font()


def font_runs(text: str) -> list[tuple[str, str]]:
    """The text in pieces, each with the file of its font; one piece where one font has all of it.

    Fonts of one script often have no Latin letters and digits; these then come from the default font.
    """
    path, default = font_for(text), _default_font()
    if path == default or not _missing(path, frozenset(text)):
        return [(text, path)]
    lacking = _missing(default, frozenset(text))
    runs = itertools.groupby(text, key=lambda letter: path if letter in lacking else default)
    return [("".join(letters), file) for file, letters in runs]


@lru_cache(maxsize=1)
def _default_font() -> str:
    spec = find_spec("matplotlib")  # its import takes longer than all the drawing
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")


@lru_cache(maxsize=1024)
def _font_file(letters: frozenset[str]) -> str:
    """The default font where it has all these letters, else the first installed one with those that it lacks."""
    lacking = _missing(_default_font(), letters)
    if not lacking:
        return _default_font()
    for path in _installed_fonts():
        if not _missing(path, lacking):
            return path
    _tell_once("".join(sorted(lacking)))
    return _default_font()


@lru_cache(maxsize=1)
def _installed_fonts() -> tuple[str, ...]:
    """Regular ones first: a family has up to 18 weights."""
    from utils.figures import font_manager  # slow to import, and rarely needed

    return tuple(sorted(font_manager.findSystemFonts(), key=lambda path: ("regular" not in path.lower(), path)))


@lru_cache(maxsize=4096)
def _missing(path: str, letters: frozenset[str]) -> frozenset[str]:
    """The letters that a font lacks; all of a font that cannot be used (bitmaps, broken files)."""
    from utils.figures import FT2Font

    try:
        font = FT2Font(path)
        load_font(path, 16)
    except (OSError, RuntimeError):
        return letters
    return frozenset(letter for letter in letters if not (letter.isspace() or font.get_char_index(ord(letter))))


_told: list[str] = []
"""Letters that no font has, of the name that this process has told of."""


def _tell_once(letters: str) -> None:
    if not _told:
        _told.append(letters)
        logger.warning(
            "no installed font has the letters '%s'; drawings show boxes in place of letters that no font has; install "
            "a font of that script (Debian, Ubuntu: apt install fonts-noto-core fonts-noto-cjk)",
            shorten(letters),
        )
