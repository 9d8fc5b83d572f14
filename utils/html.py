"""The skeleton of all HTML reports. Each is a single file that needs nothing else: no browser lets it load anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from utils.text import printable_lines

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 2rem; width: 100% }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; vertical-align: top }
"""


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, parts: Iterable[str], *, style: str = "", script: str = "") -> str:
    """A whole page.

    Args:
        title: plain text, for the window.
        parts: HTML of the body, one after another; empty ones are left out.
        style: CSS that is added to the common one.
        script: JavaScript at the end of the body; without it none can run.
    """
    policy = f"{_POLICY}; script-src 'unsafe-inline'" if script else _POLICY
    head = (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body>"
    )
    end = [f"<script>{script}</script>"] if script else []
    return printable_lines("\n".join([head, *(part for part in parts if part), *end, "</body></html>\n"]))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already: `header` and `cell` make them."""
    body = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f"<table><tr>{''.join(head)}</tr>\n{body}</table>"


def header(text: object, kind: str = "") -> str:
    """A cell of a table's head with plain text; `kind` is its CSS class."""
    return f"<th{_class(kind)}>{escape(str(text))}</th>"


def cell(text: object, kind: str = "") -> str:
    """A cell of a table's body with plain text; `kind` is its CSS class."""
    return f"<td{_class(kind)}>{escape(str(text))}</td>"


def _class(kind: str) -> str:
    return f" class='{kind}'" if kind else ""
