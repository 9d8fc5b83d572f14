"""What export.py does once its command line is read."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from engine.calibration import calibration_images, compare_pictures, report_accuracy
from models.export.compare import TOLERANCE, Difference, ExportError
from models.export.compare_detections import trial_spec
from models.export.formats import FORMATS, Format, first_layers, given, layout_of, name_of
from models.export.network import ExportSpec
from models.export.onnx import OPSET
from models.export.readers import read_by_others
from models.export.write import export, export_first_layers, input_text, shapes_to_compare, tolerance_of
from models.layouts import OWN
from models.predictor import open_predictor
from models.predictor_torch import ModelPredictor
from utils.config import ConfigError
from utils.log import say, say_error

_OPTIONS = ("half", "dynamic", "with_nms", "with_preprocess", "layout")


def run(args: argparse.Namespace, weights: Path, output: Path) -> int:
    """Write the file that the command line asks for; returns the exit status."""
    try:
        write(args, weights, output)
    except ExportError as error:
        options = [f"--{name_of(option)}" for option in _OPTIONS if given(args, option)]
        remedy = f"Leave {' and '.join(options)} out" if options else "Try another --format"
        say_error(f"--format {args.format}: {error}. Nothing was written. {remedy}")
        return 1
    return 0


def write(args: argparse.Namespace, weights: Path, output: Path) -> None:
    """Export as the command line says."""
    form = FORMATS[args.format]
    original = open_predictor(weights, cfg=args.cfg, device="cpu", fuse=False)
    assert isinstance(original, ModelPredictor)  # all others are
    size = args.img_size or original.image_size
    original.info.check_size(size, where="--img-size")
    _check_task(args, original, weights)
    if first_layers(output) is not None:
        last = export_first_layers(original, output)
        say(f"Wrote {_size_of(output)}, up to {last}; read again, it is the same")
        say(f"Next: python train.py --weights {output} --cfg CFG --data DATA")
        return
    spec = ExportSpec(
        replace(original.info, image_size=size), args.batch_size, args.dynamic, args.half, layout_of(args)
    )
    say(f"Weights: {weights} ({original.description})")
    if args.int8 is not None:
        images = calibration_images(args.int8, spec)
        spec = replace(spec, calibration=images)
        say(f"Calibration: {len(images)} images of the training split of {args.int8}")
    opset = f", opset {OPSET}" if args.format == "onnx" else ""
    say(f"Writing {args.format}{opset}, {input_text(spec, form)}")
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, output.name)
        difference, files = export(original, args.format, output, spec, trial=trial)
        _report_difference(args, difference)
        if spec.layout.final:  # with its own threshold it may find nothing in made-up pictures
            shapes = shapes_to_compare(spec, form)
            _report_reading(args, original, trial, trial_spec(original, spec, shapes))
        else:
            _report_reading(args, original, output, spec)
    for file in files:
        say(f"Wrote {_size_of(file)}")
    if args.int8 is not None:
        report_accuracy(original, args.format, output, spec, args.int8)
    _say_next(args, output, spec)


def _check_task(args: argparse.Namespace, original: ModelPredictor, weights: Path) -> None:
    """Refuse what only detectors have.

    Raises:
        ConfigError: names the option.
    """
    for option in ("with_nms", "with_preprocess", "layout"):
        if original.info.task == "classify" and given(args, option):
            raise ConfigError(f"--{name_of(option)}: is for detectors, and {weights} is a classifier; leave it out")


def _report_difference(args: argparse.Namespace, difference: Difference) -> None:
    """How far the file is from the original, and why more than usual is accepted."""
    accepted = ""
    if not difference.within(TOLERANCE):
        why = "the model's own rounding in fp32 is that large"
        if args.int8 is not None:
            why = "int8 is judged by its AP"
        elif args.half:
            why = "weights in fp16 allow it"
        accepted = f"; above {TOLERANCE:.0e}, accepted: {why}"
    say(f"Largest difference from the original: {difference}{accepted}")


def _report_reading(args: argparse.Namespace, original: ModelPredictor, file: Path, spec: ExportSpec) -> None:
    """How far the file is off on pictures of other sizes, and in other runtimes."""
    if spec.layout.picture:
        say(f"On pictures of other sizes, beside detect.py: {compare_pictures(original, file, spec)}")
    if args.format == "onnx" and not (spec.dynamic and not spec.layout.picture):
        _report_readers(original, file, spec, FORMATS[args.format])


def _report_readers(original: ModelPredictor, file: Path, spec: ExportSpec, form: Format) -> None:
    limit = tolerance_of(spec)
    for reading in read_by_others(original, file, spec, shapes_to_compare(spec, form)):
        if reading.difference is None:
            say(f"Read by {reading.runtime}: no, it cannot load this file: {reading.reason}")
        else:
            wrong = "" if reading.difference.within(limit) else f"; above {limit:.0e}: do not use it there"
            say(f"Read by {reading.runtime}: {reading.difference}{wrong}")


def _say_next(args: argparse.Namespace, output: Path, spec: ExportSpec) -> None:
    if spec.layout != OWN:
        say("Contract of the file, and programs for it: docs/deploy.md")
    if spec.layout.final:
        say(f"Next: python detect.py --weights {output} --source SOURCE")
        return
    trust = " --trust" if args.format == "torchscript" else ""
    say(
        f"Next: python val.py --weights {output}{trust} --data DATA, or python detect.py --weights {output}{trust} "
        "--source SOURCE"
    )


def _size_of(file: Path) -> str:
    return f"{file} ({max(file.stat().st_size / 1e6, 0.1):.1f} MB)"
