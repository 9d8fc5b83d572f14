"""The window of --view: clear refusals, pictures in Tk's form, and the keys that close it."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable

import numpy as np
import pytest

from data.media.window import Window
from utils.config import ConfigError


class FakeRoot:
    """What Window uses of tkinter.Tk, on a screen of 200 x 100."""

    def __init__(self) -> None:
        self.keys: dict[str, Callable] = {}
        self.title = self.protocol = lambda *_: None
        self.winfo_screenheight, self.winfo_screenwidth = lambda: 100, lambda: 200
        self.bind = self.keys.__setitem__
        self.update = self.destroy = lambda: None


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The pictures that a Window shows, in a tkinter that needs no display."""
    pictures: list[bytes] = []
    fake = types.ModuleType("tkinter")
    fake.Tk, fake.TclError = FakeRoot, RuntimeError
    fake.PhotoImage = lambda *, data, format: pictures.append(data)
    fake.Label = lambda *_, **__: types.SimpleNamespace(pack=lambda: None, configure=lambda **_: None)
    monkeypatch.setitem(sys.modules, "tkinter", fake)
    return pictures


def test_without_tk_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(ConfigError, match="python3-tk"):
        Window("title")


def test_without_a_display_it_says_so(monkeypatch: pytest.MonkeyPatch, shown: list[bytes]) -> None:
    def no_display() -> None:
        raise RuntimeError("no display name")

    monkeypatch.setattr(sys.modules["tkinter"], "Tk", no_display)
    with pytest.raises(ConfigError, match="no window can be opened here"):
        Window("title")


def test_pictures_reach_tk_and_fit_the_screen(shown: list[bytes]) -> None:
    window = Window("title")
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    window.show(image)
    assert shown == [b"P6 5 4 255\n" + image.tobytes()]
    window.show(np.zeros((400, 300, 3), np.uint8))
    assert shown[1].startswith(b"P6 64 85 255\n")


def test_a_key_closes_it(shown: list[bytes]) -> None:
    window = Window("title")
    assert window.open
    window._root.keys["q"](None)
    assert not window.open
    window.show(np.zeros((4, 4, 3), np.uint8))
    assert shown == []
    window.close()
