"""Safetensors: the averaged weights and what must be known beside them, there and back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from utils.checkpoint import ForeignFile, save_checkpoint
from utils.config import ConfigError
from utils.weights import load_saved_model, read_safetensors, write_safetensors

STATE = {
    "model": {"name": "tiny", "backbone": {"type": "darknet", "csp": None}},
    "names": ["café", 'a "b"'],
    "category_ids": [3, 90],
    "image_size": [64, 96],
    "resize": "letterbox",
    "metrics": {"AP": 0.25},
    "best": float("-inf"),
    "ema": {
        "a": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "b": torch.tensor(7),
        "c": torch.zeros(0),
        "d": torch.ones(4),
    },
    "weights": {"a": torch.zeros(1)},
    "optimizer": {"state": {0: torch.zeros(3)}},
    "rng": {"cpu": torch.zeros(4, dtype=torch.uint8)},
}


def test_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_safetensors(path, STATE)
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]
    found = load_saved_model(path)
    assert found.keys() == STATE.keys() - {"weights", "optimizer", "rng"} | {"format"}
    for key in found.keys() - {"ema", "format"}:
        assert found[key] == STATE[key], key
    assert found["ema"].keys() == STATE["ema"].keys()
    for name, value in STATE["ema"].items():
        assert torch.equal(found["ema"][name], value), name
        assert found["ema"][name].dtype == value.dtype
    with safe_open(str(path), framework="pt") as file:
        assert all(isinstance(value, str) for value in file.metadata().values())
        assert file.metadata()["cspdet"] == "cspdet-1"


def test_weights_that_share_memory_are_written(tmp_path: Path) -> None:
    shared = torch.ones(3)
    write_safetensors(tmp_path / "m.safetensors", {**STATE, "ema": {"a": shared, "b": shared}})
    assert torch.equal(load_saved_model(tmp_path / "m.safetensors")["ema"]["b"], shared)


def test_checkpoints_are_opened_by_the_same_call(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "m.pt", {"names": ["x"]})
    assert load_saved_model(tmp_path / "m.pt")["names"] == ["x"]


def test_files_of_other_programs(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors", {"format": "pt"})
    assert read_safetensors(tmp_path / "x.safetensors")[1] == {"format": "pt"}
    with pytest.raises(ForeignFile, match=r"x.safetensors: the weights of another program.*train.py --weights"):
        load_saved_model(tmp_path / "x.safetensors")


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(ConfigError, match="no such file"):
        load_saved_model(path)
    write_safetensors(path, STATE)
    whole = path.read_bytes()
    for content in (b"", b"text\n" * 20, whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"m.safetensors: cannot be read as safetensors"):
            load_saved_model(path)


@pytest.mark.parametrize(
    ("key", "value"), [("names", "not JSON"), ("names", '"text"'), ("image_size", "3"), ("model", "null")]
)
def test_damaged_metadata(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "m.safetensors"
    write_safetensors(path, STATE)
    tensors, metadata = read_safetensors(path)
    save_file(tensors, path, {**metadata, key: value})
    with pytest.raises(ConfigError, match=r"m.safetensors: its metadata is damaged"):
        load_saved_model(path)
