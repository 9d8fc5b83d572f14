"""Safetensors there and back, and the weights of other programs: read as data, or refused with what to do."""

from __future__ import annotations

import argparse
import os
import pickle
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from utils.checkpoint import ForeignFile, save_checkpoint
from utils.config import ConfigError
from utils.weights import load_foreign, load_saved_model, read_safetensors, write_safetensors

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


# Other programs; code of a file runs only where it is trusted


@pytest.fixture
def linear() -> nn.Linear:
    return nn.Linear(2, 3)


def saved(path: Path, content: object, *, legacy: bool = False) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def check(found: dict, linear: nn.Linear) -> None:
    assert set(found) == {"weight", "bias"}
    for name, value in linear.state_dict().items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("legacy", [True, False])
def test_state_dicts_in_the_usual_containers(tmp_path: Path, linear: nn.Linear, legacy: bool) -> None:
    plain = linear.state_dict()
    wrapped = {f"module._orig_mod.{name}": value.half() for name, value in plain.items()}
    for number, content in enumerate(
        [plain, {"state_dict": plain}, {"epoch": 3, "model": wrapped}, {"model": {"state_dict": plain}, "ema": None}]
    ):
        check(load_foreign(saved(tmp_path / f"{number}.pth", content, legacy=legacy)), linear)


def test_averaged_weights_come_first(tmp_path: Path, linear: nn.Linear) -> None:
    other = {name: value + 1 for name, value in linear.state_dict().items()}
    check(load_foreign(saved(tmp_path / "x.pth", {"model": other, "ema": linear.state_dict()})), linear)


def test_a_foreign_safetensors_file(tmp_path: Path, linear: nn.Linear) -> None:
    save_file(linear.state_dict(), tmp_path / "x.safetensors")
    check(load_foreign(tmp_path / "x.safetensors"), linear)


@pytest.mark.parametrize(
    ("content", "found"),
    [({}, "found a dict"), ({"epoch": 3, "args": {"a": 1}}, "found the keys epoch, args"), ([1], "found a list")],
)
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object, found: str) -> None:
    with pytest.raises(ConfigError, match=f"x.pth: expected the weights of a network .a state_dict., {found}"):
        load_foreign(saved(tmp_path / "x.pth", content))


def test_missing_and_damaged_foreign_files(tmp_path: Path, linear: nn.Linear) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_foreign(tmp_path / "none.pth")
    path = saved(tmp_path / "x.pth", linear.state_dict())
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ConfigError, match=r"x.pth: cannot be read"):
        load_foreign(path)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_is_refused_with_what_it_wants_and_how_to_convert_it(
    tmp_path: Path, linear: nn.Linear, legacy: bool
) -> None:
    path = saved(tmp_path / "x.pth", {"model": linear}, legacy=legacy)
    with pytest.raises(ConfigError) as error:
        load_foreign(path)
    text = str(error.value)
    assert "x.pth: not loaded" in text
    assert "(torch.nn.modules.linear.Linear)" in text
    assert "torch.save(model.state_dict(), 'weights.pth')" in text
    assert "--trust" in text
    check(load_foreign(path, trust=True), linear)


def test_trust_takes_what_is_beside_the_weights(tmp_path: Path, linear: nn.Linear) -> None:
    path = saved(tmp_path / "x.pth", {"args": argparse.Namespace(a=1), "ema": None, "model": linear.half()})
    with pytest.raises(ConfigError, match=r"Namespace"):
        load_foreign(path)
    check(load_foreign(path, trust=True), linear.float())


class _RunsCode:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("code-was-run",)


@pytest.mark.parametrize("kind", ["torch", "legacy", "pickle"])
def test_code_runs_only_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"a": _RunsCode()}))
    else:
        saved(path, {"a": _RunsCode()}, legacy=kind == "legacy")
    with pytest.raises(ConfigError, match="not loaded"):
        load_foreign(path)
    assert not (tmp_path / "code-was-run").exists()
    if kind == "torch":
        with pytest.raises(ConfigError, match="expected the weights"):
            load_foreign(path, trust=True)
        assert (tmp_path / "code-was-run").exists()


def test_what_lies_beside_the_weights_is_left_out_without_running_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linear: nn.Linear, caplog: pytest.LogCaptureFixture
) -> None:
    """As training programs save it: numbers of NumPy, the arguments, objects of their own."""
    monkeypatch.chdir(tmp_path)
    rest = {"best_ap": np.float64(0.3), "args": argparse.Namespace(a=1), "path": Path("x"), "hook": _RunsBuiltin()}
    caplog.set_level("INFO")
    allowed = set(torch.serialization.get_safe_globals())
    check(load_foreign(saved(tmp_path / "x.pth", {"model": linear.state_dict(), **rest})), linear)
    assert "argparse.Namespace" in caplog.text
    assert "no code of the file was run" in caplog.text
    assert not (tmp_path / "code-was-run").exists()
    assert set(torch.serialization.get_safe_globals()) == allowed
    with pytest.raises(ConfigError, match="not loaded"):  # torch itself blocks modules like os
        load_foreign(saved(tmp_path / "y.pth", {"model": linear.state_dict(), "hook": _RunsCode()}))
    assert not (tmp_path / "code-was-run").exists()


class _RunsBuiltin:
    def __reduce__(self) -> tuple:
        return exec, ("import os; os.mkdir('code-was-run')",)


def test_a_trusted_file_whose_program_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("strange_trainer")
    exec_class = type("Model", (nn.Linear,), {"__module__": "strange_trainer"})
    module.Model = exec_class
    monkeypatch.setitem(sys.modules, "strange_trainer", module)
    path = saved(tmp_path / "x.pth", {"model": exec_class(1, 1)})
    monkeypatch.delitem(sys.modules, "strange_trainer")
    with pytest.raises(ConfigError, match=r"strange_trainer\.Model"):
        load_foreign(path)
    with pytest.raises(ConfigError, match="needs the package 'strange_trainer' of the program that wrote it"):
        load_foreign(path, trust=True)
