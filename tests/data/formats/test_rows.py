"""What readers report, in a few lines."""

from __future__ import annotations

from data.formats.rows import LEFT_OUT, MATCHED, summarize
from utils.structures import LabelProblem


def test_summary_of_problems() -> None:
    assert summarize([]) == "no problems in the labels"
    problems = [LabelProblem(f"a.txt:{line}", "has no area", "left out") for line in range(1, 13)]
    text = summarize([*problems, LabelProblem("b.txt:1", "sticks out", "clipped")], limit=3)
    assert text.splitlines() == [
        "13 problems in the labels (12 left out, 1 clipped):",
        "  a.txt:1: has no area; left out",
        "  a.txt:2: has no area; left out",
        "  a.txt:3: has no area; left out",
        "  ... and 10 more; 'python -m data.doctor DATA' lists all of them",
    ]


def test_what_was_only_matched_is_no_problem() -> None:
    note = LabelProblem("a.xml", "2 of 3 images are in the subset for train", MATCHED)
    assert summarize([note]).startswith("1 note on the labels (1 matched by name):")
    assert summarize([note, LabelProblem("a", "b", LEFT_OUT)]).startswith("2 problems in the labels")
