"""detect.py that is killed, and names that nobody expects: what is on disk can be read, what is told is harmless."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.media.video import VideoReader
from data.media.video_writer import VideoWriter
from engine.commands import detect as commands
from tests.test_detect import ColourPredictor, command, moving, save, save_video, scene
from utils.config import ROOT

__all__ = ["command"]

SLOW = """
import sys, time
import detect
from engine.commands import detect as commands
from tests.test_detect import ColourPredictor

class Slow(ColourPredictor):
    def predict(self, images):
        time.sleep(0.02)
        return super().predict(images)

commands.open_fastest, commands.check_file = lambda *_, **__: (Slow(), ""), lambda *_, **__: None
sys.exit(detect.main(sys.argv[1:]))
"""


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_detection_has_a_line(tmp_path: Path, command) -> None:
    save(tmp_path / "a" / "x.png", scene(90, 150, (2, 100, 50, 140, 80), (0, 10, 20, 60, 70)))
    save(tmp_path / "a" / "y.png", scene(90, 150))
    save_video(tmp_path / "a" / "z.mp4", 5)
    status, folder = command("--source", tmp_path / "a", "--save-json", "--save-jsonl", "--no-save")
    assert status == 0
    assert sorted(path.name for path in folder.iterdir()) == ["detections.json", "detections.jsonl"]
    assert lines(folder / "detections.jsonl") == json.loads((folder / "detections.json").read_text())
    assert len(lines(folder / "detections.jsonl")) == 7
    status, folder = command("--source", tmp_path / "a" / "y.png", "--save-json", "--save-jsonl", "--no-save")
    assert (folder / "detections.jsonl").read_bytes() == b""
    assert (folder / "detections.json").read_bytes() == b"[\n]\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_what_was_found_survives_a_kill(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    writer = VideoWriter(video, Fraction(25), 90, 150)
    for number in range(400):
        writer.write(moving(number % 25), number / 25)
    writer.close()
    options = ["--weights", "x.pt", "--source", str(video), "--save-json", "--save-jsonl", "--project", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-c", SLOW, *options], cwd=ROOT, stdout=subprocess.DEVNULL)
    rows, limit = tmp_path / "exp" / "detections.jsonl", time.monotonic() + 120
    while not rows.exists() or rows.read_bytes().count(b"\n") < 150:
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    found = lines(rows)
    assert 150 <= len(found) < 400
    assert [entry["frame"] for entry in found] == list(range(len(found)))
    assert len(found) - len(json.loads((tmp_path / "exp" / "detections.json").read_text())) in (-1, 0, 1)
    reader = VideoReader(str(tmp_path / "exp" / "clip.mp4"))
    count = 0
    while (item := reader.read()) is not None:
        assert np.abs(item[0].astype(int) - moving(count % 25)).mean() < 40
        count += 1
    assert len(found) - 100 < count <= len(found) + 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_names_are_escaped_on_the_terminal_and_kept_on_disk(
    tmp_path: Path, command, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), "a\x1b[2Jb.png", "c\nd.png", "грузовик.png"]
    for name in names:
        save(tmp_path / "in" / name, scene(90, 150, (0, 10, 20, 60, 70)))
    bad = tmp_path / "in" / os.fsdecode(b"bad\xff\n\x1b[31m.jpg")
    bad.write_bytes(b"damaged")
    save_video(tmp_path / "in" / os.fsdecode(b"caf\xe9.mp4"), 3)
    outputs = ["--save-json", "--save-jsonl", "--save-txt", "--save-crop"]
    monkeypatch.setattr(commands, "open_fastest", lambda *_, **__: (Named(), ""))
    status, folder = command("--source", tmp_path / "in", *outputs)
    assert status == 0
    drawn = {path.name for path in folder.iterdir() if path.is_file()}
    assert drawn == {*names, os.fsdecode(b"caf\xe9.mp4"), "detections.json", "detections.jsonl"}
    sources = {entry["source"] for entry in lines(folder / "detections.jsonl")}
    assert {Path(source).name for source in sources} == {*names, os.fsdecode(b"caf\xe9.mp4")}
    assert {entry["name"] for entry in lines(folder / "detections.jsonl")} == {"r\x1b[1m\nd\udce9"}
    assert [path.name for path in (folder / "crops").iterdir()] == ["r_[1m_d_"]
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert text.replace("\n", "").isprintable()
    assert r"caf\udce9.png: 1 r\u001b[1m\nd\udce9" in text
    assert re.search(r"skipped: .*/bad\\udcff\\n\\u001b\[31m\.jpg: not an image", text)


class Named(ColourPredictor):
    """A model whose class names would steer the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.names = ("r\x1b[1m\nd\udce9", "green", "blue")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such names")
def test_a_console_of_few_letters(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "café 👩.png")
    code = SLOW.replace("0.02", "0")
    options = ["--weights", "x.pt", "--source", str(tmp_path), "--square", "--no-save", "--project", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    run = subprocess.run([sys.executable, "-c", code, *options], cwd=ROOT, env=environment, capture_output=True)
    assert run.returncode == 0, run.stderr
    assert rb"caf\u00e9 \ud83d\udc69.png: nothing" in run.stdout
