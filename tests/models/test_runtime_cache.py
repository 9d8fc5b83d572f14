"""open_fastest: which runtime, why, and what runs/cache holds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from models import runtime_cache
from models.build import build_model
from models.config import load_model_config
from models.darknet.weights import save_weights
from models.export.compare import ExportError
from models.runtime_cache import WORTH_IT, open_fastest
from tests.models.yolox_reference import random_weights
from utils.checkpoint import save_checkpoint
from utils.config import ConfigError, to_plain

SMALL = ["image_size=64", "backbone.channels=[8, 16, 24, 32]", "backbone.depths=[0, 1, 1, 1]"]
SMALL += ["neck.channels=[8, 16, 24]", "neck.out_channels=[8, 8, 8]"]
IMAGES = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 96), np.uint8)
OPENVINO, ONNX = "OpenVINO", "ONNX Runtime"


def write_checkpoint(path: Path, *, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    config = load_model_config("cspdet-n", SMALL)
    about = {"model": to_plain(config), "names": ["a", "b"], "category_ids": [1, 2], "data": "shapes"}
    state = {**about, "image_size": [64, 64], "resize": "letterbox", "ema": build_model(config, 2).state_dict()}
    save_checkpoint(path, state)
    return path


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a folder that is the current one; the machine has no GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runtime_cache, "_computes_on_cpu", lambda device: device in (None, "cpu"))
    return write_checkpoint(tmp_path / "best.pt")


def needs(*packages: str) -> None:
    for package in ("onnx", *packages):
        pytest.importorskip(package)


def cached(pattern: str = "*") -> list[Path]:
    return sorted(Path("runs", "cache").glob(f"*/{pattern}"))


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    for package in packages:
        monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize(("runtime", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_an_export_is_made_once_and_gives_what_pytorch_gives(
    runtime: str, package: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(package)
    own, why = open_fastest(weights, runtime="torch", device="cpu")
    assert (own.runtime.split()[0], why) == ("PyTorch", "as asked for")
    assert not cached()
    first, why = open_fastest(weights, runtime=runtime)
    assert first.runtime.split()[0] in ("OpenVINO", "ONNX")
    assert why.startswith("as asked for; exported in ")
    assert first.info.to_metadata() == own.info.to_metadata()
    times = {path: path.stat().st_mtime_ns for path in cached()}
    with monkeypatch.context() as patch:
        without(patch, "onnx")  # only an export needs it
        second, why = open_fastest(weights, runtime=runtime, threads=1)
    assert why == f"as asked for; {cached('*.onnx' if runtime == 'onnx' else '*.xml')[0]}"
    assert {path: path.stat().st_mtime_ns for path in cached()} == times
    for predictor in (first, second):
        for shape in ((1, 3, 64, 96), (2, 3, 32, 64), (1, 3, 64, 96)):
            images = np.resize(IMAGES, shape)
            for found, wanted in zip(predictor.predict(images), own.predict(images), strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_auto_takes_the_fastest_that_is_installed(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("onnxruntime", "openvino")
    predictor, why = open_fastest(weights)
    assert predictor.runtime.startswith(ONNX)
    assert why.startswith("the fastest installed for a CPU; exported in")
    without(monkeypatch, "onnxruntime")
    predictor, _ = open_fastest(weights)
    assert predictor.runtime.startswith(OPENVINO)
    assert len(cached("*.json")) == 2
    without(monkeypatch, "openvino")
    predictor, why = open_fastest(weights)
    assert predictor.runtime.startswith("PyTorch")
    assert "pip install onnxruntime onnx" in why
    with pytest.raises(ConfigError, match="--runtime openvino: needs openvino, not installed here: pip install"):
        open_fastest(weights, runtime="openvino")


def test_few_pictures_are_not_worth_an_export_but_use_one(weights: Path) -> None:
    needs("onnxruntime", "openvino")
    predictor, why = open_fastest(weights, pictures=WORTH_IT - 1)
    assert predictor.runtime.startswith("PyTorch")
    assert "--runtime onnx makes one" in why
    assert not cached()
    open_fastest(weights, pictures=WORTH_IT)
    predictor, why = open_fastest(weights, pictures=1)
    assert predictor.runtime.startswith(ONNX)
    assert why.startswith("the fastest installed for a CPU; runs")


def test_a_gpu_is_faster_than_all_of_them(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_cache, "_computes_on_cpu", lambda device: False)
    predictor, why = open_fastest(weights, device="cpu")
    assert (predictor.runtime.split()[0], why) == ("PyTorch", "the fastest for this device")
    assert not cached()


def test_a_damaged_file_is_made_again(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    needs("openvino")
    expected = [np.array(values) for values in open_fastest(weights, runtime="openvino")[0].predict(IMAGES)]
    for damage in ("cut", "changed", "gone", "hashes"):
        (binary,), (hashes,) = cached("*.bin"), cached("*.json")
        content = binary.read_bytes()
        if damage == "gone":
            binary.unlink()
        elif damage == "hashes":
            hashes.write_text("[]")
        else:
            binary.write_bytes(content[:100] if damage == "cut" else content[:-50] + bytes(50))
        caplog.clear()
        predictor, why = open_fastest(weights, runtime="openvino")
        assert "exported in" in why, damage
        assert "damaged, and made again" in caplog.text, damage
        assert all(np.array_equal(*pair) for pair in zip(predictor.predict(IMAGES), expected, strict=True)), damage
        del predictor
    assert "exported in" not in open_fastest(weights, runtime="openvino")[1]


def test_other_weights_replace_what_was_made_of_the_old_ones(weights: Path) -> None:
    needs("onnxruntime")
    before, _ = open_fastest(weights, runtime="onnx")
    (old,) = cached("*.onnx")
    write_checkpoint(weights, seed=1)
    after, why = open_fastest(weights, runtime="onnx")
    assert "exported in" in why
    assert not np.array_equal(before.predict(IMAGES)[1], after.predict(IMAGES)[1])
    (new,) = cached("*.onnx")
    assert new != old
    assert len(cached()) == 2


def test_darknet_weights_depend_on_their_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("onnxruntime")
    monkeypatch.chdir(tmp_path)
    config = load_model_config("cspdet-n", SMALL)
    save_weights(build_model(config, 2), tmp_path / "x.weights")
    for stretch in (False, True):
        text = "base: cspdet-n\nimage_size: 64\nbackbone: {channels: [8, 16, 24, 32], depths: [0, 1, 1, 1]}\n"
        text += "neck: {channels: [8, 16, 24], out_channels: [8, 8, 8]}\n"
        Path("own.yaml").write_text(text + "resize: stretch\n" * stretch)
        predictor, why = open_fastest(Path("x.weights"), runtime="onnx", cfg="own.yaml")
        assert "exported in" in why
        assert predictor.resize == ("stretch" if stretch else "letterbox")
    assert "exported in" not in open_fastest(Path("x.weights"), runtime="onnx", cfg="own.yaml")[1]


def test_yolox_weights_depend_on_their_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("onnxruntime")
    monkeypatch.chdir(tmp_path)
    torch.save({"model": random_weights(classes=2)}, "x.pth")
    for size in (64, 96):
        Path("own.yaml").write_text(f"base: yolox-nano\nimage_size: {size}\n")
        predictor, why = open_fastest(Path("x.pth"), runtime="onnx", cfg="own.yaml")
        assert "exported in" in why
        assert (predictor.image_size, predictor.resize) == ((size, size), "corner")
    assert "exported in" not in open_fastest(Path("x.pth"), runtime="onnx", cfg="own.yaml")[1]
    with pytest.raises(ConfigError, match="name its model file with --cfg"):
        open_fastest(Path("x.pth"), runtime="onnx")


def test_a_failed_export_leaves_pytorch(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("onnxruntime")
    from models.export import write

    def fail(*_: object) -> None:
        raise ExportError("it differs")

    monkeypatch.setattr(write, "export", fail)
    predictor, why = open_fastest(weights)
    assert predictor.runtime.startswith("PyTorch")
    assert why == "as the export for onnx failed: it differs"
    with pytest.raises(ConfigError, match=r"--runtime openvino: .*best\.pt cannot be exported: it differs"):
        open_fastest(weights, runtime="openvino")


def test_a_runtime_that_cannot_run_the_file_is_refused(weights: Path) -> None:
    for name, own in (("x.onnx", "onnx"), ("x.xml", "openvino"), ("x.torchscript", "torch")):
        for runtime in {"torch", "onnx", "openvino"} - {own}:
            with pytest.raises(ConfigError, match=rf"--runtime {runtime}: {name} is a file for --runtime {own}; leave"):
                open_fastest(Path(name), runtime=runtime, trust=True)
    with pytest.raises(ConfigError, match="--runtime openvino: runs on the CPU here, and the device is cuda"):
        open_fastest(weights, runtime="openvino", device="cuda")


def test_an_exported_file_says_itself_what_runs_it(weights: Path) -> None:
    needs("onnxruntime")
    open_fastest(weights, runtime="onnx")
    predictor, why = open_fastest(cached("*.onnx")[0])
    assert (predictor.runtime.startswith(ONNX), why) == (True, "")
