"""Option types: what is wrong is said by argparse, with the value."""

from __future__ import annotations

import argparse

import pytest

from utils.arguments import given, seed, share, whole_number


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
