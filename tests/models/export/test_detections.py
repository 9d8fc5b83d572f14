"""The end of a graph against postprocess(): every suppression, batches, nothing found, boxes that are no numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.export.detections import add_suppression, add_temperature, name_detections
from models.export.graph import set_outputs
from models.info import ModelInfo
from models.layouts import FINAL, Final, Layout
from models.postprocess import postprocess
from models.runtimes import openvino_core
from utils.choices import NMS_KINDS
from utils.metrics.calibration import calibrated, uncalibrated

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

CLASSES = 3


def make_graph(nms: str, final: Final, temperature: float = 1.0) -> object:
    """A file that is nothing but the end of a graph: candidates in, detections out."""
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info(name, real, ["batch", "n", width])
        for name, width in (("candidates.boxes", 4), ("candidates.scores", CLASSES))
    ]
    graph = helper.make_graph([], "end", inputs, [])
    info = ModelInfo(("a", "b", "c"), (1, 2, 3), (64, 64), "letterbox", 32, nms=nms, beta_nms=0.8)
    info = replace(info, temperature=temperature)
    rows = add_suppression(graph, "candidates.boxes", "candidates.scores", final, info)
    name_detections(graph, add_temperature(graph, rows, temperature))
    most = final.max_det
    shapes = {"boxes": ("batch", most, 4), "scores": ("batch", most), "classes": ("batch", most), "count": ("batch",)}
    set_outputs(graph, {name: ("INT64" if name in FINAL[2:] else "FLOAT", shape) for name, shape in shapes.items()})
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def make_candidates(seed: int, *, batch: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of boxes around a few places, in three classes; no two scores are alike."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 60, (6, 2))[rng.integers(0, 6, (batch, count))] + rng.normal(0, 3, (batch, count, 2))
    sides = rng.uniform(8, 20, (batch, count, 2))
    boxes = np.concatenate((centres - sides / 2, centres + sides / 2), axis=2).astype(np.float32)
    scores = rng.permutation(batch * count * CLASSES).reshape(batch, count, CLASSES) / (batch * count * CLASSES)
    return boxes, (scores**2).astype(np.float32)


def run(model: object, boxes: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(list(FINAL), {"candidates.boxes": boxes, "candidates.scores": scores})
    return dict(zip(FINAL, found, strict=True))


def check(found: dict[str, np.ndarray], boxes: np.ndarray, scores: np.ndarray, nms: str, final: Final) -> int:
    """Assert that it is what postprocess gives, padded with zeros; returns how many detections there are."""
    limits = {"conf_thres": final.conf_thres, "iou_thres": final.iou_thres, "max_det": final.max_det}
    wanted = postprocess(boxes, scores, **limits, nms=nms, beta_nms=0.8)
    for image, detections in enumerate(wanted):
        count = len(detections)
        assert found["count"][image] == count
        boxes_found, scores_found, classes_found = (found[name][image, :count] for name in FINAL[:3])
        rounding = 2e-5 if nms == "vote" else 0
        np.testing.assert_allclose(scores_found, detections.scores, rtol=0, atol=rounding)
        if nms == "vote":  # two whose scores are rounded alike may have changed places
            mine = np.lexsort((boxes_found[:, 0], classes_found))
            theirs = np.lexsort((detections.boxes[:, 0], detections.labels))
            boxes_found, scores_found, classes_found = boxes_found[mine], scores_found[mine], classes_found[mine]
            detections = detections.select(theirs)
            np.testing.assert_allclose(scores_found, detections.scores, rtol=0, atol=rounding)
        assert np.array_equal(classes_found, detections.labels)
        np.testing.assert_allclose(boxes_found, detections.boxes, rtol=0, atol=1e-4)
        assert not any(found[name][image, count:].any() for name in FINAL[:3])
    return sum(map(len, wanted))


@pytest.mark.parametrize("nms", NMS_KINDS)
@pytest.mark.parametrize("temperature", [0.4, 2.5])
def test_scores_have_the_temperature_and_the_threshold_is_theirs(nms: str, temperature: float) -> None:
    boxes, scores = make_candidates(3, batch=2, count=40)
    scores[0, 0, 0] = 1.0
    final = Final(0.3, 0.45, 30)
    found = run(make_graph(nms, final, temperature), boxes, scores)
    conf = uncalibrated(final.conf_thres, temperature)
    plain = run(make_graph(nms, replace(final, conf_thres=conf)), boxes, scores)
    assert check(plain, boxes, scores, nms, replace(final, conf_thres=conf)) > 20
    for name in ("boxes", "classes", "count"):
        assert np.array_equal(found[name], plain[name])
    np.testing.assert_allclose(found["scores"], calibrated(plain["scores"], temperature), rtol=1e-5)
    assert found["scores"][found["scores"] > 0].min() > final.conf_thres


@pytest.mark.parametrize("nms", NMS_KINDS)
def test_detections_are_those_of_postprocess(nms: str) -> None:
    total = 0
    for seed, (batch, count, final) in enumerate(
        [
            (1, 80, Final(0.25, 0.45, 300)),
            (3, 80, Final(0.1, 0.45, 20)),
            (2, 1, Final(0.0, 0.5, 5)),
            (2, 60, Final(0.5, 0.0, 50)),
            (2, 330, Final(0.05, 0.7, 300)),
        ]
    ):
        model = make_graph(nms, final)
        boxes, scores = make_candidates(seed, batch=batch, count=count)
        total += check(run(model, boxes, scores), boxes, scores, nms, final)
    assert total > 200


@pytest.mark.parametrize("nms", NMS_KINDS)
def test_images_with_nothing_and_boxes_that_are_no_numbers(nms: str) -> None:
    final = Final(0.3, 0.45, 10)
    model = make_graph(nms, final)
    boxes, scores = make_candidates(9, batch=3, count=40)
    scores[1] *= 0.1
    assert check(run(model, boxes, scores), boxes, scores, nms, final) > 5
    boxes[2, ::2, 1] = np.inf
    boxes[0, 3] = np.nan
    assert check(run(model, boxes, scores), boxes, scores, nms, final) > 5
    assert check(run(model, boxes, scores * 0), boxes, scores * 0, nms, final) == 0


@pytest.mark.parametrize("nms", ["default", "vote", "diounms"])
def test_openvino_gives_the_same(nms: str, tmp_path: Path) -> None:
    try:
        core = openvino_core()
    except ImportError:
        pytest.skip("openvino is not installed")
    final = Final(0.2, 0.45, 30)
    onnx.save(make_graph(nms, final), tmp_path / "end.onnx")
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(str(tmp_path / "end.onnx"), "CPU", exact)
    boxes, scores = make_candidates(4, batch=2, count=60)
    for values in (scores, scores * 0):
        found = compiled({"candidates.boxes": boxes, "candidates.scores": values})
        check({name: found[name] for name in FINAL}, boxes, values, nms, final)


def test_read_back_they_are_candidates_that_need_no_suppression() -> None:
    final = Final(0.3, 0.45, 10)
    boxes, scores = make_candidates(5, batch=2, count=40)
    found = run(make_graph("default", final), boxes, scores)
    again = Layout(final=final).candidates([found[name] for name in FINAL], CLASSES)
    wanted = postprocess(boxes, scores, conf_thres=0.3, iou_thres=0.45, max_det=10)
    for one, other in zip(
        wanted, postprocess(*again, conf_thres=0.3, iou_thres=0.45, max_det=10, nms="none"), strict=True
    ):
        assert np.array_equal(one.labels, other.labels)
        assert np.array_equal(one.scores, other.scores)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-4)
