"""From val.py --calibrate through checkpoint and exports to the threshold and the scores of detect.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import detect
import val
from engine.detector import Detector, load_detector
from engine.stream import DetectOptions, find
from engine.temperature import calibrate
from models.export.formats import FORMATS
from models.export.network import ExportSpec
from models.export.write import WRITERS, export
from models.info import ModelInfo, Predictor
from models.layouts import Final, Layout
from models.postprocess import postprocess
from models.predictor import open_predictor
from models.predictor_torch import ModelPredictor
from tests.test_detect import ColourPredictor, scene
from tests.test_val import write_checkpoint, write_dataset
from tests.utils.metrics.test_matches import drawn_metric
from utils.checkpoint import add_to_checkpoint, load_checkpoint
from utils.config import ConfigError
from utils.metrics.calibration import calibrated
from utils.structures import Detections
from utils.thresholds import Thresholds
from utils.weights import write_safetensors

SCENE = scene(90, 150, (0, 10, 20, 60, 70), (1, 70, 10, 95, 30), (2, 100, 50, 140, 80))
"""Found with scores 0.9, 0.8 and 0.7."""
THRESHOLDS = Thresholds(0.75, (None, None, 0.65))


class Shipped(ColourPredictor):
    """As its file says more of its scores."""

    def __init__(self, **values: object) -> None:
        super().__init__()
        self.info = replace(self.info, **values)


def colours(**values: object) -> Detector:
    predictor = Shipped(**values)
    return Detector(predictor, image_size=predictor.image_size, resize=predictor.resize)


def test_auto_takes_the_thresholds_of_each_class() -> None:
    detector = colours(thresholds=THRESHOLDS)
    assert detector(SCENE, conf="auto").labels.tolist() == [0, 1, 2]
    assert detector(SCENE, conf=0.75).labels.tolist() == [0, 1]
    other = colours(thresholds=Thresholds(0.1, (0.95, None, 0.75)))
    assert other(SCENE, conf="auto").labels.tolist() == [1]
    assert other.thresholds.conf == 0.1


def test_auto_without_thresholds_is_an_error_that_says_how_to_get_them() -> None:
    with pytest.raises(ConfigError, match=r"conf='auto': this file has no thresholds.*--calibrate"):
        colours()(SCENE, conf="auto")
    with pytest.raises(ConfigError, match="conf='auto': is for detectors"):
        colours(task="classify", thresholds=THRESHOLDS)(SCENE, conf="auto")
    with pytest.raises(ValueError, match="conf: expected a number from 0 to 1 or 'auto', found 'best'"):
        colours(thresholds=THRESHOLDS)(SCENE, conf="best")


def test_scores_and_thresholds_are_those_of_the_temperature() -> None:
    """A threshold is compared with the score that the user sees."""
    detector = colours(temperature=2.0, thresholds=Thresholds(0.7, (None, None, 0.55)))
    expected = calibrated(np.array([0.9, 0.8, 0.7]), 2.0)  # 0.75, 0.667, 0.604
    np.testing.assert_allclose(detector(SCENE, conf=0.0).scores, expected, atol=1e-6)
    assert detector(SCENE, conf=0.65).labels.tolist() == [0, 1]
    assert detector(SCENE, conf="auto").labels.tolist() == [0, 2]


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("nms", ["default", "diounms", "none"])
def test_a_threshold_of_each_class_is_as_if_each_were_looked_for_alone(nms: str, as_tensor: bool) -> None:
    rng = np.random.default_rng(0)
    corner, scores = rng.uniform(0, 50, (2, 300, 2)), rng.uniform(0, 1, (2, 300, 3)).astype(np.float32)
    boxes = np.concatenate((corner, corner + rng.uniform(5, 30, (2, 300, 2))), axis=2).astype(np.float32)
    kind = torch.from_numpy if as_tensor else np.asarray
    limits = np.array([0.9, 0.5, 0.7])
    options = {"iou_thres": 0.5, "max_det": 2000, "nms": nms}
    found = postprocess(kind(boxes), kind(scores), conf_thres=limits, **options)
    for label, limit in enumerate(limits):
        alone = postprocess(kind(boxes), kind(scores), conf_thres=limit, classes=[label], **options)
        for one, other in zip(found, alone, strict=True):
            own = one.select(one.labels == label)
            assert len(own)
            assert (own.boxes == other.boxes).all()
            assert (own.scores == other.scores).all()
    with pytest.raises(ValueError, match="expected numbers from 0 to 1"):
        postprocess(kind(boxes), kind(scores), conf_thres=np.array([0.5, 1.5, 0.5]), **options)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_dataset(tmp_path_factory.mktemp("data")).parent
    (folder / "data.yaml").write_text("val: val.json\ntest: val.json\nimages: images\n")
    return folder / "data.yaml"


@pytest.fixture
def weights(tmp_path: Path, data: Path) -> Path:
    return write_checkpoint(tmp_path / "best.pt", data=str(data))


def run_val(weights: Path, folder: Path, *more: str) -> dict:
    arguments = ["--weights", str(weights), "--device", "cpu", "--workers", "0", "--save-json", "--max-det", "300"]
    assert val.main([*arguments, "--project", str(folder), "--name", "run", *more]) == 0
    newest = max(folder.glob("run*"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads((newest / "metrics.json").read_text())


def test_calibrate_stores_what_every_command_uses(
    weights: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.evaluate.plot_metric", lambda *_: None)
    before = run_val(weights, tmp_path)
    assert before["f1"]["best"] > 0, "the model finds nothing; the case proves little"
    capsys.readouterr()
    judged = run_val(weights, tmp_path, "--calibrate", "--split", "test")
    printed = capsys.readouterr().out
    state = load_checkpoint(weights)
    temperature, conf = state["temperature"], state["thresholds"]["conf"]
    assert temperature != 1
    assert f"Temperature {temperature:.3f}, fitted to the" in printed
    assert "On test:\n" in printed
    for key, digits in (("d_ece", 3), ("d_ece_all", 3), ("log_loss", 4)):
        old, new = before["calibration"][key], judged["calibration"][key]
        assert f": {old:.{digits}f} -> {new:.{digits}f}\n" in printed
    assert judged["calibration"]["log_loss"] < before["calibration"]["log_loss"], "the same images here"
    assert judged["calibration"]["temperature"] == temperature
    again = run_val(weights, tmp_path)
    for figures in (judged, again):
        for key in ("AP", "AP50", "AP75", "AR1", "AR10", "AR100", "APs", "APm", "APl"):
            assert figures[key] == before[key], "the order is the same"
        assert figures["f1"]["best"] == before["f1"]["best"]
        assert figures["f1"]["conf"] == pytest.approx(conf)
    once_more = run_val(weights, tmp_path, "--calibrate")
    assert load_checkpoint(weights)["temperature"] == pytest.approx(temperature, rel=1e-6), "it starts from 1 again"
    assert "(fitted on it; --split test is the judge)" in capsys.readouterr().out
    assert once_more["AP"] == before["AP"]

    picture = next((Path(state["data"]).parent / "images").glob("3.png"))
    arguments = ["--weights", str(weights), "--source", str(picture), "--runtime", "torch", "--device", "cpu"]
    arguments += ["--conf-thres", "auto", "--save-json", "--no-save", "--project", str(tmp_path / "found")]
    assert detect.main(arguments) == 0
    assert f"Threshold: {conf:.3f} (best F1 on val)" in capsys.readouterr().out
    rows = json.loads((tmp_path / "found" / "exp" / "detections.json").read_text())
    detector = load_detector(weights, runtime="torch", device="cpu")
    found = detector(picture, conf="auto")
    assert [row["score"] for row in rows] == [round(score, 6) for score in found.scores.tolist()]
    assert len(found)
    assert (found.scores > conf).all()
    lower = detector(picture, conf=0.5 * conf)
    assert len(lower) > len(found)
    np.testing.assert_allclose(lower.scores[: len(found)], found.scores)


def test_calibrate_needs_a_checkpoint_of_a_detector(weights: Path, tmp_path: Path, capsys) -> None:
    write_safetensors(tmp_path / "best.safetensors", load_checkpoint(weights))
    arguments = ["--calibrate", "--device", "cpu", "--project", str(tmp_path / "runs")]
    assert val.main([*arguments, "--weights", str(tmp_path / "best.safetensors")]) == 2
    assert "--calibrate: stores what it finds in a checkpoint (.pt)" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_nothing_is_stored_where_nothing_was_found(weights: Path) -> None:
    metric = drawn_metric()
    metric.reset()
    content = weights.read_bytes()
    with pytest.raises(ConfigError, match="of the 0 detections in val, none found an object"):
        calibrate(metric, metric, weights, split="val")
    assert weights.read_bytes() == content


IMAGES = np.random.default_rng(2).integers(0, 255, (1, 3, 64, 64), np.uint8)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> ModelPredictor:
    """A checkpoint with a temperature and thresholds that some of its detections in `IMAGES` are above."""
    path = write_checkpoint(tmp_path_factory.mktemp("shipped") / "best.pt")
    plain = open_predictor(path, device="cpu", fuse=False)
    best = np.sort(calibrated(np.asarray(plain.predict(IMAGES)[1]).ravel(), 1.6))[::-1]
    middles = [float(best[place] + best[place + 1]) / 2 for place in (12, 30, 60)]
    thresholds = Thresholds(middles[0], (None, middles[1], middles[2]))
    add_to_checkpoint(path, {"temperature": 1.6, "thresholds": thresholds.to_plain()})
    opened = open_predictor(path, device="cpu", fuse=False)
    opened.info = replace(opened.info, nms="default")  # 'vote' would lower the scores of boxes that overlap
    assert (opened.info.temperature, opened.info.thresholds) == (1.6, thresholds)
    return opened


def looked_at(predictor: Predictor, **values: object) -> Detections:
    """Without suppression: what is above the thresholds."""
    options = DetectOptions((64, 64), iou_thres=1.0, **values)
    image = np.ascontiguousarray(IMAGES[0].transpose(1, 2, 0))
    return find(predictor, [options.prepare_all(image, 32)], options)[0]


@pytest.mark.parametrize("kind", ["onnx", "openvino", "torchscript"])
def test_an_exported_file_has_what_the_checkpoint_has(kind: str, shipped: ModelPredictor, tmp_path: Path) -> None:
    path = tmp_path / f"small{FORMATS[kind].suffix}"
    WRITERS[kind](shipped.model, path, ExportSpec(shipped.info))
    exported = open_predictor(path, device="cpu", trust=True)
    assert exported.info.temperature == shipped.info.temperature
    assert exported.info.thresholds == shipped.info.thresholds
    raw = np.asarray(shipped.predict(IMAGES)[1])
    np.testing.assert_allclose(np.asarray(exported.predict(IMAGES)[1]), raw, atol=1e-4, err_msg="candidates are raw")
    for options in ({"thresholds": shipped.info.thresholds}, {"conf_thres": shipped.info.thresholds.conf}):
        one, other = looked_at(shipped, **options), looked_at(exported, **options)
        assert len(one) > 9
        assert one.labels.tolist() == other.labels.tolist()
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


def test_a_file_that_ends_in_detections_gives_calibrated_scores(shipped: ModelPredictor, tmp_path: Path) -> None:
    conf = shipped.info.thresholds.conf
    export(shipped, "onnx", tmp_path / "final.onnx", ExportSpec(shipped.info, layout=Layout("own", Final(conf, 1, 50))))
    exported = open_predictor(tmp_path / "final.onnx", device="cpu")
    assert (exported.info.temperature, exported.info.thresholds) == (1.0, shipped.info.thresholds)
    one, other = looked_at(shipped, conf_thres=conf), looked_at(exported, conf_thres=0.0)
    assert len(one) > 9
    assert one.labels.tolist() == other.labels.tolist()
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


def test_metadata_says_nothing_where_the_checkpoint_does_not(shipped: ModelPredictor) -> None:
    plain = replace(shipped.info, data=None, thresholds=None, temperature=1.0)
    assert "temperature" not in plain.to_metadata()["cspdet"]
    assert ModelInfo.from_metadata(plain.to_metadata(), shape=(None, None), where="x") == plain
    told = ModelInfo.from_metadata(shipped.info.to_metadata(), shape=(None, None), where="x")
    assert told == replace(shipped.info, data=None)
    wrong = replace(shipped.info, thresholds=Thresholds(0.5, (None,)))
    with pytest.raises(ConfigError, match="thresholds: expected one for each of 3 classes, found 1"):
        ModelInfo.from_metadata(wrong.to_metadata(), shape=(None, None), where="x")


def test_safetensors_has_it_and_a_changed_checkpoint_is_refused(shipped: ModelPredictor, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "best.pt")
    values = {"temperature": 1.6, "thresholds": shipped.info.thresholds.to_plain()}
    add_to_checkpoint(path, values)
    write_safetensors(tmp_path / "best.safetensors", load_checkpoint(path))
    info = open_predictor(tmp_path / "best.safetensors", device="cpu").info
    assert (info.temperature, info.thresholds) == (1.6, shipped.info.thresholds)
    add_to_checkpoint(path, {"thresholds": {"conf": 0.5, "by_class": [None]}})
    with pytest.raises(ConfigError, match=r"best\.pt: thresholds: expected one for each of 3 classes, found 1"):
        open_predictor(path, device="cpu")
