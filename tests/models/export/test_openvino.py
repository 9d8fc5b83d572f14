"""OpenVINO files against PyTorch, and OpenVINO kept from the network."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models.export.compare import compare
from models.export.openvino import write_openvino
from models.predictor import open_predictor
from models.runtimes import import_openvino, openvino_core
from tests.models.export.models import predictor_of, small_model, spec_of
from utils.config import ROOT

pytest.importorskip("onnx")


@pytest.fixture(scope="module", autouse=True)
def openvino():
    try:
        return import_openvino()
    except ImportError:
        pytest.skip("openvino is not installed")


@pytest.mark.parametrize("name", ["cspdet-n", "cspdet-n-p2", "cspdet-n-e2e", "darknet", "region"])
def test_open_sizes_give_what_pytorch_gives(name: str, tmp_path: Path) -> None:
    model = small_model(name)
    spec = spec_of(model, dynamic=True)
    write_openvino(model, tmp_path / "m.xml", spec)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    predictor = open_predictor(tmp_path / "m.xml")
    assert predictor.info == spec.info
    difference = compare(predictor_of(model), predictor, [(1, 64, 96), (3, 32, 32), (2, 96, 64)])
    assert difference.within(5e-5), difference


def test_a_fixed_size_with_weights_in_fp16(tmp_path: Path) -> None:
    model = small_model("cspdet-n")
    sizes = []
    for half in (False, True):
        write_openvino(model, tmp_path / "m.xml", spec_of(model, batch_size=2, half=half))
        sizes.append((tmp_path / "m.bin").stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    predictor = open_predictor(tmp_path / "m.xml")
    assert predictor.info.fixed_size
    assert predictor.precision == "fp32 (fp16 weights)"
    difference = compare(predictor_of(model), predictor, [(2, 64, 96), (3, 64, 96)])
    assert 1e-6 < difference.scores < 5e-3, difference
    file = openvino_core().read_model(tmp_path / "m.xml")
    assert (file.input(0).any_name, [output.any_name for output in file.outputs]) == ("images", ["boxes", "scores"])


def test_the_usage_counter_that_comes_with_openvino_is_never_loaded(tmp_path: Path) -> None:
    counter = tmp_path / "openvino_telemetry"
    (counter / "backend").mkdir(parents=True)
    (counter / "__init__.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w').close()\n")
    (counter / "backend" / "__init__.py").touch()
    (counter / "backend" / "backend_ga4.py").touch()
    code = f"""
import sys
from pathlib import Path
loaded = Path({str(tmp_path / "loaded")!r})
sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}, *{sys.path!r}]
from models.runtimes import import_openvino
import_openvino().Core()
assert not loaded.exists()
del sys.modules["openvino_telemetry"]
import openvino_telemetry
assert loaded.exists(), "the stand-in does not work, and the test proves nothing"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="needs a signal at the end of a child")
def test_a_signal_after_two_models_were_closed_in_the_order_of_their_opening(tmp_path: Path) -> None:
    """OpenVINO's plugins change the stack of signal handlers; a dangling one ends the process at the next signal."""
    model = small_model("cspdet-n")
    write_openvino(model, tmp_path / "m.xml", spec_of(model))
    code = f"""
import faulthandler, gc, signal, subprocess, sys
from pathlib import Path
faulthandler.enable()  # gives the thread such a stack
from models.runtimes import OpenVinoPredictor
first, second = (OpenVinoPredictor(Path({str(tmp_path / "m.xml")!r})) for _ in range(2))
del first
del second
gc.collect()
signal.signal(signal.SIGCHLD, lambda *_: None)
for _ in range(3):
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
