"""JPEG files without their last bytes: the picture is used, and what is lost is told."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.config import read_data_config
from data.cut_jpeg import complete_jpeg
from data.dataset import EvalDataset, Request, TrainDataset
from data.doctor.examine import examine
from data.images import decode_image, read_image, tell
from data.loader import collate
from tests.data.tiny_sets import make_yolo, read
from utils.augment_config import AugmentConfig
from utils.structures import LabelledImages

NOISE = np.random.default_rng(0).integers(0, 90, (240, 320, 3), dtype=np.uint8)
PHOTO = NOISE + np.add.outer(np.arange(240) // 3, np.arange(320) // 4)[..., None].astype(np.uint8)


def jpeg(pixels: np.ndarray = PHOTO, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"quality": 30}])
@pytest.mark.parametrize("cut", [1, 2, 3, 8, 16, 20])
def test_all_but_the_end_is_used(options: dict, cut: int) -> None:
    data = jpeg(**options)
    whole, notes = decode_image(data), list[str]()
    image = decode_image(data[:-cut], notes=notes)
    assert image.shape == whole.shape
    assert np.array_equal(image[:216], whole[:216])
    assert len(notes) == 1
    assert notes[0].startswith(f"the file is cut off ({len(data) - cut} bytes), ")


@pytest.mark.parametrize("cut", [16, 20])
def test_real_photos_lose_next_to_nothing(shared: Path, cut: int) -> None:
    paths = sorted((shared / "data" / "images").glob("*.jpg"))[:3]
    for path in (*paths, *sorted((shared / "data" / "bccd" / "images").glob("*.jpg"))[:2]):
        completed = complete_jpeg(path.read_bytes()[:-cut])
        assert completed is not None
        assert completed[1] < 0.003


def test_no_missing_pixel_is_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg()[:-2])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            read_image(tmp_path / "a.jpg")
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{tmp_path}/a.jpg: the file is cut off")
    assert "no pixel is lost; it is used" in message


def make_set(folder: Path) -> LabelledImages:
    """Four images, of which the third lacks its last bytes."""
    make_yolo(folder, dict.fromkeys("abcd", "0 0.5 0.5 0.2 0.2"))
    for name in "abcd":
        (folder / "images" / f"{name}.png").write_bytes(jpeg() if name != "c" else jpeg()[:-16])
    return read(read_data_config(folder / "data.yaml"))


@pytest.mark.parametrize("cached", [False, True])
def test_training_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, cached: bool) -> None:
    """With a cache before the first step; else with the batch, from whichever loader process it comes."""
    dataset = TrainDataset(
        make_set(tmp_path), AugmentConfig(scale=0.5), image_size=(64, 64), resize="letterbox", seed=0
    )
    with caplog.at_level(logging.WARNING):
        if cached:
            dataset.fill_cache(limit_bytes=10**9)
            assert caplog.text.count("cut off") == 1
        items = [dataset[Request(epoch, index, (64, 64), False)] for epoch in range(2) for index in range(4)]
    notes = collate(items).notes
    assert len(notes) == (0 if cached else 1)
    assert all(note.startswith(f"{tmp_path}/images/c.png: the file is cut off") for note in notes)
    assert caplog.text.count("cut off") == cached, "reading alone says nothing"
    with caplog.at_level(logging.WARNING):
        tell(notes)
        tell(notes)
    assert caplog.text.count("cut off") == 1


def test_evaluation_is_told(tmp_path: Path) -> None:
    dataset = EvalDataset(make_set(tmp_path), image_size=(64, 64), resize="letterbox")
    notes = collate([dataset[index] for index in range(4)]).notes
    assert [note.partition(": ")[0] for note in notes] == [f"{tmp_path}/images/c.png"]


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_larger_loss_is_refused(share: float, progressive: bool) -> None:
    data = jpeg(progressive=progressive)
    with pytest.raises(ValueError, match=r"half.jpg: .*(put a whole file|save|copy)"):
        decode_image(data[: int(len(data) * share)], name="half.jpg")


def test_a_progressive_file_that_ends_after_any_scan_is_refused() -> None:
    data = jpeg(progressive=True)
    starts = [index for index in range(len(data) - 1) if data[index : index + 2] == b"\xff\xda"]
    assert len(starts) > 5
    for start in starts[1:]:
        with pytest.raises(ValueError, match="cannot be decoded"):
            decode_image(data[:start])


def test_flat_pictures_hide_no_loss() -> None:
    grey = np.full((240, 320, 3), 128, np.uint8)
    data = jpeg(grey)
    assert complete_jpeg(data[: len(data) - 100]) is None


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"\xff\xd8\xff\xda", b"\xff\xd8\xff\xc0\x00\x02", jpeg()[2:]])
def test_nothing_to_complete(data: bytes) -> None:
    assert complete_jpeg(data) is None


def test_the_doctor_names_it_and_keeps_it(tmp_path: Path) -> None:
    config = make_yolo(tmp_path, {"a": "0 0.5 0.5 0.2 0.2"})
    (tmp_path / "images" / "a.png").write_bytes(jpeg()[:-16])
    report, splits = examine(config)
    (finding,) = [finding for finding in report.findings if "cut off" in finding.what]
    assert (finding.severity, finding.where) == ("warning", str(tmp_path / "images" / "a.png"))
    assert len(splits["val"]) == 1
