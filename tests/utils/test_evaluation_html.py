"""The page of an evaluation: it needs nothing else, its names are text, and 5,000 pictures keep it below 10 MB."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.utils.test_gallery import row, split
from utils.charts import line_chart, ticks_up_to
from utils.evaluation_html import Evaluation, to_html
from utils.gallery import Case, Gallery, Mark, worst_pictures
from utils.gallery_html import View, drawn, gallery_section
from utils.jpeg import encoded

EVIL = "</script><img src=x onerror=alert(1)>'\"&"
FIGURES = {
    "AP": 0.5,
    "AP50": None,
    "per_class": {EVIL: {"AP": 0.25, "AP50": None, "f1": 0.5, "conf": 0.3, "objects": 1234}},
    "images": 7,
    "speed_ms": {"inference": 2.0},
    "f1": {"best": 0.6, "conf": 0.31},
    "calibration": {"d_ece": 0.07},
    "errors": {"AP50": 0.5, "class": 0.1, "missed": 0.2, "per_class": {EVIL: {"class": 0.1}}, "sizes": {}},
    "verdict": {"kind": "memorises", "text": f"It knows {EVIL}", "advice": [f"more {EVIL}"], "told_apart": True},
    "protocol": {"data": EVIL, "image_size": [64, 64]},
}
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background", "cite", "formaction"}


class Reader(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def noise(count: int, *, side: int = 320) -> list[bytes]:
    """JPEG files that compress as badly as any picture."""
    draw = np.random.default_rng(0)
    return [encoded(draw.integers(0, 256, (side, side, 3), dtype=np.uint8), quality=72) for _ in range(count)]


def evaluation(**values: object) -> Evaluation:
    curves = {"epoch": [1.0, 2.0], "loss/box": [2.0, 1.0], "AP": [float("nan"), 0.5], "lr": [0.1, 0.01]}
    parts = {"title": EVIL, "about": (EVIL,), "figures": FIGURES, "curves": curves}
    return Evaluation(**{**parts, **values})  # type: ignore[arg-type]


def evil_gallery() -> str:
    marks = (Mark((0.0, 0.0, 9.0, 9.0), 0, 0.9, wrong=True), Mark((1.0, 1.0, 9.0, 9.0), 0, None, wrong=True))
    case = Case("class", 1, marks, 1, 0.9, frozenset({0}))
    view = View(f"{EVIL}.jpg", (0, 0, 10, 10), (10, 10), noise(1, side=10)[0])
    return gallery_section(Gallery((case,), {"class": 1}, {"class": 1}, 0.3), [(case, view)], [EVIL])


def test_it_needs_nothing_else_and_no_name_becomes_markup() -> None:
    text = to_html(evaluation(gallery=evil_gallery(), diagrams=[(EVIL, noise(1, side=8)[0])]))
    reader = Reader()
    reader.feed(text)
    assert text.count("<script>") == text.count("</script>") == 1
    assert "onerror" not in {name for _, attributes in reader.tags for name in attributes}
    for tag, attributes in reader.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in LOADING & attributes.keys():
            assert str(attributes[name]).startswith("data:image/jpeg;base64,"), (tag, attributes[name])
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttp|import\(", text)
    (policy,) = [attributes["content"] for tag, attributes in reader.tags if "http-equiv" in attributes]
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    assert "memorises: It knows </script><img" in reader.text
    assert "What helps:more </script><img" in reader.text
    for told in ("0.600", "best F1 at score 0.31", "0.070", "1,234", "2 ms"):
        assert told in reader.text, told


def test_a_page_of_little_is_whole() -> None:
    text = to_html(Evaluation("x", (), {"AP": None}))
    assert "–" in text
    assert "Worst pictures" not in text
    assert text.endswith("</script>\n</body></html>\n")


@pytest.mark.parametrize("verdict", [None, {}, {"kind": None, "text": "", "advice": [], "told_apart": True}])
def test_a_run_that_goes_well_has_no_verdict(verdict: object) -> None:
    assert "class='verdict'" not in to_html(Evaluation("x", (), {"verdict": verdict}))


def test_of_5000_pictures_the_page_is_below_10_mb_and_each_kind_is_on_it() -> None:
    truth = split({image: [(0.0, 5), (100.0, 7)] for image in range(1, 5001)})
    rows = [row(image, 0, 7, 0.9) for image in range(1, 5001)]  # class
    rows += [row(image, 300, 5, 0.8) for image in range(1, 5001)]  # background
    rows += [row(image, 100 + 22, 7, 0.7) for image in range(1, 2501)]  # location
    found = worst_pictures(truth, rows, (5, 7))
    pictures = noise(4)
    views = [
        (case, View(f"{case.image_id}.jpg", (0, 0, 640, 640), (320, 320), pictures[place % 4]))
        for place, case in enumerate(found.cases)
    ]
    section = gallery_section(found, views, ["a", "b"])
    page = to_html(evaluation(gallery=section, diagrams=[("confusion", noise(1, side=700)[0])] * 3))
    assert 3_000_000 < len(page.encode()) < 10_000_000
    for kind in ("missed", "class", "location", "background"):
        assert section.count(f"data-kind='{kind}'") > 10
    assert "more had no room" in section


def test_boxes_lie_where_they_are_in_the_part_that_is_shown() -> None:
    view = View("x.jpg", (100, 50, 200, 150), (320, 320), b"")
    text = drawn(view, [Mark((110.0, 60.0, 130.0, 100.0), 0, 0.5, wrong=True), Mark((0.0, 0.0, 90.0, 40.0), 0)], ["c"])
    assert text.count("<rect") == 1, "the other is outside"
    assert "x='32' y='32' width='64' height='128'" in text
    assert ">c 0.50</text>" in text


def test_a_chart_skips_gaps_and_is_empty_of_nothing() -> None:
    nan = float("nan")
    assert line_chart("t", [], {}) == line_chart("t", [1, 2], {"a": [nan, nan]}) == ""
    text = line_chart("<t>", [1, 2, 3], {"a<b": [0.5, nan, 1.0], "c": [nan, 0.2, nan]})
    assert "&lt;t&gt;" in text
    assert "a&lt;b" in text
    assert len(re.findall(r"polyline points='[\d.]+,[\d.]+ [\d.]+,[\d.]+'", text)) == 1
    for top in (0.003, 0.0301, 1, 7, 99, 123456):
        ticks = ticks_up_to(top)
        assert 3 <= len(ticks) <= 7
        assert ticks[-2] < top <= ticks[-1] * (1 + 1e-9)
