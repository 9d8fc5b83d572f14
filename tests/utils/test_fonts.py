"""Fonts by the letters they have."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from utils import fonts
from utils.draw import draw_detections
from utils.figures import FT2Font
from utils.fonts import font_for, font_runs

MATH = str(Path(fonts._default_font()).with_name("STIXGeneral.ttf"))
"""matplotlib brings it along too; it has '⅗'..., and letters that DejaVu Sans has not."""


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    def forget() -> None:
        fonts._told.clear()
        for cached in (fonts._font_file, fonts._installed_fonts):
            cached.cache_clear()

    forget()
    yield
    forget()


def special() -> str:
    """A letter that STIX has and DejaVu Sans has not."""
    mine, default = FT2Font(MATH), FT2Font(fonts._default_font())
    return next(chr(code) for code in mine.get_charmap() if not default.get_char_index(code))


def test_letters_of_the_default_font() -> None:
    for text in ("", "dog 0.9", "naïve…", "грузовик", "σκύλος", "كلب"):
        assert font_runs(text) == [(text, fonts._default_font())]
    default = FT2Font(fonts._default_font())
    assert all(default.get_char_index(ord(letter)) for letter in fonts._ALWAYS if letter.isalpha())


def test_an_installed_font_that_has_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_installed_fonts", lambda: (__file__, MATH))
    letter = special()
    assert font_for(f"{letter} 0.9") == MATH
    assert font_runs(f"{letter} 0.9") == [(f"{letter} 0.9", MATH)]
    assert not fonts._told


def test_a_font_without_latin_letters_has_only_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    letter = special()
    monkeypatch.setattr(fonts, "_installed_fonts", lambda: (MATH,))
    real = fonts._missing

    def without_latin(path: str, letters: frozenset[str]) -> frozenset[str]:
        return real(path, letters) | (letters & frozenset("dog 0.9") if path == MATH else frozenset())

    monkeypatch.setattr(fonts, "_missing", without_latin)
    default = fonts._default_font()
    assert font_runs(f"dog {letter}{letter} 0.9") == [("dog ", default), (letter * 2, MATH), (" 0.9", default)]


def test_letters_that_no_font_has_are_told_once_a_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fonts, "_installed_fonts", lambda: (__file__,))
    image = np.zeros((60, 200, 3), np.uint8)
    boxes = np.array([[5, 30, 100, 55], [90, 30, 150, 55]])
    with caplog.at_level(logging.WARNING):
        for names in (["汽车", "自行车"], ["卡车", "狗"]):
            draw_detections(image, boxes, np.array([0, 1]), None, names)
    (message,) = caplog.messages
    assert message.startswith("no installed font has the letters '自行车'")
    assert "apt install fonts-noto-core fonts-noto-cjk" in message
