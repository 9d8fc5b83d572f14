"""utils/config.py: every mistake in a configuration ends in one message with file, key, problem and remedy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from utils.config import (
    ConfigError,
    apply_overrides,
    build,
    check_value,
    dump_yaml,
    find_file,
    load_yaml,
    parse_yaml,
    to_dataclass,
    to_plain,
)


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    steps: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise ValueError(f"rate: expected a number above 0, found {self.rate}")


@dataclass(frozen=True)
class Outer:
    name: str
    count: int = 3
    switch: bool = False
    amp: Literal["auto", "off"] = "auto"
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)


class Part:
    def __init__(self, *, width: int, depths: list[int], mode: Literal["a", "b"] = "a", given: str = "") -> None:
        if width < 1:
            raise ValueError(f"width: expected at least 1, found {width}")
        self.values = (width, depths, mode, given)


KINDS = {"part": Part, "path": Path}


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
    value = Outer("x: y #z", count=4, limit=1e-5, inner=Inner(1e-7, [1, 2]))
    plain = to_plain(value)
    assert load_yaml(write(tmp_path, dump_yaml(value))) == plain
    assert to_dataclass(Outer, plain, where="f") == value
    words = {"amp": "off", "answer": "no", "number": "1e3", "nothing": "null", "path": Path("a/b"), "pair": (1, 2)}
    expected = words | {"path": str(Path("a/b")), "pair": [1, 2]}
    assert load_yaml(write(tmp_path, dump_yaml(words))) == expected


# Dataclasses


def test_an_empty_mapping_is_all_defaults() -> None:
    assert to_dataclass(Inner, None, where="f") == to_dataclass(Inner, {}, where="f") == Inner()


def test_nested_dataclasses_are_built_and_numbers_converted() -> None:
    made = to_dataclass(Outer, {"name": "n", "limit": 2, "inner": {"rate": 1, "steps": [1, 2]}}, where="f")
    assert made == Outer("n", limit=2.0, inner=Inner(1.0, [1, 2]))
    assert isinstance(made.inner.rate, float)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "n", "cuont": 3}, r"f.yaml: cuont: unknown key.* Did you mean 'count'\? Known: amp, count"),
        ({"name": "n", "inner": {"rat": 3}}, r"f.yaml: inner.rat: unknown key.* Did you mean 'rate'\?"),
        ({}, "f.yaml: name: this key is missing; expected a text"),
        ({"name": 5}, "f.yaml: name: expected a text, found 5"),
        ({"name": "n", "count": "many"}, "f.yaml: count: expected a whole number, found 'many'"),
        ({"name": "n", "count": 2.5}, "f.yaml: count: expected a whole number, found 2.5"),
        ({"name": "n", "count": True}, "f.yaml: count: expected a whole number, found True"),
        ({"name": "n", "count": None}, "f.yaml: count: expected a whole number, found None"),
        ({"name": "n", "limit": float("nan")}, "f.yaml: limit: expected a number or null, found nan"),
        ({"name": "n", "limit": float("inf")}, "f.yaml: limit: expected a number or null, found inf"),
        ({"name": "n", "switch": 7}, "f.yaml: switch: expected true or false, found 7"),
        ({"name": "n", "amp": "on"}, "f.yaml: amp: expected one of auto, off, found 'on'"),
        ({"name": "n", "inner": 3}, "f.yaml: inner: expected a mapping with the keys rate, steps, found 3"),
        ({"name": "n", "inner": None}, "f.yaml: inner: expected a mapping"),
        ({"name": "n", "inner": {"steps": [1, "b"]}}, r"f.yaml: inner.steps\[1\]: expected a list"),
        ({"name": "n", "inner": {"steps": 4}}, "f.yaml: inner.steps: expected a list, each entry a whole number"),
        ({"name": "n", "inner": {"rate": -1}}, "f.yaml: inner: rate: expected a number above 0, found -1"),
        ([1], r"f.yaml: expected a mapping, found \[1\]. Known keys: name, count"),
    ],
)
def test_each_mistake_names_its_key(mapping: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        to_dataclass(Outer, mapping, where="f.yaml")


def test_all_mistakes_are_told_at_once() -> None:
    mapping = {"cuont": 1, "switch": "perhaps", "inner": {"rate": "x", "step": [1]}}
    with pytest.raises(ConfigError) as caught:
        to_dataclass(Outer, mapping, where="f")
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    for key in ("f.cuont", "f.switch", "f.inner.rate", "f.inner.step", "f.name"):
        assert sum(line.startswith(f"{key}:") for line in lines) == 1


def test_off_is_a_word_where_a_word_is_expected() -> None:
    """YAML 1.1 reads `amp: off` as false."""
    assert to_dataclass(Outer, {"name": "n", "amp": parse_yaml("off")}, where="f").amp == "off"
    assert to_dataclass(Outer, {"name": "n", "switch": parse_yaml("on")}, where="f").switch is True


def test_a_value_that_is_already_right_passes() -> None:
    inner = Inner(2.0)
    assert check_value(inner, Inner, where="f") is inner


# Parts


def test_build_makes_the_type_that_the_mapping_names() -> None:
    part = build(KINDS, {"type": "part", "width": 3, "depths": [1, 2]}, where="w", given="known")
    assert part.values == (3, [1, 2], "a", "known")


def test_build_passes_on_only_what_a_type_takes() -> None:
    assert build(KINDS, {"type": "part", "width": 1, "depths": []}, where="w", other=5).values[0] == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (None, r"w: expected a mapping with the key 'type' \(one of part, path\), found None"),
        ({}, "w.type: this key is missing. Choose one of: part, path"),
        ({"tpye": "part"}, r"w.type: this key is missing. Did you mean 'type' by 'tpye'\?"),
        ({"type": "parts"}, r"w.type: 'parts' is unknown. Did you mean 'part'\? Known: part, path"),
        ({"type": ["part"]}, r"w.type: .*\['part'\].*"),
        ({"type": "part", "width": 1}, "w.depths: this key is missing for type 'part'; expected a list"),
        ({"type": "part", "width": 1, "depth": [1]}, r"w.depth: unknown key for type 'part'. Did you mean 'depths'\?"),
        ({"type": "part", "width": 0, "depths": []}, "w: width: expected at least 1, found 0"),
        ({"type": "part", "width": 1, "depths": [], "given": "x"}, "w.given: unknown key"),
        ({"type": "part", "width": 1, "depths": [], "mode": "c"}, "w.mode: expected one of a, b, found 'c'"),
    ],
)
def test_build_names_what_is_wrong(spec: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(KINDS, spec, where="w", given="known")


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
        assert find_file(name, [folder], what="model") == folder / "one.yaml"
    for name in ("two", "two.yaml", str(tmp_path / "two"), "./two.yaml"):
        assert find_file(name, [folder], what="model").resolve() == tmp_path / "two.yaml"
    (tmp_path / "one.yaml").touch()
    assert find_file("one", [folder], what="model").resolve() == tmp_path / "one.yaml", "what is typed comes first"


def test_a_file_that_is_not_there_gets_a_hint(tmp_path: Path) -> None:
    (tmp_path / "csppeleenet-prn.yaml").touch()
    (tmp_path / "cspdarknet53.yaml").touch()
    with pytest.raises(ConfigError) as caught:
        find_file("cspeleenet-prn", [tmp_path], what="--cfg")
    message = str(caught.value)
    assert "--cfg 'cspeleenet-prn'" in message
    assert "Did you mean 'csppeleenet-prn.yaml'?" in message
    assert "Known: cspdarknet53.yaml, csppeleenet-prn.yaml" in message
    for number in range(20):
        (tmp_path / f"other{number}.yaml").touch()
    with pytest.raises(ConfigError, match=f"yaml'. 22 are in {tmp_path}/$"):
        find_file("cspeleenet-prn", [tmp_path], what="--cfg")
    with pytest.raises(ConfigError, match=r"Known: cspdarknet53\.yaml.*other19"):
        find_file("1234567", [tmp_path], what="--cfg")


@pytest.mark.parametrize("name", ["", ".", "..", "/", "nothing/", "\0"])
def test_strange_names_are_refused_in_words(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        find_file(name, [tmp_path, tmp_path / "missing"], what="--cfg")
