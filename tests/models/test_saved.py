"""Files of a trained model that nobody here wrote: one check where a file is opened, whatever command opens it."""

from __future__ import annotations

import copy
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import detect
import export
import train
import val
from models.build import build_model
from models.config import load_model_config
from models.predictor import open_predictor
from models.pretrained import start_from_
from tests.models.saved_models import bomb, model_of, nested, saved_state, with_first_weight, written
from utils import info
from utils.checkpoint import load_checkpoint
from utils.config import ConfigError
from utils.text import LONGEST_MESSAGE
from utils.weights import write_safetensors


@pytest.fixture(scope="module")
def state(tiny_model: Path) -> dict[str, Any]:
    return saved_state(tiny_model)


KINDS: dict[str, tuple[str, Any]] = {
    "names a text": ("names", ""),
    "names a number": ("names", 1),
    "names of numbers": ("names", [1, 2]),
    "names that are empty": ("names", ["", "dog"]),
    "no names": ("names", []),
    "names a mapping": ("names", {"cat": 0}),
    "a name without end": ("names", ["x" * 10**6, "dog"]),
    "image_size a number": ("image_size", 1),
    "image_size a text": ("image_size", "a"),
    "image_size of three": ("image_size", [64, 64, 64]),
    "image_size of texts": ("image_size", ["64", "64"]),
    "image_size of one pixel": ("image_size", [1, 1]),
    "image_size that the stride does not divide": ("image_size", [64, 70]),
    "image_size without end": ("image_size", [10**30, 64]),
    "image_size of truth": ("image_size", [True, 64]),
    "category_ids a number": ("category_ids", 1),
    "category_ids of texts": ("category_ids", ["1", "2"]),
    "category_ids twice": ("category_ids", [1, 1]),
    "category_ids too few": ("category_ids", [1]),
    "category_ids without end": ("category_ids", [10**5000, 1]),
    "resize a number": ("resize", 3),
    "resize unknown": ("resize", "zoom"),
    "data a list": ("data", [1]),
    "ema a number": ("ema", 7),
    "ema none": ("ema", None),
    "ema a list": ("ema", [torch.zeros(1)]),
    "ema of numbers": ("ema", {"a": 1}),
    "ema by numbers": ("ema", {1: torch.zeros(1)}),
    "ema of nothing": ("ema", {}),
    "model a number": ("model", 3),
    "model a list": ("model", [1]),
    "model of nothing": ("model", {}),
    "model nested without end": ("model", {"backbone": nested(150), "head": {}}),
    "model a bomb": ("model", {"backbone": {"type": bomb()}, "head": {}}),
    "format only": ("names", None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_a_wrong_kind_are_refused_by_every_reader(
    kind: str, state: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, value = KINDS[kind]
    path = written(tmp_path, {**state, key: value})
    with pytest.raises(ConfigError, match=r"x\.pt: ") as caught:
        open_predictor(path, device="cpu")
    assert len(str(caught.value)) < LONGEST_MESSAGE
    assert key in str(caught.value) or "values" in str(caught.value) or "fit the model" in str(caught.value)
    info.main([str(path)])  # tells what it can, or refuses; no traceback
    if key == "ema":
        with pytest.raises(ConfigError):
            start_from_(build_model(load_model_config("cspdet-n"), 2), path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_every_command_that_opens_a_model_says_so_in_one_line(
    suffix: str,
    state: dict[str, Any],
    tiny_model: Path,
    tiny_coco: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad, data = {**state, "image_size": 1}, ["--data", str(tiny_coco)]
    path = str(written(tmp_path, bad))
    (tmp_path / "x.jpg").touch()
    if suffix == ".safetensors":
        path = str(tmp_path / "x.safetensors")
        write_safetensors(Path(path), bad)
    commands: list[tuple[Callable[[list[str]], int], list[str]]] = [
        (val.main, ["--weights", path, *data]),
        (detect.main, ["--weights", path, "--source", str(tmp_path / "x.jpg")]),
        (export.main, ["--weights", path, "--format", "onnx"]),
        (info.main, [path]),
        (info.main, [path, "--json"]),
        (train.main, ["--cfg", str(tiny_model), "--weights", path, *data, "--project", str(tmp_path)]),
    ]
    for command, arguments in commands:
        assert command(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert "image_size: expected height and width, whole numbers from 1 to 65536, found 1" in error, arguments
        assert "Traceback" not in error


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_numbers_that_are_none_are_refused_with_the_layer(
    value: float, suffix: str, state: dict[str, Any], tmp_path: Path
) -> None:
    name = next(name for name in state["ema"] if name.endswith("conv.weight"))
    broken = state["ema"][name].clone()
    broken.view(-1)[5] = value
    bad = with_first_weight(state, broken)
    path = written(tmp_path, bad)
    if suffix == ".safetensors":
        path = tmp_path / "x.safetensors"
        write_safetensors(path, bad)
    message = f"'{name}': 1 of its 216 numbers are NaN or infinite"
    for read in (
        lambda: open_predictor(path, device="cpu"),
        lambda: start_from_(build_model(model_of(state), 2), path),
    ):
        with pytest.raises(ConfigError) as caught:
            read()
        assert message in str(caught.value)


def test_weights_of_other_programs_too(state: dict[str, Any], tmp_path: Path) -> None:
    """Only those that have a place in the model are looked at: others' masks may be infinite."""
    name = next(name for name in state["ema"] if name.endswith("conv.weight"))
    torch.save({**state["ema"], "mask": torch.tensor(-math.inf)}, tmp_path / "x.pth")
    start_from_(build_model(model_of(state), 2), tmp_path / "x.pth")
    torch.save({**state["ema"], name: torch.full_like(state["ema"][name], math.nan)}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=f"x.pth: '{name}': 216 of its 216 numbers are NaN"):
        start_from_(build_model(model_of(state), 2), tmp_path / "x.pth")


def test_variances_below_zero_are_refused_and_denormal_ones_are_not(state: dict[str, Any], tmp_path: Path) -> None:
    name = next(name for name in state["ema"] if name.endswith("running_var"))
    for value, fine in ((-7e-44, True), (-0.5, False)):
        variances = state["ema"][name].clone()
        variances[0] = value
        path = written(tmp_path, {**state, "ema": {**state["ema"], name: variances}})
        if fine:
            open_predictor(path, device="cpu")
        else:
            with pytest.raises(ConfigError, match=f"'{name}': expected variances from 0 on, found -0.5"):
                open_predictor(path, device="cpu")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(10**12),
        torch.zeros(2, 3).to_sparse(),
        torch.empty(10**9, 10**3, device="meta"),
        torch.zeros(16, 3, 3, 3, dtype=torch.complex64),
    ],
    ids=["expanded", "sparse", "meta", "complex"],
)
def test_tensors_that_are_more_than_the_file_are_refused(
    tensor: torch.Tensor, state: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"x\.pt: .*(plain tensor|cannot be read)"):
        open_predictor(written(tmp_path, with_first_weight(state, tensor)), device="cpu")
    torch.save({"first": tensor}, tmp_path / "x.pth")
    with pytest.raises(ConfigError, match=r"x\.pth: .*(plain tensor|cannot be read)"):
        start_from_(build_model(model_of(state), 2), tmp_path / "x.pth")


def test_a_file_that_unpacks_to_more_than_it_is_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    source, packed = written(tmp_path, {**state, "large": torch.zeros(10**7)}), tmp_path / "y.pt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    assert packed.stat().st_size < 10**7
    with pytest.raises(ConfigError, match="its parts are compressed"):
        load_checkpoint(packed)


@pytest.mark.parametrize(
    "part",
    [
        {"backbone": {"depths": [10**9, 1, 1]}},
        {"backbone": {"channels": [10**9, 10**9, 10**9]}},
        {"backbone": {"stem_channels": 10**30}},
        {"backbone": {"channels": []}},
        {"backbone": {"channels": [-1, 0, 1]}},
        {"head": {"anchors": []}},
        {"head": {"anchors": [[1]]}},
        {"head": {"type": ["anchor"]}},
        {"image_size": True},
        {"published": [{"image_size": 1, "unverified": 3}]},
    ],
)
def test_descriptions_of_models_that_cannot_be_are_refused_at_once(
    part: dict[str, Any], state: dict[str, Any], tmp_path: Path
) -> None:
    model = copy.deepcopy(state["model"])
    for key, value in part.items():
        model[key] = {**model[key], **value} if isinstance(value, dict) else value
    with pytest.raises(ConfigError):
        open_predictor(written(tmp_path, {**state, "model": model}), device="cpu")


def test_sections_of_a_cfg_in_a_checkpoint_are_checked_too(state: dict[str, Any], tmp_path: Path) -> None:
    for sections in ([], [{"section": "net"}], [{"section": ["net"]}], [{"section": "yolo", "line": "x"}], [{"a": 1}]):
        model = {**state["model"], "backbone": {"type": "darknet_cfg", "sections": sections}, "neck": None}
        with pytest.raises(ConfigError):
            open_predictor(written(tmp_path, {**state, "model": model}), device="cpu")
