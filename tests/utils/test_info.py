"""python -m utils.info: what a checkpoint says of itself, and its weights as safetensors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import export
from engine.commands.info import is_parameter
from models.build import build_model
from models.config import load_model_config
from tests.conftest import TINY_MODEL
from utils import info
from utils.checkpoint import save_checkpoint
from utils.config import to_plain
from utils.inference_weights import keep_inference_
from utils.weights import load_saved_model


@pytest.fixture
def state(tiny_model: Path) -> dict:
    config = load_model_config(tiny_model)
    return {
        "model": to_plain(config),
        "recipe": {
            "epochs": 5,
            "batch_size": 16,
            "optimizer": {"type": "adamw", "lr": 0.002},
            "schedule": {"type": "cosine"},
        },
        "names": ["blue", "red"],
        "category_ids": [2, 5],
        "image_size": [64, 96],
        "resize": "letterbox",
        "data": "data.yaml",
        "fingerprint": {"train": "ab" * 32, "val": "cd" * 32},
        "metrics": {"AP": 0.25, "AP50": 0.5},
        "versions": {"python": "3.11.1", "torch": "2.6.0", "commit": "0123abc-dirty"},
        "epoch": 3,
        "batch": 2,
        "step": 40,
        "best": 0.25,
        "best_epoch": 3,
        "seed": 0,
        "ema": build_model(config, 2).state_dict(),
        "weights": {},
    }


def test_text(state: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, state, best=tmp_path / "best.pt")
    assert info.main([str(path)]) == 0
    out = capsys.readouterr().out
    count = f"{sum(p.numel() for p in build_model(load_model_config(_model(tmp_path)), 2).parameters()):,}"
    for text in (
        f"{path}, 0.",
        "checkpoint of train.py, with what --resume needs",
        "tiny: backbone darknet, neck panet, head anchor",
        "64 x 96, letterbox",
        f"{count} in ",
        "2: blue, red",
        "after epoch 3 and 2 batches, step 40",
        "AP 0.2500, AP50 0.5000",
        "0.2500 after epoch 3 (this file)",
        "5 epochs, batch 16, adamw with lr 0.002, schedule cosine",
        "data.yaml",
        f"train {'ab' * 32}, val {'cd' * 32}",
        "commit       0123abc-dirty",
        "python 3.11.1, torch 2.6.0",
    ):
        assert text in out, text


def _model(folder: Path) -> Path:
    path = folder / "tiny.yaml"
    path.write_text(TINY_MODEL)
    return path


def test_json_has_everything(state: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, state)
    assert info.main([str(path), "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    for key in ("names", "category_ids", "recipe", "metrics", "fingerprint", "versions", "epoch", "step", "data"):
        assert about[key] == state[key], key
    assert about["kind"] == "checkpoint"
    assert about["config"] == state["model"]
    assert about["is_best"] is False
    assert about["bytes"] == path.stat().st_size


def test_a_run_that_was_not_evaluated_yet_is_json_too(
    state: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "last.pt", {**state, "best": -math.inf, "best_epoch": 0})
    assert info.main([str(tmp_path / "last.pt"), "--json"]) == 0
    text = capsys.readouterr().out
    assert "Infinity" not in text
    assert json.loads(text)["best"] is None


def test_thresholds_and_temperature_are_told(state: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"thresholds": {"conf": 0.25, "by_class": [None, 0.5]}, "temperature": 0.8}
    save_checkpoint(tmp_path / "last.pt", state | values)
    assert info.main([str(tmp_path / "last.pt")]) == 0
    out = capsys.readouterr().out
    assert "threshold    0.250 (best F1 on val); red 0.500\ntemperature  0.8\n" in out
    assert info.main([str(tmp_path / "last.pt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out).items() >= values.items()


def test_safetensors_say_the_same(state: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, state)
    assert info.main([str(path), "--safetensors", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    written = tmp_path / "last.safetensors"
    assert f"Wrote {written} (" in out
    about = []
    for file in (path, written):
        assert info.main([str(file), "--json"]) == 0
        about.append(json.loads(capsys.readouterr().out))
    differing = {key for key in about[0] if about[0][key] != about[1][key]}
    assert differing == {"file", "bytes", "kind", "batch", "is_best"}
    assert info.main([str(written), "--safetensors", str(tmp_path / "again.safetensors")]) == 0
    first, second = (load_saved_model(tmp_path / f"{name}.safetensors") for name in ("last", "again"))
    assert all(torch.equal(value, second["ema"][name]) for name, value in first.pop("ema").items())
    assert first == {key: value for key, value in second.items() if key != "ema"}


def test_a_checkpoint_that_says_little_is_told_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_checkpoint(tmp_path / "x.pt", {})
    assert info.main([str(tmp_path / "x.pt")]) == 0
    assert "classes      0" in capsys.readouterr().out
    assert info.main([str(tmp_path / "x.pt"), "--safetensors", str(tmp_path)]) == 2
    assert "holds no averaged weights" in capsys.readouterr().err


def test_every_file_that_the_project_writes_is_told(
    state: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, out = tmp_path / "best.pt", tmp_path / "out"
    save_checkpoint(best, state)
    keep_inference_(best)
    out.mkdir()
    for kind, name in (("onnx", "a.onnx"), ("torchscript", "b.torchscript"), ("darknet", "c.weights")):
        arguments = ["--weights", str(best), "--format", kind, "--output", str(out / name)]
        assert export.main(arguments) == 0, capsys.readouterr().err
    capsys.readouterr()
    told = {}
    for path in (best, *sorted(out.iterdir())):
        if path.suffix not in (".cfg", ".names"):
            assert info.main([str(path), "--json"]) == 0
            told[path.name] = json.loads(capsys.readouterr().out)
            assert info.main([str(path)]) == 0
            assert "2: blue, red" in capsys.readouterr().out
    assert {name: about["kind"] for name, about in told.items()} == {
        "best.pt": "inference checkpoint",
        "a.onnx": "ONNX",
        "b.torchscript": "TorchScript",
        "c.weights": "darknet weights",
    }
    assert told["b.torchscript"]["image_size"] == told["a.onnx"]["image_size"] == [64, 96]
    assert told["b.torchscript"]["category_ids"] == [2, 5]
    assert told["c.weights"]["cfg"] == str(out / "c.cfg")
    assert info.main([str(out)]) == 2
    assert "name a file in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [b"<!doctype html><html>not found</html>", b'{"a": 1}', b"version https://git-lfs.github.com/spec/v1\n", b"\x80"],
)
def test_a_file_that_holds_no_code_is_not_said_to_run_any(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    assert info.main([str(tmp_path / "x.pt")]) == 2
    text = capsys.readouterr().err
    assert "cut off, damaged or of another kind" in text
    assert "run code" not in text


@pytest.mark.parametrize("old_form", [False, True])
def test_a_pickle_that_names_code_is_told_with_what_it_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old_form: bool
) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": tmp_path}, path, _use_new_zipfile_serialization=not old_form)
    assert info.main([str(path)]) == 2
    assert "would run code (pathlib" in capsys.readouterr().err


def test_bad_files_and_options_end_in_one_message(
    state: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, state)
    (tmp_path / "cut.pt").write_bytes(path.read_bytes()[:1000])
    (tmp_path / "x.safetensors").write_bytes(b"x")
    torch.save({"model": torch.nn.Linear(1, 1)}, tmp_path / "other.pt")
    cases = {
        str(tmp_path / "none.pt"): "no such checkpoint",
        str(tmp_path / "cut.pt"): "cannot be read as a checkpoint",
        str(tmp_path / "other.pt"): "would run code (torch.nn.modules.linear.Linear",
        str(tmp_path / "x.safetensors"): "cannot be read as safetensors",
    }
    for name, message in cases.items():
        assert info.main([name]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ") and message in captured.err
        assert len(captured.err.splitlines()) == 1
    for out in (tmp_path / "x.onnx", path.with_suffix(".pt")):
        assert info.main([str(path), "--safetensors", str(out)]) == 2
        assert "--safetensors" in capsys.readouterr().err
    assert info.main([str(path), "--safetensors", str(tmp_path / "none" / "x.safetensors")]) == 2
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cspdet-n", "csppeleenet-prn", "cspresnext50-panet-spp"])
def test_parameters_are_counted_as_the_model_counts_them(name: str) -> None:
    with torch.device("meta"):
        model = build_model(load_model_config(name), 3)
    counted = sum(value.numel() for key, value in model.state_dict().items() if is_parameter(key, value))
    assert counted == sum(parameter.numel() for parameter in model.parameters())
