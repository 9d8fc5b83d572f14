"""What the benchmark prints or writes: rows, pairs of models, or the page docs/benchmark.md."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from models.benchmark.inference import format_section, section_of
from models.benchmark.measure import Conditions, Row, compare_rows, describe_conditions, measure
from models.benchmark.page import format_page, format_pairs, format_rows
from models.benchmark.published import load_published
from models.benchmark.selection import at_sizes, families, load_models, pairs_of, row_configs, shipped_models, with_csp
from models.config import ModelConfig
from utils.log import say, tracked


def print_rows(
    names: Sequence[str],
    conditions: Conditions,
    *,
    overrides: Sequence[str],
    size: tuple[int, int] | None,
    as_json: bool,
) -> None:
    """Measure models and print a row for each image size.

    Args:
        names: model files; all of cfg/ when empty.
        overrides: what --set changes in each of them.
        size: (height, width) of the images in pixels; None measures at every size that figures were published for.
    Raises:
        ConfigError: a wrong model file, or an image size that does not fit.
    """
    configs = [each for config in load_models(names, overrides) for each in at_sizes(config, size)]
    changes = {"set": list(overrides)} if overrides else {}
    rows = [{**row, **changes} for row in _measure_all([(config, conditions) for config in configs])]
    say(json.dumps(rows, indent=2) if as_json else format_rows(rows))


def print_pairs(
    names: Sequence[str],
    conditions: Conditions,
    *,
    overrides: Sequence[str],
    size: tuple[int, int] | None,
    as_json: bool,
) -> None:
    """Measure partial models and their plain twins, and print both with their ratios.

    Args:
        names: model files with a cross-stage-partial backbone; one of each family of cfg/ when empty.
        overrides: what --set changes in each of them.
        size: (height, width) of the images in pixels; None takes the first size that figures were published for.
    Raises:
        ConfigError: a wrong model file, one without a plain twin, or an image size that does not fit.
    """
    configs = with_csp(load_models(names, overrides)) if names else families(shipped_models())
    pairs = pairs_of([at_sizes(config, size)[0] for config in configs])
    rows = _measure_all([(config, conditions) for pair in pairs for config in pair])
    compared = [compare_rows(csp, plain) for csp, plain in zip(rows[::2], rows[1::2], strict=True)]
    say(json.dumps(compared, indent=2) if as_json else format_pairs(compared))


def make_page(conditions: Conditions, old: str = "") -> str:
    """docs/benchmark.md: every row of the published tables, the other models of cfg/, and the pairs.

    Args:
        old: the page before, whose section with times of runtimes stays.
    """
    published = load_published()
    inference = section_of(old, published.inference.title) or format_section(published.inference, {}, how="")
    configs = {config.name: config for config in shipped_models()}
    wanted: dict[tuple, tuple[ModelConfig, Conditions]] = {}

    def ask(config: ModelConfig, num_classes: int | None = None) -> tuple:
        key = (json.dumps(dataclasses.asdict(config), sort_keys=True), num_classes)
        wanted[key] = (config, dataclasses.replace(conditions, num_classes=num_classes))
        return key

    keys = [
        [[ask(each, row.num_classes) for each in row_configs(row)] if row.cfg else [] for row in table.rows]
        for table in published.tables
    ]
    in_tables = {row.cfg for table in published.tables for row in table.rows}
    others = [ask(each) for name, config in configs.items() if name not in in_tables for each in at_sizes(config)]
    pairs = [(ask(csp), ask(plain)) for csp, plain in pairs_of(families(list(configs.values())))]
    rows = dict(zip(wanted, _measure_all(list(wanted.values())), strict=True))
    tables = {
        table.title: (table, [[rows[key] for key in row] for row in table_keys])
        for table, table_keys in zip(published.tables, keys, strict=True)
    }
    compared = [compare_rows(rows[csp], rows[plain]) for csp, plain in pairs]
    how = describe_conditions(conditions)
    return format_page(tables, [rows[key] for key in others], compared, inference=inference, how=how)


def _measure_all(wanted: Sequence[tuple[ModelConfig, Conditions]]) -> list[Row]:
    """A row for each, with the time left."""
    return [measure(*each) for each in tracked(wanted, len(wanted), "Measuring")]
