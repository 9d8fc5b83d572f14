"""Consoles whose code page lacks the characters of file and class names: no command ends for that."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import train
from data.doctor import __main__ as doctor
from engine import dry_run as rehearsal
from tests.models.saved_models import saved_state
from tests.test_train import cpu
from utils import info
from utils.checkpoint import save_checkpoint

FOLDER, PICTURE, CLASSES = "é данные", "кошка.png", ("红色", "蓝色")


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[list[str]], int], list[str]], tuple[int, str]]:
    """Runs a command under PYTHONIOENCODING=cp1252; its exit status, and what both of its streams show."""

    def run(main: Callable[[list[str]], int], arguments: list[str]) -> tuple[int, str]:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding="cp1252", write_through=True) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            status = main(arguments)
        return status, "".join(each.buffer.getvalue().decode("cp1252") for each in streams)

    return run


@pytest.fixture
def data(tiny_coco: Path, tmp_path: Path) -> Path:
    """The data YAML of a data set with such names, and a box that ends outside of its picture."""
    folder = tmp_path / FOLDER
    shutil.copytree(tiny_coco.parent, folder)
    (folder / "images" / "1.png").rename(folder / "images" / PICTURE)
    for file in folder.glob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        content["images"][1]["file_name"] = PICTURE
        for category, name in zip(content["categories"], CLASSES, strict=True):
            category["name"] = name
        own = next(each for each in content["annotations"] if each["image_id"] == content["images"][1]["id"])
        own["bbox"][2] = 500
        file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder / tiny_coco.name


def escaped(text: str) -> str:
    """As a console with cp1252 shows it."""
    return text.encode("cp1252", "backslashreplace").decode("cp1252")


def test_names_are_escaped_where_the_console_cannot_show_them(
    data: Path,
    tiny_model: Path,
    printed: Callable[[Callable[[list[str]], int], list[str]], tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rehearsal, "STEPS", 12)
    arguments = ["--cfg", str(tiny_model), "--data", str(data), "--project", str(data.parent / "прогоны"), *cpu()]
    status, text = printed(train.main, [*arguments, "--batch-size", "4", "--set", "amp=off", "--dry-run"])
    assert status == 0, text
    assert "Dry run: everything works." in text
    assert escaped(FOLDER) in text
    assert "é " in text, "what the code page has is shown"

    status, text = printed(doctor.main, [str(data)])
    assert status in (0, 1), text
    assert escaped(FOLDER) in text
    assert all(escaped(name) in text for name in CLASSES)

    weights = data.parent / "веса.pt"
    save_checkpoint(weights, {**saved_state(tiny_model), "names": list(CLASSES), "data": str(data)})
    status, text = printed(info.main, [str(weights)])
    assert status == 0, text
    assert all(escaped(name) in text for name in (*CLASSES, FOLDER, weights.name))


def test_where_python_finds_only_names_in_ascii_the_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ["--cfg", "cspdet-n", "--data", str(tmp_path / FOLDER)]
    assert train.main(missing) == 2
    assert "PYTHONUTF8" not in capsys.readouterr().err
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert train.main(missing) == 2
    assert "PYTHONUTF8=1" in capsys.readouterr().err
    assert train.main(["--cfg", "cspdet-n", "--data", str(tmp_path / "nothing")]) == 2
    assert "PYTHONUTF8" not in capsys.readouterr().err
