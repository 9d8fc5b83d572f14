"""Option types: what is wrong is said by argparse, with the value."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from utils.arguments import Parser, given, seed, share, whole_number


def test_values_in_range_pass() -> None:
    assert whole_number("1") == 1
    assert [seed(text) for text in ("0", "12")] == [0, 12]
    assert [share(text) for text in ("0", "1e-3", "1")] == [0.0, 0.001, 1.0]


@pytest.mark.parametrize(
    ("kind", "text"),
    [(whole_number, "0"), (whole_number, "2.5"), (whole_number, ""), (share, "-0.1"), (seed, "-1"), (seed, "1.5")],
)
@pytest.mark.parametrize("extra", ["", "x"])
def test_others_are_refused_by_name(kind: object, text: str, extra: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="found"):
        kind(text + extra)


def test_not_a_number_is_no_share() -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        share("nan")


def test_given_options_are_those_with_a_value() -> None:
    args = argparse.Namespace(size=0, name=None, deep=False, other=3)
    assert given(args, "size", "name", "deep") == {"size": 0, "deep": False}


def test_what_was_typed_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="name")
    parser.add_argument("--size", type=whole_number)
    for typed in (["-x\x1b[2J"], ["--size", "\x1b[2J"], ["y" * 100_000], ["--size", "9" * 100_000]):
        with pytest.raises(SystemExit) as caught:
            parser.parse_args(typed)
        assert caught.value.code == 2
        text = capsys.readouterr().err
        assert text.startswith("usage: name")
        assert text.replace("\n", "").isprintable()
        assert len(text) < 4000
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert capsys.readouterr().out.startswith("usage: name [-h] [--size SIZE]\n")


@pytest.mark.parametrize(("kind", "text"), [(whole_number, "1000000001"), (seed, "9" * 19), (seed, "9" * 5000)])
def test_slips_of_the_finger_are_refused(kind: Callable[[str], int], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"from [01] (to 1,000,000,000|of at most 18 digits), found"):
        kind(text)
