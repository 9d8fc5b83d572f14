"""utils/text.py: foreign names and values in messages are short, in one line, and cheap to show."""

from __future__ import annotations

import json
import time

import pytest

from utils.text import (
    from_json,
    listed,
    printable,
    printable_lines,
    shorten,
    shorten_message,
    shown,
    shown_json,
    to_json,
)

HOSTILE = "a\x1b[2Jb\nc\r\td\u2028e\u202ef\udce9\x9b\x7f"


def test_nothing_stays_nothing() -> None:
    assert (printable(""), printable_lines(""), shorten(""), listed([])) == ("", "", "", "")


def test_names_are_one_line_without_escapes() -> None:
    line = printable(HOSTILE)
    assert line == r"a\u001b[2Jb\nc\r\td\u2028e\u202ef\udce9\u009b\u007f"
    assert line.isprintable()
    assert json.loads(f'"{line}"') == HOSTILE
    for good in ("café.jpg", "грузовик", "日本　語", "👩‍🚒", "a b\u00a0c", "می‌خواهم"):
        assert printable(good) == good


def test_messages_keep_their_lines() -> None:
    assert printable_lines("a\n\tb\x1b[0m") == "a\n\tb\\u001b[0m"
    assert (
        printable_lines("é грузовик 👩", "latin-1")
        == r"é \u0433\u0440\u0443\u0437\u043e\u0432\u0438\u043a \ud83d\udc69"
    )
    assert printable_lines("\ud800", "ascii") == r"\ud800"


def test_json_holds_names_that_are_not_utf8() -> None:
    text = to_json({"source": "caf\udce9.jpg", "name": "é\ud800"})
    assert text == r'{"source": "caf\udce9.jpg", "name": "é\ud800"}'
    assert json.loads(text.encode("utf-8")) == {"source": "caf\udce9.jpg", "name": "é\ud800"}
    with pytest.raises(ValueError, match="Out of range"):
        to_json(float("nan"))


def test_json_of_files_is_a_value_or_a_value_error() -> None:
    assert from_json('{"a": [1, null]}') == {"a": [1, None]}
    for bad in ("", "[" * 100_000, '{"a":' * 100_000, "7" * 5000, "nonsense"):
        with pytest.raises(ValueError, match=r"JSON|Expecting|nested in each other without end|limit"):
            from_json(bad)


@pytest.mark.parametrize("indent", [None, 1])
def test_json_that_is_too_deep_to_be_written(indent: int | None) -> None:
    value: list = []
    for _ in range(10_000):
        value = [value]
    with pytest.raises(ValueError, match="nested in each other without end"):
        to_json(value, indent=indent)


@pytest.mark.parametrize(
    "value", [None, True, 1, 1.5, "a'b", [1, "a"], (1,), (1, 2), {}, {"a": [1, {"b": None}]}, b"ab", [], ()]
)
def test_short_values_are_shown_whole(value: object) -> None:
    assert shown(value) == repr(value)
    if not isinstance(value, (bytes, tuple)):
        assert shown_json(value) == json.dumps(value)


def test_long_values_are_cut_without_a_look_at_all_of_them() -> None:
    laughs: list[object] = ["lol"]
    for _ in range(60):
        laughs = [laughs] * 9
    endless: list[object] = []
    for _ in range(5000):
        endless = [endless]
    start = time.monotonic()
    for value in (
        laughs,
        endless,
        {"a": laughs},
        "x" * 10**8,
        ["y" * 10**8],
        10**5000,
        list(range(10**6)),
        HOSTILE * 99,
    ):
        for text in (shown(value), shown_json(value), shorten(str(value)[:500]) if value is HOSTILE else ""):
            assert len(text) <= 80
            assert text == "" or text.isprintable()
    assert shown("x" * 100).startswith("'xxx")
    assert shown("x" * 100).endswith("xxx...")
    assert time.monotonic() - start < 10  # all of it would take longer than the universe has been there


def test_lists_and_messages_say_how_much_is_left_out() -> None:
    assert listed(["a", "b", 3]) == "a, b, 3"
    text = listed(["word" * 10] * 1000)
    assert len(text) < 1550
    assert text.endswith(" more")
    assert shorten_message("a" * 3500) == "a" * 3500
    assert shorten_message("a" * 10_000).endswith("a... (6,500 more characters)")
