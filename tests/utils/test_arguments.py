"""Option types: what is wrong is said by argparse, with the value."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

import pytest

from utils.arguments import Parser, default_workers, given, seed, share, share_or_auto, whole_number


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


def test_a_share_may_be_auto() -> None:
    assert (share_or_auto("auto"), share_or_auto("0.3")) == ("auto", 0.3)
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number from 0 to 1, or auto, found best"):
        share_or_auto("best")


def test_not_a_number_is_no_share() -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        share("nan")


def test_an_image_size_is_one_side_or_height_and_width(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser()
    parser.add_image_size()
    sizes = [parser.parse_args(line.split()).img_size for line in ("", "--img-size 64", "--img-size 64 96")]
    assert sizes == [None, (64, 64), (64, 96)]
    for line, message in (("1 2 3", "expected one number, or height and width, found 3 numbers"), ("0", "from 1")):
        with pytest.raises(SystemExit):
            parser.parse_args(["--img-size", *line.split()])
        assert message in capsys.readouterr().err


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


def test_there_is_at_least_one_worker_and_at_most_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= default_workers() <= 8
    if hasattr(os, "sched_getaffinity"):
        for cores, ranks, expected in ((64, 1, 8), (64, 8, 4), (16, 4, 2), (8, 8, 1), (1, 1, 1)):
            monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: range(cores))
            monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
            assert default_workers() == expected


def answer(parser: Parser, typed: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a wrong command line is answered with, without the usage."""
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(typed)
    assert caught.value.code == 2
    return capsys.readouterr().err.partition("error: ")[2].removesuffix("\n")


@pytest.fixture
def parser() -> Parser:
    """The options of several commands in one."""
    parser = Parser(prog="name")
    parser.add_model()
    for option in ("--data", "--img-size", "--batch-size", "--conf-thres", "--iou-thres", "--epochs", "--set"):
        parser.add_argument(option)
    parser.add_argument("--save-json", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("--imgsz 640", "--imgsz: no such option; use --img-size 640"),
        ("--imgsz=640", "--imgsz=640: no such option; use --img-size 640"),
        ("--img", "--img: no such option; use --img-size"),
        ("--batch 8 --save-json", "--batch: no such option; use --batch-size 8"),
        ("--model y.pt", "--model: no such option; use --weights y.pt or --cfg y.pt"),
        ("--conf --iou 0.5", "--conf: no such option; use --conf-thres\n--iou: no such option; use --iou-thres 0.5"),
        ("--lr0 0.01", "--lr0: no such option; use --set optimizer.lr=0.01"),
        ("--warmup_epochs=3", "--warmup_epochs=3: no such option; use --set schedule.warmup_epochs=3"),
        ("--save_json", "--save_json: no such option; use --save-json"),
        ("--save-jsn x", "--save-jsn: no such option. Did you mean --save-json? --help lists all"),
        ("--epoch 3", "--epoch: no such option. Did you mean --epochs? --help lists all"),
        ("--zzz", "--zzz: no such option. --help lists all"),
        ("data=coco.yaml imgsz=64", "data=coco.yaml: no such option; use --data coco.yaml\n"
         "imgsz=64: no such option; use --img-size 64"),
        ("word", "unrecognized arguments: word"),
    ],
)  # fmt: skip
def test_an_unknown_option_is_answered_with_ours(
    parser: Parser, typed: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answer(parser, typed.split(), capsys) == wanted


def test_options_are_not_guessed_where_the_command_has_none(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="name")
    parser.add_argument("data")
    parser.add_argument("--split")
    assert answer(parser, ["--lr0", "1"], capsys) == "--lr0: no such option. --help lists all"
    assert answer(parser, ["--data=x.yaml"], capsys) == (
        "the following arguments are required: data\n"
        "--data=x.yaml: no such option; use x.yaml alone, without a name before it"
    )


def test_words_are_answered_where_a_required_option_is_missing(
    parser: Parser, capsys: pytest.CaptureFixture[str]
) -> None:
    parser.add_argument("--source", nargs="+", required=True)
    assert answer(parser, ["source=x.jpg", "conf=0.3", "other=1"], capsys).splitlines() == [
        "the following arguments are required: --source",
        "source=x.jpg: no such option; use --source x.jpg",
        "conf=0.3: no such option; use --conf-thres 0.3",
    ]


def test_values_that_look_like_options_of_others_are_values(parser: Parser) -> None:
    parser.add_argument("--source", nargs="+")
    args = parser.parse_args(["--set", "imgsz=640", "--source", "batch=1", "model=2", "--save-json"])
    assert (args.set, args.source, args.save_json) == ("imgsz=640", ["batch=1", "model=2"], True)
