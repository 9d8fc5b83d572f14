"""utils/schema.py: every mistake in a mapping ends in one message with file, key, problem and remedy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from utils.config import ConfigError, dump_yaml, load_yaml, parse_yaml, to_plain
from utils.schema import build, check_value, to_dataclass


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


def test_a_dataclass_survives_yaml(tmp_path: Path) -> None:
    value, path = Outer("x: y #z", count=4, limit=1e-5, inner=Inner(1e-7, [1, 2])), tmp_path / "config.yaml"
    plain = to_plain(value)
    path.write_text(dump_yaml(value), encoding="utf-8")
    assert load_yaml(path) == plain
    assert to_dataclass(Outer, plain, where="f") == value


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
