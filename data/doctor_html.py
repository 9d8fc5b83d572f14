"""The report of `data.doctor` as one HTML file without scripts or outside parts."""

from __future__ import annotations

from html import escape
from typing import Any

MOST_FINDINGS = 5000
"""Rows that a browser still scrolls through; --json has all."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 2rem; width: 100% }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: left; vertical-align: top }
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
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f"<title>Data set {escape(report['source'])}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(report['source'])}</h1><p class='{colour}'>{counts}</p>",
        *(_split(split, facts) for split, facts in report["splits"].items()),
        _findings(report["findings"]),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _split(split: str, facts: dict[str, Any]) -> str:
    sizes = ", ".join(f"{number} {size}" for size, number in facts["sizes"].items())
    most = max([counts["objects"] for counts in facts["classes"].values()] + [1])
    rows = "\n".join(
        f"<tr><td>{escape(name)}</td><td class='number'>{counts['objects']}</td>"
        f"<td class='number'>{counts['images']}</td>"
        f"<td style='width: 50%'><div class='bar' style='width: {counts['objects'] / most:.1%}'></div></td></tr>"
        for name, counts in sorted(facts["classes"].items(), key=lambda item: -item[1]["objects"])
    )
    return (
        f"<h2>{escape(split)}</h2><p>{facts['images']} images ({facts['background']} without objects), "
        f"{facts['objects']} objects ({sizes}), {facts['crowd']} crowd regions</p>\n"
        "<table><tr><th>class</th><th class='number'>objects</th><th class='number'>images</th><th></th></tr>\n"
        f"{rows}</table>"
    )


def _findings(findings: list[dict[str, str]]) -> str:
    if not findings:
        return "<h2>Findings</h2><p class='clean'>Nothing is wrong.</p>"
    shown = sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding["severity"]))
    rows = "\n".join(
        f"<tr><td class='{finding['severity']}'>{finding['severity']}</td><td>{escape(finding['split'])}</td>"
        f"<td class='where'>{escape(finding['where'])}</td><td>{escape(finding['what'])}</td>"
        f"<td>{escape(finding['action'])}</td></tr>"
        for finding in shown[:MOST_FINDINGS]
    )
    more = f"<p>The first {MOST_FINDINGS} of {len(shown)}; --json lists all.</p>" if len(shown) > MOST_FINDINGS else ""
    return (
        "<h2>Findings</h2>\n<table><tr><th></th><th>split</th><th>where</th><th>what</th><th>a run</th></tr>\n"
        f"{rows}</table>{more}"
    )
