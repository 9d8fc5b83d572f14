"""Command: parameters, BFLOPs, latency and memory of models, beside the published figures."""

from __future__ import annotations

from utils.program import quiet_imports, quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import argparse
from collections.abc import Sequence
from pathlib import Path

from models.benchmark.selection import load_models
from utils.arguments import Parser, whole_number
from utils.config import ConfigError
from utils.log import say, say_error


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    args = parse_args(argv)
    try:
        if args.set and (args.markdown or not args.cfg):
            raise ConfigError("--set changes the models that are named; name at least one, and leave out --markdown")
        if args.cfg:
            load_models(args.cfg, args.set)  # a wrong YAML file is told before torch is imported
    except ConfigError as error:
        say_error(error)
        return 2
    with quiet_imports():
        import torch  # it and the models take seconds to import; --help and wrong options do not wait for them

        from models.benchmark.measure import Conditions
        from models.benchmark.report import make_page, print_pairs, print_rows
        from utils.device import select_device
        from utils.files import write_atomically

    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        device = select_device(args.device)
        conditions = Conditions(device, args.num_classes, args.batch_size, latency=not args.no_latency)
        if args.markdown:
            old = args.markdown.read_text(encoding="utf-8") if args.markdown.is_file() else ""
            write_atomically(args.markdown, make_page(conditions, old))
            say(f"Wrote {args.markdown}")
        else:
            show = print_pairs if args.pairs else print_rows
            show(args.cfg, conditions, overrides=args.set, size=args.img_size, as_json=args.json)
    except (ConfigError, OSError) as error:
        say_error(error)
        return 2
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = Parser(prog="python -m models.benchmark", description=__doc__)
    parser.add_argument("cfg", nargs="*", metavar="CFG", help="models or darknet .cfg files (default: all in cfg/)")
    parser.add_image_size(usual="all with published figures")
    parser.add_argument("--batch-size", type=whole_number, default=1, metavar="N", help="images per run (default 1)")
    parser.add_argument(
        "--num-classes", type=whole_number, metavar="N", help="default: the .cfg's own, else 80, or 1000 to classify"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of the models, as train.py does"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:N or mps (default: the fastest there is)")
    parser.add_argument("--threads", type=whole_number, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--no-latency", action="store_true", help="count costs only; nothing runs")
    parser.add_argument(
        "--pairs", action="store_true", help="each model beside its plain twin (csp: null); default one of each family"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one object a row")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write all tables to FILE (docs/benchmark.md)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run_program(main)
