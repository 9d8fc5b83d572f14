"""Pages are whole, and text in them is no markup."""

from __future__ import annotations

from utils.html import cell, header, page, table


def test_an_empty_page_is_whole() -> None:
    text = page("a <b>", [])
    assert text.startswith("<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' ")
    assert "<title>a &lt;b&gt;</title>" in text
    assert text.endswith("<body>\n</body></html>\n")


def test_parts_follow_each_other_and_empty_ones_are_left_out() -> None:
    assert page("t", ["<p>1</p>", "", "<p>2</p>"], style="p { color: red }\n").endswith(
        "p { color: red }\n</style></head><body>\n<p>1</p>\n<p>2</p>\n</body></html>\n"
    )


def test_cells_are_text() -> None:
    assert table([header("a & b"), header("n", "number")], [[cell("<x>"), cell(3, "number")]]) == (
        "<table><tr><th>a &amp; b</th><th class='number'>n</th></tr>\n"
        "<tr><td>&lt;x&gt;</td><td class='number'>3</td></tr></table>"
    )
