"""Command: parameters, BFLOPs, latency and memory of models, beside the published figures."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from models.benchmark.measure import Conditions, compare, describe, measure
from models.benchmark.page import format_page, format_pairs, format_rows
from models.benchmark.published import TableRow, load_published
from models.config import ModelConfig, load_model_config
from utils.arguments import whole_number
from utils.config import ROOT, ConfigError
from utils.device import CHOICES, select_device
from utils.log import Progress


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        conditions = Conditions(
            select_device(args.device), args.num_classes, args.batch_size, latency=not args.no_latency
        )
        run(args, conditions)
    except (ConfigError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace, conditions: Conditions) -> None:
    """Measure and print, or write, what the command line asks for.

    Raises:
        ConfigError: a wrong model file, or an image size that does not fit.
        OSError: the page cannot be written.
    """
    if args.markdown:
        args.markdown.write_text(make_page(conditions), encoding="utf-8")
        print(f"Wrote {args.markdown}")
        return
    configs = [load_model_config(name) for name in args.cfg] or shipped_models()
    if args.pairs:
        chosen = [at_sizes(config, args.img_size)[0] for config in partial(configs, args)]
        found = _each(pairs_of(chosen), lambda pair: compare(*(measure(each, conditions) for each in pair)))
    else:
        found = _each(
            [each for config in configs for each in at_sizes(config, args.img_size)],
            lambda config: measure(config, conditions),
        )
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print(format_pairs(found) if args.pairs else format_rows(found))


def pairs_of(configs: Sequence[ModelConfig]) -> list[tuple[ModelConfig, ModelConfig]]:
    """Each model with each of its twins, at the same image size."""
    return [
        (config, dataclasses.replace(twin, image_size=config.image_size))
        for config in configs
        for twin in twins_of(config)
    ]


def make_page(conditions: Conditions) -> str:
    """docs/benchmark.md: every row of the published tables, the other models of cfg/, and the pairs."""
    published = load_published()
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
    rows = dict(zip(wanted, _each(list(wanted.values()), lambda pair: measure(*pair)), strict=True))
    tables = {
        table.title: (table, [[rows[key] for key in row] for row in found])
        for table, found in zip(published.tables, keys, strict=True)
    }
    compared = [compare(rows[csp], rows[plain]) for csp, plain in pairs]
    return format_page(tables, [rows[key] for key in others], compared, how=describe(conditions))


def shipped_models() -> list[ModelConfig]:
    """The models of cfg/, by their names."""
    return [load_model_config(path) for path in sorted((ROOT / "cfg").glob("*.yaml"), key=lambda path: path.stem)]


def row_configs(row: TableRow) -> list[ModelConfig]:
    """The model of a table's row at each of its image sizes."""
    config = row.config()
    sizes = row.img_size or [each.size[0] for each in at_sizes(config)]
    return [dataclasses.replace(config, image_size=size) for size in sizes]


def partial(configs: Sequence[ModelConfig], args: argparse.Namespace) -> list[ModelConfig]:
    """The models to compare with their plain twins: those named, or one of each family.

    Raises:
        ConfigError: one that is named has no cross-stage-partial backbone.
    """
    if not (args.cfg and args.pairs):
        return families(configs)
    for config in configs:
        if not config.backbone.get("csp"):
            raise ConfigError(f"--pairs: {config.file} has no plain twin: its backbone has no key csp, or csp is null")
    return list(configs)


def _each(things: Sequence[Any], look: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """What is measured of each, with the time left."""
    found = []
    with Progress(len(things), "Measuring") as progress:
        for thing in things:
            found.append(look(thing))
            progress.advance()
    return found


def twins_of(config: ModelConfig) -> list[ModelConfig]:
    """The same model with `csp: null` in its backbone, and the plain model that its authors compare it with."""
    same = dataclasses.replace(config, backbone={**config.backbone, "csp": None}, published=[], name="csp: null")
    named = load_published().twins.get(config.name)
    return [same, *([load_model_config(named)] if named else [])]


def families(configs: Sequence[ModelConfig]) -> list[ModelConfig]:
    """The models with a cross-stage-partial backbone, each backbone once whatever its activation.

    Classifiers, and a detector where no classifier has a backbone of that type.
    """
    found: dict[str, ModelConfig] = {}
    types: set[str] = set()
    plainest = sorted(configs, key=lambda config: (config.head.get("type") != "classify", len(config.name)))
    for config in plainest:
        kind, classifies = config.backbone.get("type"), config.head.get("type") == "classify"
        if config.backbone.get("csp") and (classifies or kind not in types):
            network = {key: value for key, value in config.backbone.items() if key not in ("activation", "se")}
            found.setdefault(json.dumps(network, sort_keys=True), config)
            types.add(kind)
    return sorted(found.values(), key=lambda config: config.name)


def at_sizes(config: ModelConfig, side: int | None = None) -> list[ModelConfig]:
    """The configuration at one side in pixels, or at every size that figures were published for, or at its own."""
    sides = [side] if side else list(dict.fromkeys(figures["image_size"] for figures in config.published))
    return [dataclasses.replace(config, image_size=each) for each in sides] or [config]


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = argparse.ArgumentParser(prog="python -m models.benchmark", description=__doc__)
    parser.add_argument("cfg", nargs="*", metavar="CFG", help="models or darknet .cfg files (default: all in cfg/)")
    parser.add_argument(
        "--img-size", type=whole_number, metavar="N", help="side in pixels (default: all with published figures)"
    )
    parser.add_argument("--batch-size", type=whole_number, default=1, metavar="N", help="images per run (default 1)")
    parser.add_argument(
        "--num-classes", type=whole_number, metavar="N", help="default: the .cfg's own, else 80, or 1000 to classify"
    )
    parser.add_argument("--device", help=f"{CHOICES} (default: the fastest there is)")
    parser.add_argument("--threads", type=whole_number, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--no-latency", action="store_true", help="count costs only; nothing runs")
    parser.add_argument(
        "--pairs", action="store_true", help="each model beside its plain twin (csp: null); default one of each family"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one object a row")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write all tables to FILE (docs/benchmark.md)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
