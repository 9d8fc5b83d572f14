"""What export.py does once its command line is read."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from models.export.compare import ExportError
from models.export.formats import FORMATS, first_layers
from models.export.network import ExportSpec
from models.export.write import export, export_first_layers, input_text
from models.predictor import open_predictor
from models.predictor_torch import ModelPredictor
from utils.log import say, say_error


def run(args: argparse.Namespace, weights: Path, output: Path) -> int:
    """Write the file that the command line asks for; returns the exit status."""
    try:
        write(args, weights, output)
    except ExportError as error:
        options = [f"--{option}" for option in ("half", "dynamic") if getattr(args, option)]
        remedy = f"Leave {' and '.join(options)} out" if options else "Try another --format"
        say_error(f"--format {args.format}: {error}. Nothing was written. {remedy}")
        return 1
    return 0


def write(args: argparse.Namespace, weights: Path, output: Path) -> None:
    """Export as the command line says."""
    form = FORMATS[args.format]
    original = open_predictor(weights, cfg=args.cfg, device="cpu", fuse=False)
    assert isinstance(original, ModelPredictor)  # all others are
    size = (args.img_size, args.img_size) if args.img_size else original.image_size
    original.info.check_size(size, where="--img-size")
    if first_layers(output) is not None:
        last = export_first_layers(original, output)
        say(f"Wrote {_size_of(output)}, up to {last}; read again, it is the same")
        say(f"Next: python train.py --weights {output} --cfg CFG --data DATA")
        return
    spec = ExportSpec(replace(original.info, image_size=size), args.batch_size, args.dynamic, args.half)
    say(f"Weights: {weights} ({original.description})")
    say(f"Writing {args.format}, {input_text(spec, form)}")
    difference, files = export(original, args.format, output, spec)
    say(f"Largest difference from the original: {difference}")
    for file in files:
        say(f"Wrote {_size_of(file)}")
    trust = " --trust" if args.format == "torchscript" else ""
    say(
        f"Next: python val.py --weights {output}{trust} --data DATA, or python detect.py --weights {output}{trust} "
        "--source SOURCE"
    )


def _size_of(file: Path) -> str:
    return f"{file} ({max(file.stat().st_size / 1e6, 0.1):.1f} MB)"
