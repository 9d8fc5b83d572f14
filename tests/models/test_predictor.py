"""open_predictor: boxes and scores from a checkpoint, an ONNX file and an OpenVINO model, and clear refusals."""

from __future__ import annotations

import ast
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.build import build_model
from models.config import load_model_config
from models.info import ModelInfo
from models.predictor import default_weights, open_predictor
from models.predictor_torch import ModelPredictor
from models.runtimes import _in_batches, import_openvino, openvino_core
from utils.checkpoint import save_checkpoint
from utils.config import ConfigError, to_plain

CPU = torch.device("cpu")
INFO = ModelInfo(("cat", 'süß "dog"'), (1, 7), (64, 96), "stretch", 32)
COLOURS = replace(INFO, names=("red", 'süß "green"', "blue"), category_ids=(1, 7, 9))


@pytest.fixture(scope="module")
def state() -> dict:
    """What a checkpoint holds, for a tiny model."""
    torch.manual_seed(0)
    config = load_model_config(
        "cspdet-n", ["image_size=[64, 96]", "backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]"]
    )
    averaged, raw = build_model(config, 2), build_model(config, 2)
    return {
        "model": to_plain(config),
        "names": list(INFO.names),
        "category_ids": list(INFO.category_ids),
        "image_size": [64, 96],
        "resize": "stretch",
        "data": "shapes",
        "weights": raw.state_dict(),
        "ema": averaged.state_dict(),
    }


