"""Every message of the readers has a kind of its own in the doctor's summary: none lands in a bucket without a name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from data.doctor.kinds import KINDS, UNUSABLE, kind_of

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    {*ROOT.glob("data/formats/*.py"), *ROOT.glob("data/doctor/*.py"), ROOT / "data" / "read.py",
     ROOT / "data" / "classes.py", ROOT / "data" / "images.py", ROOT / "data" / "cut_jpeg.py"}
)  # fmt: skip
MESSAGE_AT = {"add": 1, "add_first": 1, "lost": 1, "lost_file": 1, "lose": 1, "LabelProblem": 1, "UnknownClass": 1,
              "ValueError": 0}  # fmt: skip
"""Calls that make a message -> which argument it is."""


def texts(node: ast.expr, names: dict[str, list[ast.expr]], depth: int = 0) -> list[str]:
    """What an expression may say, with 7 for each value in it; nothing for what is not written here."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        said = [""]
        for part in node.values:
            value = part.value if isinstance(part, ast.FormattedValue) else part
            found = texts(value, names, depth + 1) or ["7"]
            said = [text + one for text in said for one in found][:50]
        return said
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        rights = texts(node.right, names, depth + 1)
        return [left + right for left in texts(node.left, names, depth + 1) for right in rights]
    values = [node.body, node.orelse] if isinstance(node, ast.IfExp) else []
    if isinstance(node, ast.Name) and depth < 5:
        values = names.get(node.id, [])
    return [text for value in values for text in texts(value, names, depth + 1)]


def assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names and the values that an assignment or the loop over written values gives them."""
    pairs: list[tuple[ast.expr, ast.expr]] = []
    if isinstance(node, ast.Assign):
        values = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
        pairs = [(node.targets[0], value) for value in values]
    elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
        pairs = [(node.target, value) for value in node.iter.elts]
    for target, value in pairs:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            both = list(zip(target.elts, value.elts, strict=True))
        else:
            both = [(target, value)]
        yield from ((one.id, each) for one, each in both if isinstance(one, ast.Name))


def messages() -> list[tuple[str, str]]:
    """Place in the source and text of every message."""
    found = []
    for file in SOURCES:
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            names: dict[str, list[ast.expr]] = {}
            for node in ast.walk(function):
                for target, value in assigned(node):
                    names.setdefault(target, []).append(value)
            for node in ast.walk(function):
                if isinstance(node, ast.Call):
                    called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                    index = MESSAGE_AT.get(called, 99)
                    if index < len(node.args):
                        place = f"{file.name}:{node.lineno}"
                        found += [(place, text) for text in texts(node.args[index], names)]
    return found


MESSAGES = sorted(set(messages()))


def test_there_are_many_messages() -> None:
    assert len(MESSAGES) > 90  # else the search above finds them no more


def test_every_message_has_a_kind() -> None:
    without = [one for one in MESSAGES if one[1] != "no image is left" and kind_of(one[1]) not in KINDS]
    assert without == []


def test_what_stops_a_split_is_one_kind() -> None:
    for action, kind in UNUSABLE.items():
        assert kind_of("whatever the message of an error says", action) == kind
    assert f'"{next(iter(UNUSABLE))}"' in (ROOT / "data" / "doctor" / "examine.py").read_text(encoding="utf-8")
