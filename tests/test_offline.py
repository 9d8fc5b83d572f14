"""No command uses the network, starts other programs than git, or writes outside its output folder."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from utils.config import ROOT

PROGRAMS = {"git", "uname", "ldconfig", "fc-list"}
"""git for the commit in checkpoints; Python asks uname for the processor and ldconfig for libraries, matplotlib fc-list
for fonts."""
HOMES = ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "MPLCONFIGDIR", "TORCH_HOME", "HF_HOME")
HOMES += ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Not handed on to the commands; the last two torch itself sets in a process that has imported its compiler."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with home/, which must stay empty, temporary/, and out/ for all that the commands write."""
    folder = tmp_path_factory.mktemp("offline")
    for name in ("home", "temporary", "out"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(scope="module")
def report(place: Path, tiny_coco: Path, tiny_model: Path) -> list[dict[str, Any]]:
    """What each command reached for."""
    out = place / "out"
    weights, project = ["--weights", str(out / "train" / "weights" / "best.pt")], ["--project", str(out)]
    cpu, data = ["--device", "cpu"], ["--data", str(tiny_coco)]
    recipe = ["--epochs", "1", "--batch-size", "4", "--workers", "1", "--threads", "1", "--set", "amp=off"]
    recipe += ["--set", "augment.albumentations=[{type: Blur}]"]
    commands = [
        ("train", ["--cfg", str(tiny_model), *data, *cpu, *recipe, *project, "--name", "train"]),
        ("val", [*weights, *data, *cpu, *project, "--workers", "1", "--save-json", "--name", "val"]),
        ("detect", [*weights, *cpu, *project, "--source", str(tiny_coco.parent / "images"), "--name", "detect"]),
        ("models.benchmark.__main__", [str(tiny_model), *cpu, "--json"]),
        ("data.doctor.__main__", [str(tiny_coco), "--html", str(out / "doctor.html")]),
        ("data.convert", [str(tiny_coco), str(out / "voc"), "--to", "voc"]),
        ("data.anchors", [str(tiny_coco), "--img-size", "64", "--num", "6"]),
        ("utils.info", [weights[1]]),
        ("utils.report", [str(out / "train"), "--html", str(out / "report.html")]),
    ]
    packages = {"torchscript": (), "darknet": (), "onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}
    for kind, needed in packages.items():
        if all(importlib.util.find_spec(package) for package in needed):
            commands.append(("export", [*weights, "--format", kind, "--output", str(out)]))
    (place / "commands.json").write_text(json.dumps(commands))
    environment = {key: value for key, value in os.environ.items() if key not in HOMES and "PROXY" not in key.upper()}
    environment |= {"HOME": str(place / "home"), "TMPDIR": str(place / "temporary"), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(ROOT / "tests" / "offline_worker.py"), str(place), str(place / "commands.json")]
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((place / "report.json").read_text())
    assert [each["command"] for each in found] == [command for command, _ in commands]
    for each in found:
        assert each["code"] in ((0, 1) if each["command"] == "data.doctor.__main__" else (0,)), (
            done.stdout + done.stderr
        )
    return found


def test_no_command_uses_the_network(report: list[dict[str, Any]]) -> None:
    assert {each["command"]: used for each in report if (used := of_kind(each, "network"))} == {}


def test_no_command_starts_a_shell_or_another_program_than_git(report: list[dict[str, Any]]) -> None:
    assert {each["command"]: used for each in report if (used := of_kind(each, "shell"))} == {}
    assert set().union(*(of_kind(each, "program") for each in report)) <= PROGRAMS


def test_nothing_is_written_outside_the_output_folder(report: list[dict[str, Any]], place: Path) -> None:
    assert {each["command"]: files for each in report if (files := of_kind(each, "written"))} == {}
    assert [str(path) for path in (place / "home").rglob("*")] == []
    # PyTorch makes an empty folder when its compiler is imported, which export and the count of operations do.
    left = [path for path in (place / "temporary").rglob("*") if not path.name.startswith("torchinductor_")]
    assert [str(path) for path in left] == []
    assert {"train", "val", "detect", "doctor.html", "voc", "report.html"} <= {
        p.name for p in (place / "out").iterdir()
    }


def test_the_watch_sees_what_it_is_there_for(tmp_path: Path) -> None:
    """Each of these would end the test above."""
    code = f"""
import os, pathlib, socket, subprocess, sys
sys.path.insert(0, {str(ROOT)!r})
from tests.offline_worker import Watch
watch = Watch(pathlib.Path({str(tmp_path / "out")!r}))
sys.addaudithook(watch)
for attempt in (lambda: socket.create_connection(("127.0.0.1", 9)), lambda: socket.getaddrinfo("example.org", 80)):
    try:
        attempt()
    except PermissionError:
        pass
subprocess.run([sys.executable, "-c", ""])
os.system("true")
pathlib.Path({str(tmp_path / "trace")!r}).write_text("")
pathlib.Path({str(tmp_path / "folder")!r}).mkdir()
print(sorted({{kind for kind, _ in watch.seen}}), len(watch.seen))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "['network', 'program', 'shell', 'written'] 6\n", done.stdout + done.stderr


def of_kind(command: dict[str, Any], kind: str) -> set[str]:
    return {what for found, what in command["seen"] if found == kind}
