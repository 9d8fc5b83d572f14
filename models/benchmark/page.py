"""The figures of the benchmark as text: aligned rows for the terminal, and the page docs/benchmark.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from models.benchmark.measure import Row
from models.benchmark.published import Table, TableRow, set_options

COLUMNS = ("cfg", "img_size", "params", "bflops", "latency_ms", "fps", "memory_mb", "published")
PAIR_COLUMNS = {
    "params": "parameters",
    "bflops": "BFLOPs",
    "cio": "CIO, M",
    "activations_mb": "MB",
    "latency_ms": "ms",
}
ALLOWED = 2.0
"""Deviation from the published parameters or BFLOPs, in percent, that needs no explanation on the page."""

_HEAD = """# Benchmark

Made by `python -m models.benchmark --markdown docs/benchmark.md`; the rows are those of the published tables
(cfg/tables/published.yaml), the published figures those of the model files (`published:` in cfg/*.yaml). The commands
that rebuild each table of the paper are in [paper.md](paper.md).

Measured: {how}.

- **parameters** are trainable ones. *Published* parameters are compared as their authors count: the CSPNet README
  convolution weights alone, the PRN README all numbers of the weights file. The percentage is ours above theirs.
- **BFLOPs** count as darknet does: two for each multiply-add of a convolution, pools and shortcuts too; per image.
- **ms** is the median time of one pass from image tensor to boxes and scores, or probabilities, without NMS; **fps** is
  its inverse.
- **MB** is the most that weights, image and activations take together, 1e6 bytes; counted tensor by tensor on a CPU (a
  process grows by 20 to 45 MB more, scratch space of its convolutions), measured on CUDA.
- AP on COCO (test-dev, where a table does not name another split) and accuracy on ImageNet are **published figures**:
  none was measured here. A ? marks a figure for which no source was found."""

_PAIRS = """\
Each partial backbone, as a classifier where there is one, beside a plain one: the same file with
`--set model.backbone.csp=null`, and where its authors compare with another network (ResNet, ResNeXt: other depths and
widths) that one too. CIO are the millions of values that convolutions read and write, the paper's measure of memory
traffic; MB are the most that activations take at once. Ratios are CSP over plain."""

_HEADERS = ["file", "px", "parameters", "published", "BFLOPs", "published", "", "their fps", "ms", "fps", "MB"]


def format_rows(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    return _aligned([COLUMNS, *([_cell(row, column) for column in COLUMNS] for row in rows)])


def format_pairs(pairs: Sequence[Row]) -> str:
    """Each model and its plain twin, and the share that is left, as aligned text."""
    return _aligned(_pair_lines(pairs))


def format_page(
    tables: Mapping[str, tuple[Table, list[list[Row]]]],
    others: Sequence[Row],
    pairs: Sequence[Row],
    *,
    inference: str,
    how: str,
) -> str:
    """docs/benchmark.md.

    Args:
        tables: by their titles, each with what was measured for each of its rows, one for each image size.
        others: models that stand in no table.
        pairs: partial models beside plain ones.
        inference: the section of the authors' speeds (models/benchmark/inference.py).
        how: machine and conditions.
    """
    parts = [_HEAD.format(how=how)]
    parts += [_section(table, rows) for table, rows in tables.values()]
    parts.append(inference)
    if others:
        lines = [["model", *_HEADERS], *([_stem(row["cfg"]), *_cells(row, _stem(row["cfg"]))] for row in others)]
        parts.append("## Other models of cfg/\n\n" + markdown(lines))
    if pairs:
        parts.append("## With and without CSP\n\n" + _PAIRS + "\n\n" + markdown(_pair_lines(pairs)))
    parts.append(
        _far_off(
            (entry, row)
            for table, table_rows in tables.values()
            for entry, rows in zip(table.rows, table_rows, strict=True)
            for row in rows
        )
    )
    return "\n\n".join(parts) + "\n"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(row: Row, column: str) -> str:
    value = row[column]
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{key} {entry}" for key, entry in value.items() if not isinstance(entry, (list, str)))
    if column == "cfg":
        return " ".join([value, set_options(row.get("set", []))]).rstrip()
    text = f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
    off = row.get(f"{column}_diff")
    return text if off is None else f"{text} ({_percent(off)}%)"


def _pair_lines(pairs: Sequence[Row]) -> list[list[str]]:
    measured = [name for name in PAIR_COLUMNS if pairs and pairs[0]["csp"][name] is not None]
    heads = [f"{PAIR_COLUMNS[name]} {column}" for name in measured for column in ("plain", "CSP", "ratio")]
    lines = [["model", "plain twin", "px", *heads]]
    for pair in pairs:
        cells = [
            cell
            for name in measured
            for cell in (_number(pair["plain"][name]), _number(pair["csp"][name]), f"{pair['ratio'][name]:.2f}")
        ]
        lines.append([_stem(pair["cfg"]), _stem(pair["twin"]), str(pair["img_size"]), *cells])
    return lines


def _stem(file: str) -> str:
    return file.removesuffix(".yaml")


def _number(value: float | None) -> str:
    """Millions for large whole numbers."""
    if value is None:
        return ""
    return f"{value / 1e6:.2f} M" if isinstance(value, int) and value >= 100_000 else f"{value:g}"


def _section(table: Table, table_rows: Sequence[Sequence[Row]]) -> str:
    """Heading, source, table and notes."""
    accuracy = "top-1, top-5" if table.kind == "classify" else "AP, AP50, AP75"
    headers = [accuracy if header == "" else header for header in _HEADERS]
    if table.kind == "totals":
        headers = ["file", "px", "trainable", "in the weights file", "BFLOPs"]
    lines: list[list[str]] = [["model", *headers]]
    notes: dict[str, str] = {}
    for entry, rows in zip(table.rows, table_rows, strict=True):
        if entry.missing is not None:
            figures = {"published": {"img_size": "", **entry.figures}}
            cells = [""] * len(headers) if table.kind == "totals" else _cells(figures, "")
            lines.append([entry.name, *cells])
            notes[entry.name] = notes.get(entry.name) or f"not built: {entry.missing}"
        for index, row in enumerate(rows):
            cells = _totals(entry, row, index) if table.kind == "totals" else _cells(row, entry.model)
            lines.append([entry.name, *cells])
            if entry.note or (row["published"] or {}).get("note"):
                notes[entry.name] = entry.note or row["published"]["note"]
    listed = "\n".join(f"- {name}: {note}" for name, note in notes.items())
    return "\n\n".join([f"## {table.title}", table.source, markdown(lines), *([listed] if listed else [])])


def _cells(row: Row, file: str) -> list[str]:
    """The cells after the model's name."""
    figures = row.get("published") or {}
    size = row.get("img_size", figures.get("img_size", ""))
    if figures.get("img_size") != size:  # those of another size; parameters are the same
        figures = {key: figures[key] for key in ("params", "unverified") if key in figures}
    speeds = [_speed(each) for each in (figures, *figures.get("others", [])) if "fps" in each]
    return [
        file,
        str(size),
        _number(row.get("params")),
        _published(figures, "params", row.get("params_diff")),
        _number(row.get("bflops")),
        _published(figures, "bflops", row.get("bflops_diff")),
        _accuracy(figures, ("top1", "top5")) or _accuracy(figures, ("AP", "AP50", "AP75")),
        "; ".join(speeds),
        *(_number(row.get(key)) for key in ("latency_ms", "fps", "memory_mb")),
    ]


def _accuracy(figures: Row, keys: Sequence[str]) -> str:
    if not any(key in figures for key in keys):
        return ""
    return ", ".join(figure(figures, key, ".1f") or "-" for key in keys)


def figure(figures: Mapping[str, Any], key: str, form: str = "g") -> str:
    """A published figure, with a ? where no source was found for it; empty if there is none."""
    return f"{figures[key]:{form}}" + ("?" if key in figures.get("unverified", []) else "") if key in figures else ""


def _speed(figures: Row) -> str:
    device = figures.get("device")
    return figure(figures, "fps") + (f" ({device})" if device else "")


def _published(figures: Row, key: str, off: float | None) -> str:
    if key not in figures:
        return ""
    text = figure(figures, key, ".2f") + " M" if key == "params" else figure(figures, key)
    return text + ("" if off is None else f" ({_percent(off)} %)")


def _percent(off: float) -> str:
    return f"{off:+.1f}".replace("-0.0", "+0.0")


def _totals(entry: TableRow, row: Row, index: int) -> list[str]:
    """Ours, with what was expected where they differ."""
    expected = [entry.params, entry.floats, entry.bflops[index] if entry.bflops else None]
    measured = [row["params"], row["floats"], row["bflops"]]
    cells = [
        f"{ours:,}" + ("" if theirs is None else " =" if abs(ours - theirs) < 6e-4 else f" (published: {theirs:,})")
        for ours, theirs in zip(measured, expected, strict=True)
    ]
    return [entry.model, str(row["img_size"]), *cells]


def _far_off(rows: Iterable[tuple[TableRow, Row]]) -> str:
    """The rows whose costs are further from the published ones than allowed, with the reason."""
    lines: dict[str, None] = {}
    for entry, row in rows:
        for key, cost in (("params_diff", "parameters"), ("bflops_diff", "BFLOPs")):
            off = row[key]
            if off is not None and abs(off) > ALLOWED:
                why = entry.note or row["published"].get("note", "no reason known")
                lines[f"- {entry.name} ({entry.model}) at {row['img_size']} px: {cost} {_percent(off)} %; {why}"] = None
    return f"## Further than {ALLOWED:g} % from the published cost\n\n" + ("\n".join(lines) if lines else "None.")


def markdown(lines: Sequence[Sequence[str]], *, keep_empty: bool = False) -> str:
    """A table; columns without any content are left out, unless they are kept for what is to come."""
    header, *body = lines
    kept = [i for i in range(len(header)) if keep_empty or any(line[i] for line in body)]
    rows = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(str(row[i]) for i in kept) + " |" for row in rows)
