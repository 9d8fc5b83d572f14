"""The report of `data.doctor` as one HTML file without scripts or external resources."""

from __future__ import annotations

from html import escape
from typing import Any

from utils.html import cell, header, page, table

MOST_FINDINGS = 5000
"""Rows that a browser still scrolls through; --json has all."""

_STYLE = """
th, td { text-align: left }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
td.where { font-family: ui-monospace, monospace; font-size: 13px; overflow-wrap: anywhere }
.bar { background: #4477aa; height: .8rem; min-width: 1px }
.error { color: #b00020; font-weight: 600 } .warning { color: #9a6700; font-weight: 600 } .clean { color: #1a7f37 }
"""


def to_html(report: dict[str, Any]) -> str:
    """The page for `Report.as_dict()`."""
    counts = f"{report['errors']} errors, {report['warnings']} warnings, {report['notes']} notes"
    colour = {"errors": "error", "warnings": "warning", "clean": "clean"}[report["status"]]
    parts = [
        f"<h1>{escape(report['source'])}</h1><p class='{colour}'>{counts}</p>",
        *(_split(split, facts) for split, facts in report["splits"].items()),
        _findings(report["findings"]),
    ]
    return page(f"Data set {report['source']}", parts, style=_STYLE)


def _split(split: str, facts: dict[str, Any]) -> str:
    sizes = ", ".join(f"{number} {size}" for size, number in facts["sizes"].items())
    most = max([counts["objects"] for counts in facts["classes"].values()] + [1])
    rows = [
        [
            cell(name),
            cell(counts["objects"], "number"),
            cell(counts["images"], "number"),
            f"<td style='width: 50%'><div class='bar' style='width: {counts['objects'] / most:.1%}'></div></td>",
        ]
        for name, counts in sorted(facts["classes"].items(), key=lambda item: -item[1]["objects"])
    ]
    return (
        f"<h2>{escape(split)}</h2><p>{facts['images']} images ({facts['background']} without objects), "
        f"{facts['objects']} objects ({sizes}), {facts['crowd']} crowd regions</p>\n"
        + table([header("class"), header("objects", "number"), header("images", "number"), header("")], rows)
    )


def _findings(findings: list[dict[str, str]]) -> str:
    if not findings:
        return "<h2>Findings</h2><p class='clean'>Nothing is wrong.</p>"
    shown = sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding["severity"]))
    rows = [
        [
            cell(finding["severity"], finding["severity"]),
            cell(finding["split"]),
            cell(finding["where"], "where"),
            cell(finding["what"]),
            cell(finding["action"]),
        ]
        for finding in shown[:MOST_FINDINGS]
    ]
    more = f"<p>The first {MOST_FINDINGS} of {len(shown)}; --json lists all.</p>" if len(shown) > MOST_FINDINGS else ""
    head = [header(title) for title in ("", "split", "where", "what", "a run")]
    return f"<h2>Findings</h2>\n{table(head, rows)}{more}"
