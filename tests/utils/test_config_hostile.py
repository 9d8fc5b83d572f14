"""YAML that nobody meant well: every text ends in a value or in one short ConfigError, at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.config import read_data_config
from models.config import load_model_config
from utils.config import ROOT, ConfigError, apply_overrides, load_yaml, parse_yaml
from utils.recipe import load_recipe
from utils.text import LONGEST_MESSAGE, printable_lines

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 400))
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{','.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, r"line 7: more than 1,000,000 values with aliases written out"),
        (MERGES, r"more than 1,000,000 values"),
        (CHAIN, r"line 49: nested more than 50 deep with aliases written out"),
        ("a: &a [*a]\n", "line 1: the alias stands for something that it is a part of"),
        ("a: &a\n  <<: *a\n", "line 2: the alias stands for something that it is a part of"),
        ("a: " + "[" * 1000, r"line 1: nested more than 50 deep"),
        ("a: " + "{a: " * 1000, r"line 1: nested more than 50 deep"),
        ("\n".join("  " * i + "a:" for i in range(60)), r"line 50: nested more than 50 deep"),
        ("a: !!bool x\n", r"line 1: 'x' cannot be read as !!bool; put it in quotes"),
        ("a: 1\nb: !!int ''\n", r"line 2: '' cannot be read as !!int"),
        ("a: !!timestamp x\n", "line 1: not valid YAML .*timestamp"),
        ("a: !!binary x\n", "line 1: not valid YAML .*binary"),
        ("a: !!set {b}\n", "line 1: not valid YAML .*set"),
        ("a: !!float x\n", "line 1: 'x' cannot be read as !!float"),
        ("a: 0x_\n", r"line 1: '0x_' cannot be read as !!int"),
        ("a: 0b_\n", r"line 1: '0b_' cannot be read as !!int"),
        ("a: " + "7" * 5000, r"line 1: '777.*\.\.\. cannot be read as !!int"),
        ("a: *" + "n" * 9000, "line 1: not valid YAML .*nnn"),
        ("k" * 900 + ": 1\n" + "k" * 900 + ": 2\n", r"line 2: key 'kkk.*\.\.\.' stands twice"),
    ],
)
def test_hostile_yaml_is_answered_at_once(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(tmp_path / "a.yaml")
    assert time.monotonic() - start < 10
    assert len(str(caught.value)) < 600


def test_the_229_bytes_of_a_billion_laughs() -> None:
    text = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join([f'*{before}'] * 7)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
    )
    assert len(text) < 240
    start = time.monotonic()
    with pytest.raises(ConfigError, match="values with aliases written out"):
        parse_yaml(text)
    assert time.monotonic() - start < 10


def test_what_is_meant_well_is_read() -> None:
    assert parse_yaml("a: &a [1, 2]\nb: [*a, *a]\n") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    assert parse_yaml("day: 2001-99-99\nother: 2024-01-31\n") == {"day": "2001-99-99", "other": "2024-01-31"}
    assert parse_yaml("[" * 49 + "1" + "]" * 49) is not None
    assert len(parse_yaml("\n".join(f"{i}: class {i}" for i in range(5000)))) == 5000


def test_a_file_too_large_for_yaml_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.yaml", "wb") as file:
        file.truncate(3_000_000_000)
    with pytest.raises(ConfigError, match=r"a\.yaml: larger than 20 MB"):
        load_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("a=!!bool x", r"--set a=!!bool x: the value is not valid YAML: line 1: 'x' cannot be read as !!bool"),
        ("a=" + "[" * 1000, r"--set a=\[+\.\.\.: the value is not valid YAML: line 1: nested"),
        (".".join("a" * 1000) + "=1", "expected key.path=value"),
        ("d.e=1", "'d' holds the value 'xxx.*, not a group"),
    ],
)
def test_hostile_assignments_are_named_in_short(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        apply_overrides({"d": "x" * 10_000}, [assignment])
    assert len(str(caught.value)) < 800


def test_many_mistakes_make_a_message_of_a_page(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("".join(f"key{i}_{'k' * 500}: {'v' * 100}\n" for i in range(1000)))
    start = time.monotonic()
    for read in (load_recipe, load_model_config):
        with pytest.raises(ConfigError, match="unknown key") as caught:
            read(str(tmp_path / "a.yaml"))
        assert len(str(caught.value)) < 4000
    assert time.monotonic() - start < 30


# Any text at all

TAGS = (
    "",
    "!!bool ",
    "!!int ",
    "!!float ",
    "!!str ",
    "!!null ",
    "!!timestamp ",
    "!!seq ",
    "!!map ",
    "!!binary ",
    "!x ",
)
SCALARS = st.one_of(
    st.sampled_from(
        [
            "",
            "~",
            "yes",
            "0x_",
            "0b",
            "1e3",
            ".inf",
            "-.nan",
            "1:60",
            "2001-99-99",
            "7" * 5000,
            "''",
            "*a",
            "&a x",
            "<<",
        ]
    ),
    st.integers().map(str),
    st.floats().map(str),
    st.text(max_size=20).map(lambda text: f'"{text}"'),
    st.text(max_size=12),
)
TAGGED = st.builds(lambda tag, scalar: tag + scalar, st.sampled_from(TAGS), SCALARS)
VALUES = st.recursive(
    TAGGED,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(TAGGED, inner), max_size=4).map(lambda p: "{" + ", ".join(f"{k}: {v}" for k, v in p) + "}"),
    ),
    max_leaves=12,
)
QUICK = settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def documents(keys: list[str]) -> st.SearchStrategy[str]:
    """Files with these keys, each with any value."""
    names = st.one_of(st.sampled_from(keys), st.sampled_from(keys), st.text(min_size=1, max_size=8))
    rows = st.lists(st.tuples(names, VALUES), min_size=1, max_size=6, unique_by=lambda row: row[0])
    return rows.map(lambda pairs: "".join(f"{key}: {value}\n" for key, value in pairs))


def only_config_errors(read: Callable[[], Any]) -> None:
    try:
        read()
    except ConfigError as error:
        message = str(error)
        assert len(message) <= LONGEST_MESSAGE + 50
        assert printable_lines(message) == message


def keys_of(folder: str) -> list[str]:
    """Keys of the project's own files, groups too."""
    found: set[str] = set()
    for path in sorted((ROOT / folder).glob("*.yaml")):
        for key, value in load_yaml(path).items():
            found |= {key, *(f"{key}.{inner}" for inner in value)} if isinstance(value, dict) else {key}
    return sorted(key for key in found if "." not in key)


@QUICK
@given(text=st.one_of(VALUES, st.text(max_size=60)))
def test_any_yaml_text(text: str) -> None:
    only_config_errors(lambda: parse_yaml(text))


@QUICK
@given(text=documents(["path", "train", "val", "test", "images", "names", "nc", "labels", "category_ids", "folders"]))
def test_any_data_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    only_config_errors(lambda: read_data_config(tmp_path / "data.yaml"))


@QUICK
@given(text=documents(keys_of("cfg/train")))
def test_any_recipe_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    only_config_errors(lambda: load_recipe(str(tmp_path / "recipe.yaml")))


@QUICK
@given(text=documents([*keys_of("cfg"), "backbone", "neck", "head", "base", "name"]))
def test_any_model_yaml(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    only_config_errors(lambda: load_model_config(str(tmp_path / "model.yaml")))
