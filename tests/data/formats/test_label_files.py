"""Labels in one file an image: where they are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.tiny_sets import (
    make_config,
    make_image,
    read,
)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/a.png", "labels/a.txt"),
        ("images/val/a.png", "labels/val/a.txt"),
        ("val/images/a.png", "val/labels/a.txt"),
        ("val/a.png", "labels/val/a.txt"),
        ("val/a.png", "labels/a.txt"),
        ("val/a.png", "val/labels/a.txt"),
        ("x/y/a.png", "labels/x/y/a.txt"),
        ("val/a.png", "val/a.txt"),
    ],
)
def test_yolo_places_of_labels(tmp_path: Path, image: str, label: str) -> None:
    make_image(tmp_path / image)
    (tmp_path / label).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / label).write_text("2 0.5 0.5 1 1\n")
    data = read(make_config(tmp_path, f"val: {Path(image).parent}\nnames: [cat, dog, owl]"))
    assert data.samples[0].labels.tolist() == [2]
