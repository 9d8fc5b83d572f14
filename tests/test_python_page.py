"""docs/python.md: its examples run in a folder outside the checkout, and names that clash are told."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.detector import Detector, load_detector
from models.build import build_model
from models.config import load_model_config
from tests.test_detect import save_video
from utils.checkpoint import save_checkpoint
from utils.config import ROOT, to_plain

PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SUPERVISION = """
class Detections:
    def __init__(self, **parts):
        vars(self).update(parts)

    def __len__(self):
        return len(self.xyxy)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the examples of the page use: a run, a photo and a video."""
    folder = tmp_path_factory.mktemp("project")
    config = load_model_config(
        "cspdet-n", ["image_size=64", "backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]"]
    )
    state = {"model": to_plain(config), "names": ["dog", "bicycle", "cat"], "category_ids": [18, 2, 17]}
    state |= {"image_size": [64, 64], "resize": "letterbox", "ema": build_model(config, 3).state_dict()}
    weights = folder / "runs" / "train" / "exp" / "weights" / "best.pt"
    weights.parent.mkdir(parents=True)
    save_checkpoint(weights, state)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.jpg")
    save_video(folder / "clip.mp4", 5)
    if find_spec("supervision") is None:
        (folder / "supervision.py").write_text(SUPERVISION)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "CSPDET": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_examples_run_outside_the_checkout(folder: Path) -> None:
    programs = {"example.py": ""}
    for example in EXAMPLES:
        first = re.match(r"# (\w+\.py)\n", example)
        name = first[1] if first else "example.py"
        programs[name] = programs.get(name, "") + example
    assert set(programs) == {"example.py", "worker.py", "program.py"}
    programs["example.py"] += "print('LAST', len(results))\n"
    programs["program.py"] += "print('LAST', type(entries))\n"
    for name, code in programs.items():
        (folder / name).write_text(code)
    for name, last in (("example.py", "LAST 2"), ("program.py", "LAST <class 'list'>")):
        done = run(folder, name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == last
    assert "clip.mp4: frame 4 at 0.32 s" in run(folder, "example.py").stdout
    assert Image.open(folder / "found.png").size == (90, 60)
    assert not (folder / "runs" / "detect").exists()


@pytest.mark.parametrize("name", ["data", "engine", "models", "utils"])
def test_a_package_of_that_name_that_came_first_is_told(folder: Path, name: str) -> None:
    (folder / f"{name}.py").write_text("")
    try:
        done = run(folder, "-c", "import detect")
    finally:
        (folder / f"{name}.py").unlink()
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"ImportError: CSPDet needs its own package '{name}', in {ROOT}, and Python finds ")
    assert f"{name}.py. Put {ROOT} first on sys.path" in message
    assert "'Names that clash' in docs/python.md" in message


def test_importing_it_is_cheap_until_the_detector_is_asked_for(folder: Path) -> None:
    code = "import detect, sys; assert not {'torch', 'cv2', 'av'} & set(sys.modules); detect.load_detector"
    done = run(folder, "-c", f"{code}; detect.nosuch")
    assert done.stderr.splitlines()[-1] == "AttributeError: module 'detect' has no attribute 'nosuch'"


def test_the_page_names_every_argument() -> None:
    for name in inspect.signature(load_detector).parameters:
        assert f"| `{name}` |" in PAGE, name
    for function in (Detector.__call__, Detector.stream):
        for name in set(inspect.signature(function).parameters) - {"self", "pictures", "source"}:
            assert f"`{name}" in PAGE, name
