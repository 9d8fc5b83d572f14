"""Any value and any bytes in the file of a trained model: a model, or one short error of our own, at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from models.build import build_model
from models.info import ModelInfo
from models.predictor import open_predictor
from models.pretrained import start_from_
from tests.models.saved_models import model_of, nested, refused_or_fine, saved_state, written
from utils import info
from utils.checkpoint import load_checkpoint
from utils.weights import read_safetensors, write_safetensors

EXAMPLES = settings(
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "25")),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class State(dict):
    """The content of a checkpoint; hypothesis prints its arguments, and this one has a megabyte."""

    def __repr__(self) -> str:
        return "State()"


@pytest.fixture(scope="module")
def state(tiny_model: Path) -> State:
    return State(saved_state(tiny_model))


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [10**30, 10**5000, "x" * 10**5, "\x1b[2J\n", "\ud800", [], {}, [[]], {"type": "none"}, nested(200)]
    ),
    st.lists(st.integers(-2, 70) | st.text(max_size=3), max_size=4),
    st.dictionaries(st.text(max_size=5) | st.integers(0, 3), st.integers(0, 9), max_size=3),
)
TEXTS = st.none() | st.text(max_size=20) | st.sampled_from(["[" * 5000, "9" * 5000, "NaN"])
PLACES = st.lists(st.integers(0, 40), min_size=1, max_size=4)


def changed(value: Any, place: list[int], junk: Any) -> Any:
    """A copy of a nest in which one value, found by numbers, is another."""
    if not place or not isinstance(value, dict | list) or not value:
        return junk
    if isinstance(value, list):
        index = place[0] % len(value)
        return [changed(item, place[1:], junk) if number == index else item for number, item in enumerate(value)]
    chosen = list(value)[place[0] % len(value)]
    return {key: changed(item, place[1:], junk) if key == chosen else item for key, item in value.items()}


@EXAMPLES
@given(place=PLACES, junk=JUNK)
@example(place=[1, 0, 1], junk=10**9)
def test_any_value_in_a_checkpoint(place: list[int], junk: Any, state: State, tmp_path: Path) -> None:
    path = written(tmp_path, changed(dict(state), place, junk))
    predictor = refused_or_fine(lambda: open_predictor(path, device="cpu"))
    if predictor is not None:
        assert len(predictor.info.names) == len(predictor.info.category_ids) == 2
    refused_or_fine(lambda: start_from_(build_model(model_of(state), 2), path))
    assert info.main([str(path)]) in (0, 2)
    assert info.main([str(path), "--json"]) in (0, 2)


@EXAMPLES
@given(start=st.integers(0, 10**6), put=st.binary(max_size=40), cut=st.integers(0, 200))
def test_any_bytes_in_a_checkpoint(start: int, put: bytes, cut: int, state: State, tmp_path: Path) -> None:
    path = written(tmp_path, {key: state[key] for key in ("format", "names", "epoch", "sums")})
    data = path.read_bytes()
    start %= len(data)
    path.write_bytes(data[:start] + put + data[start + cut :])
    refused_or_fine(lambda: load_checkpoint(path))


@EXAMPLES
@given(
    place=PLACES, junk=JUNK, text=st.none() | st.text(max_size=20) | st.sampled_from(["[" * 5000, "9" * 5000, "NaN"])
)
def test_any_metadata_of_a_safetensors_file(
    place: list[int], junk: Any, text: str | None, state: State, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    if not path.exists():
        write_safetensors(tmp_path / "good.safetensors", state)
    tensors, metadata = read_safetensors(tmp_path / "good.safetensors")
    keys = [key for key in metadata if key not in ("format", "cspdet")]
    key = keys[place[0] % len(keys)]
    if text is None:
        try:
            text = json.dumps(changed(json.loads(metadata[key]), place[1:], junk), skipkeys=True)
        except ValueError:  # a number of 5,000 digits is no JSON
            text = "9" * 5000
    save_file(tensors, path, {**metadata, key: text.encode("utf-8", "replace").decode()})
    refused_or_fine(lambda: open_predictor(path, device="cpu"))
    assert info.main([str(path)]) in (0, 2)


@EXAMPLES
@given(start=st.integers(0, 4000), put=st.binary(max_size=40), cut=st.integers(0, 60))
def test_any_bytes_in_a_safetensors_file(start: int, put: bytes, cut: int, state: State, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    if not (tmp_path / "good.safetensors").exists():
        write_safetensors(tmp_path / "good.safetensors", state)
    data = (tmp_path / "good.safetensors").read_bytes()
    path.write_bytes(data[:start] + put + data[start + cut :])
    refused_or_fine(lambda: open_predictor(path, device="cpu"))


def as_metadata(values: dict) -> list[dict[str, str]]:
    """Our part of a file's metadata as files have it, and as those of version 0.1 have it."""
    try:
        older = {str(key): json.dumps(value, skipkeys=True) for key, value in values.items()}
        return [older, {"cspdet": json.dumps(values, skipkeys=True)}]
    except ValueError:
        return [{"cspdet": "9" * 5000}, {"names": "9" * 5000}]


@EXAMPLES
@given(place=PLACES, junk=JUNK, shape=st.sampled_from([(None, None), (64, 64), (64, None), (10**30, 7)]))
def test_any_metadata_of_an_exported_file(place: list[int], junk: Any, shape: tuple[int | None, int | None]) -> None:
    good = json.loads(ModelInfo(("cat", "dog"), (1, 7), (64, 64), "letterbox", 32).to_metadata()["cspdet"])
    values = changed(good, place, junk)
    if not isinstance(values, dict):
        return
    for metadata in as_metadata(values):
        read = refused_or_fine(lambda metadata=metadata: ModelInfo.from_metadata(metadata, shape=shape, where="m.onnx"))
        if read is None:
            continue
        assert len(read.names) == len(read.category_ids) == 2
        assert all(side % read.stride == 0 for side in read.image_size)
