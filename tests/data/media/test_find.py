"""What each value of --source names, and in which order."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.media.find import find_media, natural_key
from data.media.sources import open_source
from data.media.video_writer import VideoWriter


def save_image(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30, 3), value, np.uint8)).save(path)
    return path


def save_video(path: Path, frames: int = 5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = VideoWriter(path, Fraction(25, 2), 32, 48)
    for index in range(frames):
        writer.write(np.full((32, 48, 3), 40 * index, np.uint8), index * 0.08)
    writer.close()
    return path


def paths_of(spec: Path | str) -> list[str]:
    return [Path(media.location).name for media in find_media(str(spec))]


def test_an_empty_folder_names_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no image or video in this folder.*\.jpg"):
        find_media(str(tmp_path))
    source = open_source(str(tmp_path))
    assert list(source) == []
    assert len(source.skipped) == 1


def test_a_folder_gives_its_images_and_videos_in_natural_order(tmp_path: Path) -> None:
    for name in ("b10.jpg", "b9.PNG", "B1.jpg"):
        save_image(tmp_path / name)
    save_video(tmp_path / "b2.mp4")
    save_image(tmp_path / "deeper" / "c.jpg")
    (tmp_path / "notes.md").write_text("no image")
    assert paths_of(tmp_path) == ["B1.jpg", "b2.mp4", "b9.PNG", "b10.jpg"]


def test_globs_reach_subfolders_and_real_names_come_first(tmp_path: Path) -> None:
    for name in ("a/2.jpg", "a/b/1.jpg", "a/[x].jpg", "a/b.jpg/inside.jpg"):
        save_image(tmp_path / name)
    assert paths_of(tmp_path / "**" / "*.jpg") == ["2.jpg", "[x].jpg", "1.jpg", "inside.jpg"]
    assert paths_of(tmp_path / "a" / "[x].jpg") == ["[x].jpg"]
    with pytest.raises(ValueError, match="no image or video matches"):
        find_media(str(tmp_path / "*.png"))


def test_a_list_is_relative_to_itself(tmp_path: Path) -> None:
    save_image(tmp_path / "images" / "a.jpg")
    absolute = save_image(tmp_path / "b.jpg")
    lines = ["# comment", "", "images/a.jpg ", str(absolute), "http://host/pictures/x%20y.png?size=1", "absent.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    found = find_media(str(tmp_path / "list.txt"))
    assert [media.name for media in found] == ["a.jpg", "b.jpg", "x_y.png", "absent.jpg"]
    assert [media.kind for media in found] == ["image"] * 4
    assert found[0].location == str(tmp_path / "images" / "a.jpg")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    for name, message in (("empty.txt", "list is empty"), ("binary.txt", "cannot be read as a list")):
        with pytest.raises(ValueError, match=message):
            find_media(str(tmp_path / name))


@pytest.mark.parametrize(
    ("spec", "kind", "location", "name", "source"),
    [
        ("0", "live", 0, "camera0.mp4", "0"),
        ("rtsp://u:p%40@cam.local:554/a/b", "live", None, "cam.local_a_b.mp4", "rtsp://cam.local:554/a/b"),
        ("http://host/stream", "live", None, "host_stream.mp4", None),
        ("https://host/clip.MOV", "video", None, "clip.mp4", None),
        ("rtsp://host/live.mp4", "live", None, "host_live.mp4.mp4", None),
        ("http://host/a/photo.jpg", "image", None, "photo.jpg", None),
    ],
)
def test_cameras_and_urls(spec: str, kind: str, location: int | None, name: str, source: str | None) -> None:
    (media,) = find_media(spec)
    expected = (kind, spec if location is None else location, name, source or spec)
    assert (media.kind, media.location, media.name, media.source) == expected


def test_a_path_that_does_not_exist_names_the_nearest(tmp_path: Path) -> None:
    save_image(tmp_path / "horses.jpg")
    with pytest.raises(ValueError, match=r"hoses\.jpg: no such file or folder; did you mean '.*horses\.jpg'"):
        find_media(str(tmp_path / "hoses.jpg"))


def test_natural_order_of_mixed_names() -> None:
    names = ["10", "a", "9", "a10b", "a9c", "a9"]
    assert sorted(map(Path, names), key=natural_key) == [Path(n) for n in ("9", "10", "a", "a9", "a9c", "a10b")]
