"""README and docs: every link between pages leads to a file and a heading that exist, and README names each page."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest

from utils.config import ROOT

PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")), *sorted(ROOT.glob("docs/*.md"))]


@functools.cache
def prose(page: Path) -> str:
    """The text without code, in which brackets are no links and '#' begins no heading."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", lambda code: code[0].replace("](", "] ("), text)


@functools.cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them: small letters, hyphens for spaces, no punctuation."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if name in found else name)
        found[name] = found.get(name, 0) + 1
    return names


def links(page: Path) -> list[str]:
    """Targets of links and pictures inside the project."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    text = "# A & B\n## `train.py`\n## int8, fp16\n## Same\n### Same\n"
    text += "```\n# no heading [x](y)\n```\n[a](b.md#c) `[d](e)`\n"
    page = tmp_path / "page.md"
    page.write_text(text + "[f](https://example.org) ![g](h.png)\n")
    assert anchors(page) == {"a--b", "trainpy", "int8-fp16", "same", "same-1"}
    assert links(page) == ["b.md#c", "h.png"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for target in links(page):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        there = file.exists() and file.is_relative_to(ROOT)
        if not there or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_readme_has_a_line_for_every_page() -> None:
    named = {target.partition("#")[0] for target in links(ROOT / "README.md")}
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= named


def test_every_picture_is_shown() -> None:
    shown = {(page.parent / target).resolve() for page in PAGES for target in links(page)}
    assert set((ROOT / "docs" / "images").iterdir()) <= shown
