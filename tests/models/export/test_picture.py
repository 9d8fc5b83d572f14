"""The letterbox of a graph against ours: the same bytes for any size, and the way back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.transforms import resize_image
from models.export.detections import Rows, name_detections
from models.export.graph import set_input, set_outputs
from models.export.picture import add_letterbox, cut_to_picture, to_picture
from models.info import ModelInfo
from models.layouts import FINAL, INPUT, PICTURE
from utils.boxes import Letterbox, plan_resize

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

INFO = ModelInfo(("a", "b"), (1, 2), (64, 96), "letterbox", 32)
SIZES = (
    (64, 96),
    (480, 640),
    (31, 200),
    (97, 61),
    (128, 192),
    (1, 1),
    (5, 300),
    (300, 5),
    (63, 95),
    (65, 97),
    (20, 20),
)


def session_of(info: ModelInfo, *, rectangle: bool = False) -> onnxruntime.InferenceSession:
    """Picture and candidates in; the network input, the candidates' boxes in the picture, and detections out."""
    graph = onnx.helper.make_graph([], "picture", [], [])
    placed = add_letterbox(graph, info, rectangle=rectangle)
    set_input(graph, PICTURE, "UINT8", (1, "height", "width", 3))
    for name, kind, shape in (("b", 1, (1, 3, 4)), ("s", 1, (1, 3)), ("c", 7, (1, 3))):
        graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    to_picture(graph, "b", placed, name="back")
    name_detections(graph, cut_to_picture(graph, Rows("b", "s", "c"), placed, 3))
    outputs = {INPUT: ("FLOAT", (1, 3, "h", "w")), "back": ("FLOAT", (1, 3, 4)), "boxes": ("FLOAT", (1, 3, 4))}
    outputs |= {"scores": ("FLOAT", (1, 3)), "classes": ("INT64", (1, 3)), "count": ("INT64", (1,))}
    set_outputs(graph, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


BOXES = np.array([[[10, 20, 40, 50], [-200, 5, 300, 400], [-90, -90, -70, -70]]], np.float32)
SCORES = np.array([[0.9, 0.5, 0.8]], np.float32)
LABELS = np.array([[1, 0, 1]])


def look(session: onnxruntime.InferenceSession, image: np.ndarray) -> dict[str, np.ndarray]:
    names = [INPUT, "back", *FINAL]
    return dict(
        zip(names, session.run(names, {PICTURE: image[None], "b": BOXES, "s": SCORES, "c": LABELS}), strict=True)
    )


def make_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("resize", ["letterbox", "corner", "stretch"])
def test_network_input_and_boxes_are_ours(resize: str) -> None:
    info = replace(INFO, resize=resize)
    session = session_of(info)
    for height, width in SIZES:
        image = make_image(height, width)
        letterbox = plan_resize(height, width, info.image_size, resize)
        check(look(session, image), image, letterbox, info.image_size)


@pytest.mark.parametrize("resize", ["letterbox", "corner"])
def test_the_smallest_rectangle_of_the_stride(resize: str) -> None:
    session = session_of(replace(INFO, resize=resize), rectangle=True)
    for height, width in SIZES:
        image = make_image(height, width)
        letterbox = plan_resize(height, width, INFO.image_size, resize)
        inner = round(height * letterbox.scale_y), round(width * letterbox.scale_x)
        size = tuple(-(-side // 32) * 32 for side in inner)
        halves = [0 if resize == "corner" else (size[axis] - inner[axis]) // 2 for axis in range(2)]
        pads = {"pad_y": float(halves[0]), "pad_x": float(halves[1])}
        found = look(session, image)
        assert found[INPUT].shape[2:] == size
        check(found, image, replace(letterbox, **pads), size)


def check(found: dict[str, np.ndarray], image: np.ndarray, letterbox: Letterbox, size: tuple[int, int]) -> None:
    wanted = resize_image(image, letterbox, size).transpose(2, 0, 1).astype(np.float32) / 255
    assert np.array_equal(found[INPUT][0], wanted), f"{image.shape}"
    np.testing.assert_allclose(found["back"][0], letterbox.invert(BOXES[0], clipped=False), rtol=1e-5, atol=1e-3)
    inside = letterbox.invert(BOXES[0])
    rows = np.all(inside[:, 2:] > inside[:, :2], axis=1)
    order = np.argsort(-SCORES[0][rows], kind="stable")
    assert found["count"][0] == rows.sum() < 3
    np.testing.assert_allclose(found["boxes"][0, : rows.sum()], inside[rows][order], rtol=1e-5, atol=1e-3)
    assert np.array_equal(found["scores"][0, : rows.sum()], SCORES[0][rows][order])
    assert np.array_equal(found["classes"][0, : rows.sum()], LABELS[0][rows][order])
    assert not found["boxes"][0, rows.sum() :].any()