def test_a_checkpoint_gives_its_averaged_weights(state: dict, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.pt", state)
    predictor = open_predictor(tmp_path / "best.pt", device="cpu")
    assert (predictor.names, predictor.info.category_ids) == (INFO.names, INFO.category_ids)
    assert (predictor.image_size, predictor.resize, predictor.info.stride) == ((64, 96), "stretch", 32)
    assert predictor.info.data == "shapes"
    assert "PyTorch on cpu" in predictor.description
    images = torch.rand(2, 3, 64, 96)
    boxes, scores = predictor.predict(images)
    assert boxes.shape == (2, (8 * 12 + 4 * 6 + 2 * 3) * 3, 4)
    assert scores.shape == (2, boxes.shape[1], 2)
    config = load_model_config("cspdet-n", ["backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]"])
    for key, same in (("ema", True), ("weights", False)):
        model = build_model(config, 2)
        model.load_state_dict(state[key])
        with torch.inference_mode():
            assert torch.allclose(model.eval().predict(images)[1], scores, rtol=1e-4, atol=0) is same


def test_a_model_in_training_mode_is_put_into_evaluation_mode(state: dict) -> None:
    config = load_model_config("cspdet-n", ["backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]"])
    model = build_model(config, 2).train()
    info = ModelInfo(("a", "b"), (1, 2), (64, 64), "letterbox", model.stride)
    predictor = ModelPredictor(model, info, device=CPU)
    image = torch.rand(1, 3, 64, 64)
    alone = predictor.predict(image)[1][0]
    among = predictor.predict(torch.cat((image, torch.rand(3, 3, 64, 64))))[1][0]
    torch.testing.assert_close(alone, among)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ema": None}, "has no key 'ema'"),
        ({"names": ["one"]}, "the weights do not fit the model 'cspdet-n'"),
        ({"model": {"backbone": {"type": "none"}, "head": {"type": "anchor"}}}, "'none' is unknown"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(state: dict, change: dict, message: str, tmp_path: Path) -> None:
    changed = {key: value for key, value in {**state, **change}.items() if value is not None}
    save_checkpoint(tmp_path / "x.pt", changed)
    with pytest.raises(ConfigError, match=message):
        open_predictor(tmp_path / "x.pt", device="cpu")


def test_sizes_that_do_not_fit_are_refused() -> None:
    INFO.check_size((32, 320), where="--img-size")
    with pytest.raises(ConfigError, match=r"--img-size: expected multiples of 32, .* 100 x 40; the nearest is 96 x 32"):
        INFO.check_size((100, 40), where="--img-size")
    with pytest.raises(ConfigError, match="exported for 64 x 96 alone"):
        replace(INFO, fixed_size=True).check_size((64, 64), where="--img-size")


def test_metadata_round_trip() -> None:
    for shape, fixed in (((64, 96), True), ((None, None), False), ((64, None), False)):
        read = ModelInfo.from_metadata(INFO.to_metadata(), shape=shape, where="m.onnx")
        assert read == replace(INFO, fixed_size=fixed)
    guessed = replace(INFO, named=False, nms="greedynms", beta_nms=0.5)
    assert ModelInfo.from_metadata(guessed.to_metadata(), shape=(None, None), where="m.onnx") == guessed
    ours = json.loads(INFO.to_metadata()["cspdet"])
    older = {key: json.dumps(value) for key, value in ours.items()}
    assert ModelInfo.from_metadata(older, shape=(None, None), where="m.onnx") == INFO
    for broken in (
        {},
        {**older, "names": "cat"},
        {**older, "image_size": "3"},
        {"cspdet": "cat"},
        {"cspdet": json.dumps({**ours, "names": "cat"})},
        {"cspdet": json.dumps({**ours, "image_size": 3})},
    ):
        with pytest.raises(ConfigError, match=r"m\.onnx: not a detector exported by CSPDet"):
            ModelInfo.from_metadata(broken, shape=(None, None), where="m.onnx")


def test_metadata_has_what_readers_of_ultralytics_files_parse() -> None:
    metadata = replace(INFO, names=("cat", 'it\'s "big"')).to_metadata()
    assert ast.literal_eval(metadata["names"]) == {0: "cat", 1: 'it\'s "big"'}
    assert ast.literal_eval(metadata["imgsz"]) == [64, 96]
    assert (int(metadata["stride"]), metadata["task"]) == (32, "detect")


@pytest.mark.parametrize("size", [None, 1, 2, 3, 8])
def test_files_with_a_fixed_batch_take_any_number_of_images(size: int | None) -> None:
    images, seen = np.random.default_rng(0).random((5, 3, 4, 4), np.float32), []

    def run(part: np.ndarray) -> list[np.ndarray]:
        seen.append(len(part))
        return [part[:, :1, 0], part[:, :, 0]]

    boxes, scores = _in_batches(run, images, size)
    assert np.array_equal(boxes, images[:, :1, 0])
    assert np.array_equal(scores, images[:, :, 0])
    assert set(seen) == {size or 5}


def test_newest_weights_and_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"python train.py --cfg .* --weights"):
        default_weights(tmp_path)
    for age, name in ((50, "exp"), (10, "exp2"), (90, "exp3")):
        (tmp_path / name / "weights").mkdir(parents=True)
        (tmp_path / name / "weights" / "best.pt").touch()
        os.utime(tmp_path / name / "weights" / "best.pt", (10**9 - age, 10**9 - age))
    assert default_weights(tmp_path) == tmp_path / "exp2" / "weights" / "best.pt"


def write_onnx(path: Path, *, batch: int | None = None, side: int | None = None, metadata: dict | None = None) -> Path:
    """Scores are the mean of each colour, one box an image: those means times 10, 20, 30 in its corners."""
    onnx = pytest.importorskip("onnx")
    helper, numbers = onnx.helper, onnx.numpy_helper
    matrix = np.zeros((3, 4), np.float32)
    matrix[[0, 1, 2, 0], [0, 1, 2, 3]] = 10, 20, 30, 40
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["means"]),
            helper.make_node("Reshape", ["means", "shape"], ["scores"]),
            helper.make_node("MatMul", ["scores", "matrix"], ["boxes"]),
        ],
        "colours",
        [helper.make_tensor_value_info("images", 1, [batch or "batch", 3, side or "height", side or "width"])],
        [helper.make_tensor_value_info(name, 1, [batch or "batch", 1, n]) for name, n in (("boxes", 4), ("scores", 3))],
        [numbers.from_array(np.array([-1, 1, 3]), "shape"), numbers.from_array(matrix, "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, COLOURS.to_metadata() if metadata is None else metadata)
    onnx.save(model, str(path))
    return path


def expected_output(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scores = images.mean(dim=(2, 3))[:, None]
    return scores[..., [0, 1, 2, 0]] * torch.tensor([10.0, 20, 30, 40]), scores


@pytest.mark.parametrize(("batch", "side"), [(None, None), (1, 64), (4, None)])
def test_onnx(batch: int | None, side: int | None, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    predictor = open_predictor(write_onnx(tmp_path / "m.onnx", batch=batch, side=side))
    size = (64, 64) if side else (64, 96)
    assert predictor.info == replace(COLOURS, image_size=size, fixed_size=side is not None)
    assert predictor.description.startswith("ONNX Runtime")
    images = torch.rand(6, 3, *size)
    for found, wanted in zip(predictor.predict(images), expected_output(images), strict=True):
        assert isinstance(found, np.ndarray)
        torch.testing.assert_close(torch.from_numpy(found), wanted)


def test_onnx_of_others_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ConfigError, match="not a detector exported by CSPDet"):
        open_predictor(write_onnx(tmp_path / "m.onnx", metadata={}))
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"broken.onnx: ONNX Runtime cannot load it"):
        open_predictor(tmp_path / "broken.onnx")


@pytest.mark.parametrize(("batch", "side"), [(None, None), (2, 64)])
def test_openvino(batch: int | None, side: int | None, tmp_path: Path) -> None:
    try:
        openvino = import_openvino()
    except ImportError:
        pytest.skip("openvino is not installed")
    model = openvino_core().read_model(write_onnx(tmp_path / "m.onnx", batch=batch, side=side))
    for key, value in COLOURS.to_metadata().items():
        model.set_rt_info(value, ["cspdet", key])
    openvino.save_model(model, tmp_path / "m.xml", compress_to_fp16=False)
    predictor = open_predictor(tmp_path / "m.xml")
    assert predictor.names == COLOURS.names
    assert predictor.info.fixed_size is (side is not None)
    images = torch.rand(5, 3, *predictor.image_size)
    for found, wanted in zip(predictor.predict(images), expected_output(images), strict=True):
        assert isinstance(found, np.ndarray)
        torch.testing.assert_close(torch.from_numpy(found), wanted)
    openvino.save_model(openvino_core().read_model(tmp_path / "m.onnx"), tmp_path / "other.xml")
    with pytest.raises(ConfigError, match="not a detector exported by CSPDet"):
        open_predictor(tmp_path / "other.xml")
    (tmp_path / "broken.xml").write_text("<net/>")
    with pytest.raises(ConfigError, match=r"broken.xml: OpenVINO cannot load it"):
        open_predictor(tmp_path / "broken.xml")


@pytest.mark.parametrize(("suffix", "package"), [(".onnx", "onnxruntime"), (".xml", "openvino")])
def test_a_missing_package_is_named(suffix: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / f"m{suffix}").write_text(json.dumps({}))
    with pytest.raises(ConfigError, match=f"not installed: pip install {package}"):
        open_predictor(tmp_path / f"m{suffix}")


def test_options_that_do_not_belong_are_refused(tmp_path: Path) -> None:
    for name in ("m.onnx", "m.xml"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"use export.py --half instead"):
        open_predictor(tmp_path / "m.onnx", half=True)
    with pytest.raises(ConfigError, match="OpenVINO runs on the CPU here"):
        open_predictor(tmp_path / "m.xml", device=torch.device("cuda", 0))
