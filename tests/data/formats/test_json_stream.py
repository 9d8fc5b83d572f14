"""A file read entry by entry holds what a parser of the whole text says, and each entry lies where it is said to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.formats import json_stream
from data.formats.coco_compact import entries_at, load_compact
from data.formats.json_file import load_coco
from data.formats.json_stream import LIST, entries

TEXTS = [
    "{}",
    ' { "a" : [ ] , "b" : {} }\n',
    '{"a": [1, 23.5e-3, -4, true, null, "x\\"],[", [[]], {"b": [{}]}], "c": 17, "d": "}"}',
    '{"images":[{"id":1,"file_name":"ñandú 日本 \\ud83d\\ude00 😀.jpg"},\r\n\n{"id": 2,"é":[1]}\n,3],"é":{}}',
    '{"a": [123456789012345678901234567890, NaN, -Infinity], "a": [5], "a": 6}',
]  # fmt: skip


def whole(file: Path) -> tuple[dict[str, Any], list[tuple[Any, tuple[int, int, int]]]]:
    content: dict[str, Any] = {}
    listed = []
    for key, value, place in entries(file):
        if place is None:
            content[key] = [] if value is LIST else value
        else:
            content[key].append(value)
            listed.append((value, place))
    return content, listed


@pytest.mark.parametrize("window", [1, 2, 5, 1 << 20])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_entries_are_those_of_the_text(
    text: str, window: int, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", window)
    file = tmp_path / "a.json"
    file.write_bytes((mark + text).encode())
    content, listed = whole(file)
    assert json.dumps(content) == json.dumps(json.loads(text))
    data = file.read_bytes()
    for value, (start, end, line) in listed:
        assert json.dumps(json.loads(data[start:end])) == json.dumps(value)
        assert line == data[:start].count(b"\n") + 1


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"a"}', '{"a":1,}', '{"a":[1,]}', '{"a":[1 2]}', '{"a":1} x', '{"a":[1}', "{1:2}", '{"a":[nul]}',
     '{"a": "\n"}', '{"a":[' + "[" * 100_000, '{"a": ' + "1" * 5000 + "}"],
)  # fmt: skip
@pytest.mark.parametrize("window", [3, 1 << 20])
def test_what_no_parser_takes_is_refused(
    text: str, window: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "WINDOW", window)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises((ValueError, RecursionError)):
        whole(tmp_path / "a.json")
    assert load_compact(tmp_path / "a.json") is None


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'{"images": ["\xff"]}')
    assert load_compact(tmp_path / "a.json") is None
    assert load_compact(tmp_path / "none.json") is None


def test_annotations_are_read_again_as_they_are(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2.5, 3, 4], "segmentation": [[1, 2, 3]], "note": "ñ"},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": "odd", "x": {"bbox": [1, 2, 3, 4]}},
        7,
        {"id": 3, "image_id": 1, "category_id": 1, "bbox": [5, 6, 7, 8], "area": 9, "iscrowd": 1},
    ]
    images = [{"id": 1, "file_name": "a", "width": 3, "height": 4, "licence": 5}, {"id": "x", "odd": 1}]
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"images": images, "annotations": rows, "info": {"year": 1}}, indent=1))
    compact = load_compact(file, whole=True)
    assert compact is not None
    assert list(entries_at(compact.content["annotations"], [3, 0, 1, 2])) == [rows[each] for each in (3, 0, 1, 2)]
    assert {**compact.content, "annotations": rows} == load_coco(file)
    slim = load_compact(file)
    assert slim is not None
    assert slim.content["images"] == [{"id": 1, "file_name": "a", "width": 3, "height": 4}, {"id": "x", "odd": 1}]
    assert [slim.content["annotations"][each].get("id") for each in (0, 1, 3)] == [1, 2, 3]
