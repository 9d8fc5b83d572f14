"""utils/config.py: every mistake in a configuration ends in one message with file, key, problem and remedy."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from utils.config import ConfigError, apply_overrides, dump_yaml, find_file, load_yaml, parse_yaml


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# YAML


def test_an_empty_file_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config.yaml: expected 'key: value' lines, found nothing"):
        load_yaml(write(tmp_path, ""))
    with pytest.raises(ConfigError, match="found a list"):
        load_yaml(write(tmp_path, "- a\n- b\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"config.yaml, line 3: key 'a' stands twice \(first on line 1\)"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", r"line 4: key 'b' stands twice \(first on line 2\)"),
        ("a: {b: 1, b: 2}\n", "line 1: key 'b' stands twice"),
        ("a: [1, 2\nb: 3\n", r"config.yaml, line 2: not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1: not valid YAML"),
        ("? [1, 2]\n: 3\n", "config.yaml, line 1: .*key"),
        ("a: {{b}}\n", "config.yaml, line 1: .*key"),
        ("a: b\n\tc: d\n", "line 2: not valid YAML"),
        ("&x a: *y\n", "not valid YAML"),
    ],
)
def test_bad_yaml_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_yaml(write(tmp_path, text))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing.yaml: cannot be read \(No such file"):
        load_yaml(tmp_path / "nothing.yaml")
    path = tmp_path / "latin.yaml"
    path.write_bytes("name: Größe\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"not UTF-8 text \(byte 8\)"):
        load_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("-2E5", -2e5), ("1.5e3", 1500.0), ("3.e-2", 0.03), ("1e-3x", "1e-3x"), ("0.5", 0.5), ("7", 7)],
)
def test_exponents_without_a_point_are_numbers(text: str, value: Any) -> None:
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


def test_merge_keys_and_own_keys_go_together(tmp_path: Path) -> None:
    path = write(tmp_path, "base: &base {a: 1, b: 2}\nmine: {<<: *base, b: 3}\n")
    assert load_yaml(path)["mine"] == {"a": 1, "b": 3}


def test_dumped_yaml_reads_back_the_same(tmp_path: Path) -> None:
    words = {"amp": "off", "answer": "no", "number": "1e3", "nothing": "null", "path": Path("a/b"), "pair": (1, 2)}
    expected = words | {"path": str(Path("a/b")), "pair": [1, 2]}
    assert load_yaml(write(tmp_path, dump_yaml(words))) == expected


# --set


def test_overrides_change_a_copy() -> None:
    config = {"a": {"b": 1, "c": 2}, "d": 3}
    changed = apply_overrides(config, ["a.b=1e-2", "d=[1, x]", "e.f.g=null", "a.c={k: true}", "h="])
    assert changed == {"a": {"b": 0.01, "c": {"k": True}}, "d": [1, "x"], "e": {"f": {"g": None}}, "h": None}
    assert config == {"a": {"b": 1, "c": 2}, "d": 3}
    assert apply_overrides(config, []) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.b", r"--set a.b: expected key.path=value"),
        ("=3", "--set =3: expected key.path=value"),
        ("d.e=1", "--set d.e=1: 'd' holds the value 3, not a group of keys"),
        ("d=[1", r"--set d=\[1: the value is not valid YAML"),
        ("d={a: 1, a: 2}", "stands twice"),
    ],
)
def test_a_bad_assignment_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides({"d": 3}, [text])


# Files


def test_files_are_found_by_path_or_by_name_with_or_without_suffix(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cfg"
    folder.mkdir()
    (folder / "one.yaml").touch()
    (tmp_path / "two.yaml").touch()
    for name in ("one", "one.yaml"):
        assert find_file(name, [folder], kind="model") == folder / "one.yaml"
    for name in ("two", "two.yaml", str(tmp_path / "two"), "./two.yaml"):
        assert find_file(name, [folder], kind="model").resolve() == tmp_path / "two.yaml"
    (tmp_path / "one.yaml").touch()
    assert find_file("one", [folder], kind="model").resolve() == tmp_path / "one.yaml", "what is typed comes first"


def test_a_file_that_is_not_there_gets_a_hint(tmp_path: Path) -> None:
    (tmp_path / "csppeleenet-prn.yaml").touch()
    (tmp_path / "cspdarknet53.yaml").touch()
    with pytest.raises(ConfigError) as caught:
        find_file("cspeleenet-prn", [tmp_path], kind="--cfg")
    message = str(caught.value)
    assert "--cfg 'cspeleenet-prn'" in message
    assert "Did you mean 'csppeleenet-prn.yaml'?" in message
    assert "Known: cspdarknet53.yaml, csppeleenet-prn.yaml" in message
    for number in range(20):
        (tmp_path / f"other{number}.yaml").touch()
    with pytest.raises(ConfigError, match=f"yaml'. 22 are in {tmp_path}/$"):
        find_file("cspeleenet-prn", [tmp_path], kind="--cfg")
    with pytest.raises(ConfigError, match=r"Known: cspdarknet53\.yaml.*other19"):
        find_file("1234567", [tmp_path], kind="--cfg")


@pytest.mark.parametrize("name", ["", ".", "..", "/", "nothing/", "\0"])
def test_strange_names_are_refused_in_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        find_file(name, [tmp_path, tmp_path / "missing"], kind="--cfg")


def test_each_line_of_an_error_is_one_line() -> None:
    inner = ConfigError(Path("a\nb.yaml: x"), "second")
    error = ConfigError("first\x1b[31m", inner)
    assert str(error) == "first\\u001b[31m\na\\nb.yaml: x\nsecond"
    assert error.lines == ("first\\u001b[31m", "a\\nb.yaml: x", "second")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(ConfigError()) == ""
