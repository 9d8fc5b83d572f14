"""Pipes, sockets and devices in the place of files: refused by name, without being opened and waited for."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from data.config import load_data_config
from data.doctor.__main__ import main as doctor
from data.media.find import find_media
from data.media.sources import open_source
from data.read import read_split
from models.darknet.cfg import read_cfg
from models.darknet.header import read_header
from models.names import names_beside
from tests.data.tiny_sets import make_coco, make_config, make_image, make_yolo, read
from utils.config import ConfigError, load_yaml
from utils.files import read_regular

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
REFUSED = "a pipe or a device, expected a regular file"


def make_pipe(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def make_socket(path: Path) -> Path:
    path.unlink(missing_ok=True)
    folder = os.getcwd()
    os.chdir(path.parent)  # the name of a socket has at most 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(path.name)
    finally:
        os.chdir(folder)
    return path


def make_device(path: Path) -> Path:
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")
    return path


@pytest.fixture(params=[make_pipe, make_socket, make_device])
def put(request: pytest.FixtureRequest) -> Callable[[Path], Path]:
    return request.param


def test_files_are_not_opened(tmp_path: Path, put: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "odd")
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    with pytest.raises(OSError, match=REFUSED):
        read_regular(path)


def test_configurations(tmp_path: Path, put: Callable[[Path], Path]) -> None:
    path = put(tmp_path / "data.yaml")
    for read_it in (lambda: load_data_config(str(path)), lambda: load_yaml(path), lambda: read_cfg(path)):
        with pytest.raises(ConfigError, match=rf"data.yaml.*{REFUSED}"):
            read_it()
    assert doctor([str(path)]) == 2
    with pytest.raises(ConfigError, match=REFUSED):
        read_header(put(tmp_path / "x.weights"))
    put(tmp_path / "x.names")
    with pytest.raises(OSError, match=REFUSED):
        names_beside(3, [tmp_path / "x.cfg"])


@pytest.mark.parametrize("name", ["val.json", "val.txt", "val"])
def test_lists_and_json(tmp_path: Path, put: Callable[[Path], Path], name: str) -> None:
    put(tmp_path / name)
    config = make_config(tmp_path, f"val: {name}\nnames: [cat]")
    with pytest.raises(ConfigError, match=rf"{name}: cannot be read \({REFUSED}\)"):
        read(config)
    assert doctor([str(config.source)]) == 2


def test_images_and_labels(tmp_path: Path, put: Callable[[Path], Path]) -> None:
    config = make_coco(tmp_path / "coco", [])
    put(tmp_path / "coco" / "images" / "a.png")
    data = read(config)
    assert [sample.path.name for sample in data.samples] == ["b.png"]
    assert any(REFUSED in problem.what for problem in data.problems)
    config = make_yolo(tmp_path / "yolo", {"a": "", "b": "", "c": ""})
    put(tmp_path / "yolo" / "images" / "a.png")
    put(tmp_path / "yolo" / "labels" / "b.txt")
    data = read_split(config, "val")
    assert [sample.path.name for sample in data.samples] == ["c.png"]
    assert sum(REFUSED in problem.what for problem in data.problems) == 2


@pytest.mark.parametrize("name", ["a.jpg", "a.mp4", "a.txt"])
def test_sources(tmp_path: Path, put: Callable[[Path], Path], name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path / name)
    with pytest.raises(ValueError, match=REFUSED):
        find_media(str(path))
    make_image(tmp_path / "good.png")
    (tmp_path / "list.txt").write_text(f"{name}\ngood.png\n")
    source = open_source(str(tmp_path / "list.txt"))
    assert [frame.media.name for frame in source] == ["good.png"]
    assert REFUSED in caplog.text or name == "a.txt"
