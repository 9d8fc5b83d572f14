"""Any text in a cfg and any bytes in a .weights file: a model, or one short error of the project's own, at once."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models.build import build_model
from models.config import load_model_config
from models.darknet.cfg import declared_classes
from models.darknet.header import WeightsHeader
from models.darknet.keys import KINDS, REFUSED, known_keys
from models.darknet.weights import load_weights_, stored_layers
from models.detector import Detector
from tests.models.darknet.cfgs import Cfg
from tests.models.darknet.common import TINY, build_text, count_floats, randomise_
from tests.models.saved_models import refused_or_fine

EXAMPLES = settings(
    max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "60")),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

LINES = TINY.splitlines()
VALUES = st.one_of(
    st.integers(-6, 70).map(str),
    st.sampled_from(
        ["linear", "leaky", "mish", "ciou", "per_channel", "relu", "1", "0", "-1,-2", "0,1,2", "10,14,23,27"]
    ),
    st.sampled_from(["99999999999999999999", "9" * 5000, "2147483647", "1e999", "nan", "0x10", "1_0", "x" * 9000, ""]),
    st.lists(st.integers(-9, 90), max_size=6).map(lambda numbers: ",".join(map(str, numbers))),
    st.text(max_size=8),
)
SECTIONS = st.sampled_from([*KINDS, *REFUSED, "maxpol", "a" * 5000])
KEYS = st.one_of(st.sampled_from(sorted({key for kind in KINDS for key in known_keys(kind)})), st.text(max_size=6))
ROWS = st.one_of(
    SECTIONS.map(lambda word: f"[{word}]"),
    st.builds(lambda key, value: f"{key}={value}", KEYS, VALUES),
    st.text(max_size=9),
)
EDITS = st.lists(st.tuples(st.integers(0, len(LINES)), st.integers(0, 2), ROWS), max_size=5)


def edited(edits: list[tuple[int, int, str]]) -> str:
    """A sound cfg in which some lines are replaced: place, lines left out, line put in."""
    lines = list(LINES)
    for place, left_out, line in edits:
        lines[place : place + left_out] = [line]
    return "\n".join(lines)


TEXTS = st.one_of(
    EDITS.map(edited),
    st.lists(ROWS, max_size=12).map(lambda rows: "\n".join(["[net]", "width=32", "height=32", *rows])),
    st.text(max_size=60),
)


@EXAMPLES
@given(text=TEXTS)
@example(text=TINY)
@example(text=TINY.replace("[maxpool]", "[route]\nlayers=-1,-1\n" * 99))
@example(text=TINY.replace("stride=2", "stride=2\ngroups=0"))
def test_any_cfg(text: str, tmp_path: Path) -> None:
    """No memory either: a network is planned and built on the meta device."""
    (tmp_path / "x.cfg").write_text(text, encoding="utf-8", errors="surrogatepass")
    config = refused_or_fine(lambda: load_model_config(tmp_path / "x.cfg"))
    if config is not None:
        with torch.device("meta"):
            classes = declared_classes(config.backbone)
            assert classes is not None
            refused_or_fine(lambda: build_model(config, classes))


def _small() -> Detector:
    """Two convolutions with norm, one without; 83 numbers."""
    cfg = Cfg(32)
    cfg.conv(2, 3, 2)
    cfg.yolo("0", "5,6", classes=1)
    model = build_text(cfg.text())
    assert isinstance(model, Detector)
    randomise_(model)
    return model


NUMBERS = count_floats(_small())
HEADERS = st.builds(
    lambda start, seen, wide: struct.pack("<iii", *start) + struct.pack("<Q" if wide else "<I", seen),
    st.tuples(st.integers(-1, 2), st.integers(0, 3), st.integers(0, 5)),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
FLOATS = st.lists(
    st.floats(width=32) | st.floats(0, 1, width=32), min_size=max(NUMBERS - 2, 0), max_size=NUMBERS + 2
).map(lambda values: np.array(values, "<f4").tobytes())


@EXAMPLES
@given(
    content=st.one_of(st.binary(max_size=400), st.tuples(HEADERS, FLOATS, st.binary(max_size=5)).map(b"".join)),
    partial=st.booleans(),
)
@example(content=WeightsHeader().pack() + np.ones(NUMBERS, "<f4").tobytes(), partial=False)
def test_any_weights_file(content: bytes, partial: bool, tmp_path: Path) -> None:
    """What is loaded is finite, is the file's end to the last byte, and its variances are none below 0."""
    path, model = tmp_path / "x.weights", _small()
    path.write_bytes(content)
    loaded = refused_or_fine(lambda: load_weights_(model, path, partial=partial))
    if loaded is None:
        return
    layers = stored_layers(model)
    if loaded.layers == len(layers):
        assert len(content) == loaded.header.size + 4 * NUMBERS
    assert all(torch.isfinite(tensor).all() for layer in layers for tensor in layer.tensors)
    assert all(float(layer.tensors[3].min()) > -1e-12 for layer in layers if len(layer.tensors) == 5)
