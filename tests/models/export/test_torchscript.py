"""TorchScript files: what PyTorch gives, without our code, on whatever device."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import detect
import export
import val
from models.export.compare import compare
from models.export.torchscript import write_torchscript
from models.predictor import open_predictor
from tests.models.export.models import predictor_of, small_model, spec_of
from utils.config import ConfigError

# Newer PyTorch recommends torch.export in its place.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def file_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a `small_model`, written once."""

    @functools.cache
    def written(name: str) -> Path:
        path, model = tmp_path_factory.mktemp("torchscript") / "m.torchscript", small_model(name)
        write_torchscript(model, path, spec_of(model))
        return path

    return written


@pytest.mark.parametrize("name", ["cspdet-n", "cspdet-n-e2e", "csppeleenet-prn", "darknet", "region"])
def test_any_batch_and_size_give_what_pytorch_gives(name: str, file_of: Callable[[str], Path]) -> None:
    model = small_model(name)
    spec = spec_of(model)
    predictor = open_predictor(file_of(name), trust=True)
    assert predictor.info == spec.info
    assert predictor.description.startswith("TorchScript on cpu")
    difference = compare(predictor_of(model), predictor, [(1, 64, 96), (3, 32, 32), (2, 96, 64)])
    assert difference.within(2e-5), difference


def test_a_file_holds_no_weights_of_branches_that_only_training_needs(file_of: Callable[[str], Path]) -> None:
    model = small_model("cspdet-n-e2e")
    script = torch.jit.load(str(file_of("cspdet-n-e2e")))
    names = list(script.state_dict())
    assert names
    assert not [name for name in names if "one_to_one" in name]
    model.head.keep_one_to_one_()
    kernels = [sum(p.numel() for p in each.parameters() if p.ndim == 4) for each in (script, model)]
    assert kernels[0] == kernels[1]


def test_it_runs_where_our_code_is_not(file_of: Callable[[str], Path], tmp_path: Path) -> None:
    model = small_model("cspdet-n")
    shutil.copy(file_of("cspdet-n"), tmp_path)
    images = torch.rand(2, 3, 64, 64)
    boxes, scores = predictor_of(model).predict(images)
    torch.save({"images": images, "boxes": boxes, "scores": scores}, tmp_path / "expected.pt")
    code = """
import json, sys, torch
extra = {"cspdet.json": ""}
module = torch.jit.load("m.torchscript", _extra_files=extra)
expected = torch.load("expected.pt", weights_only=True)
boxes, scores = module(expected["images"])
torch.testing.assert_close(boxes, expected["boxes"], rtol=1e-4, atol=1e-3)
torch.testing.assert_close(scores, expected["scores"], rtol=1e-4, atol=1e-5)
assert not [name for name in sys.modules if name.split(".")[0] in ("models", "utils", "data")]
print(json.dumps(json.loads(extra["cspdet.json"])))
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={"PATH": ""}, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == spec_of(model).metadata


def test_nothing_in_the_file_holds_to_the_cpu(file_of: Callable[[str], Path]) -> None:
    """A trace notes the device of new tensors; ours follow the images at once (type_as), so a GPU works too."""
    graph = torch.jit.load(str(file_of("cspdet-n"))).inlined_graph
    devices = [node.output() for node in graph.findAllNodes("prim::Constant") if str(node.output().type()) == "Device"]
    users = [use.user for device in devices for use in device.uses()]
    assert {user.kind() for user in users} == {"aten::arange"}
    assert {use.user.kind() for user in users for use in user.output().uses()} == {"aten::type_as"}


def test_weights_in_fp16(tmp_path: Path) -> None:
    model = small_model("cspdet-n")
    write_torchscript(model, tmp_path / "half.torchscript", spec_of(model, half=True))
    module = torch.jit.load(str(tmp_path / "half.torchscript"))
    types = {parameter.dtype for parameter in module.parameters() if parameter.ndim == 4}
    assert types == {torch.float16}
    predictor = open_predictor(tmp_path / "half.torchscript", trust=True)
    assert predictor.precision == "fp32 (fp16 weights)"
    difference = compare(predictor_of(model), predictor, [(2, 64, 96)])
    assert 1e-6 < difference.scores < 5e-3, difference


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.torchscript").write_bytes(b"no module")
    with pytest.raises(ConfigError, match=r"broken.torchscript: PyTorch cannot load it"):
        open_predictor(tmp_path / "broken.torchscript", trust=True)
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), str(tmp_path / "other.torchscript"))
    with pytest.raises(ConfigError, match="not a detector exported by CSPDet"):
        open_predictor(tmp_path / "other.torchscript", trust=True)


class _Writes(torch.nn.Module):
    """Writes a file while it is loaded, and another one while it is used."""

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return torch.zeros(1), self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        torch.save(state[0], "loaded.txt")
        self.training = state[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        torch.save(images, "used.txt")
        return images


def test_a_file_runs_only_where_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.save(torch.jit.script(_Writes()), "x.torchscript")
    for command, rest in (
        (val, ["--data", "none.yaml"]),
        (detect, ["--source", "none.jpg"]),
        (export, ["--format", "onnx"]),
    ):
        assert command.main(["--weights", "x.torchscript", *rest]) == 2
        error = capsys.readouterr().err
        assert "add --trust" in error or (command is export and "is an exported file" in error)
    assert not Path("loaded.txt").exists()
    with pytest.raises(ConfigError, match="not a detector exported by CSPDet"):
        open_predictor("x.torchscript", trust=True)
    assert Path("loaded.txt").exists(), "the test is about what such a file can do"
