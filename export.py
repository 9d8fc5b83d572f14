"""Write a trained detector for other runtimes: ONNX, OpenVINO, TorchScript or darknet.

python export.py --format onnx                                  # the newest training run
python export.py --format openvino --weights best.pt --dynamic  # any batch and size
python export.py --format darknet --output csdarknet53.conv.105  # the first 105 layers, to start a detector from
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from models.detector import Detector
from models.export.compare import ROUNDINGS, TOLERANCE, TOLERANCE_HALF, Difference, ExportError, compare, own_rounding
from models.export.darknet import first_layers, write_darknet, write_first_layers
from models.export.network import ExportSpec
from models.export.onnx import write_onnx
from models.export.openvino import write_openvino
from models.export.torchscript import write_torchscript
from models.predictor import ModelPredictor, default_weights, open_predictor
from models.runtimes import import_onnxruntime, import_openvino
from utils.arguments import whole_number
from utils.config import ConfigError
from utils.faults import report
from utils.files import move_into_place
from utils.log import setup_logging


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Args:
        suffix: of the file that `--weights` takes.
        write: (model, path, spec) -> that file, and what belongs beside it.
        open_sizes: every file takes any batch and size.
        packages: what writing and comparing need beside PyTorch.
    """

    suffix: str
    write: Callable[[Detector, Path, ExportSpec], None]
    open_sizes: bool = False
    packages: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format(".onnx", write_onnx, packages=("onnx", "onnxruntime")),
    "openvino": Format(".xml", write_openvino, packages=("onnx", "openvino")),
    "torchscript": Format(".torchscript", write_torchscript, open_sizes=True),
    "darknet": Format(".weights", write_darknet, open_sizes=True),
}


def export(original: ModelPredictor, kind: str, output: Path, spec: ExportSpec) -> tuple[Difference, list[Path]]:
    """Write a model, run it beside the original, and put it in place when both agree.

    Args:
        original: on the CPU.
        kind: a key of FORMATS.
    Returns:
        The largest difference, and the files, `output` first.
    Raises:
        ExportError: it does not run, or they differ by more than the tolerance; then nothing is written, and an older
            file stays.
        ConfigError: the format cannot hold the model.
    """
    tolerance = TOLERANCE_HALF if spec.half else TOLERANCE
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        draft = Path(folder, output.name)
        FORMATS[kind].write(original.model, draft, spec)
        cfg = draft.with_suffix(".cfg") if kind == "darknet" else None
        exported = open_predictor(draft, cfg=cfg, device="cpu")
        shapes = shapes_to_compare(spec, FORMATS[kind])
        difference = compare(original, exported, shapes)
        del exported  # it may hold the file open
        if tolerance < difference.share < TOLERANCE_HALF:  # rare: worth a second look
            tolerance = max(tolerance, min(ROUNDINGS * own_rounding(original.model, shapes), TOLERANCE_HALF))
        if not difference.within(tolerance):
            raise ExportError(f"it differs from the original by {difference}; allowed is {tolerance:.0e}")
        # The file that is named comes last: when it is there, so are those beside it.
        files = sorted(Path(folder).iterdir(), key=lambda file: file.name == output.name)
        for file in files:
            move_into_place(file, output.with_name(file.name))
    return difference, [output.with_name(file.name) for file in reversed(files)]


def shapes_to_compare(spec: ExportSpec, form: Format) -> list[tuple[int, int, int]]:
    """(batch, height, width) of the inputs to compare with: the file's own, and others where it takes them."""
    height, width = spec.info.image_size
    shapes = [(spec.batch_size, height, width)]
    if spec.dynamic or form.open_sizes:
        stride = spec.info.stride * max(32 // spec.info.stride, 1)  # a classifier's says less than it needs
        shapes += [(1, height, width + stride), (spec.batch_size + 1, 2 * stride, 3 * stride)]
    return shapes


def main(argv: list[str] | None = None) -> int:
    """Command line; 0 when the file is there, 1 when it differs from the original, 2 for a wrong command line."""
    args = parse_args(argv)
    setup_logging()
    try:
        run(args)
    except ExportError as error:
        options = [f"--{option}" for option in ("half", "dynamic") if getattr(args, option)]
        remedy = f"Leave {' and '.join(options)} out" if options else "Try another --format"
        print(f"error: --format {args.format}: {error}. Nothing was written. {remedy}", file=sys.stderr)
        return 1
    except Exception as error:
        return report(error)
    return 0


def run(args: argparse.Namespace) -> Path:
    """Export as the command line says; returns the path of the file."""
    form = FORMATS[args.format]
    check_options(args)
    weights = Path(args.weights) if args.weights else default_weights()
    output = output_path(args.output, weights, form.suffix)
    original = open_predictor(weights, cfg=args.cfg, device="cpu")
    if not isinstance(original, ModelPredictor):
        raise ConfigError(f"--weights {weights}: is an exported file; name the checkpoint (.pt) that it came from")
    size = (args.img_size, args.img_size) if args.img_size else original.image_size
    original.info.check_size(size, where="--img-size")
    if first_layers(output) is not None:
        return export_first_layers(original, output)
    spec = ExportSpec(replace(original.info, image_size=size), args.batch_size, args.dynamic, args.half)
    print(f"Weights: {weights} ({original.description})")
    print(f"Writing {args.format}, {describe(spec, form)}")
    difference, files = export(original, args.format, output, spec)
    print(f"Largest difference from the original: {difference}")
    for file in files:
        print(f"Wrote {file} ({max(file.stat().st_size / 1e6, 0.1):.1f} MB)")
    print(f"Next: python val.py --weights {output} --data DATA, or python detect.py --weights {output} --source SOURCE")
    return output


def export_first_layers(original: ModelPredictor, output: Path) -> Path:
    """Write NAME.conv.N; returns its path.

    Raises:
        ExportError, ConfigError: see `write_first_layers`; then nothing is written, and an older file stays.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        draft = Path(folder, output.name)
        last = write_first_layers(original.model, draft)
        move_into_place(draft, output)
    print(f"Wrote {output} ({max(output.stat().st_size / 1e6, 0.1):.1f} MB), up to {last}; read again, it is the same")
    print(f"Next: python train.py --weights {output} --cfg CFG --data DATA")
    return output


def check_options(args: argparse.Namespace) -> None:
    """Refuse what the format cannot do, before the long work.

    Raises:
        ConfigError: a package is missing, or an option does not belong.
    """
    for package in FORMATS[args.format].packages:
        try:
            import_package(package)
        except ImportError:
            raise ConfigError(
                f"--format {args.format}: needs {package}, which is not installed: pip install {package}"
            ) from None
    for option in ("half", "dynamic"):
        if args.format == "darknet" and getattr(args, option):
            raise ConfigError(f"--{option}: darknet's files know no such thing; leave it out")


def import_package(name: str) -> ModuleType:
    """A package that not every user needs.

    Raises:
        ImportError: it is not installed.
    """
    with_care = {"openvino": import_openvino, "onnxruntime": import_onnxruntime}
    return with_care[name]() if name in with_care else importlib.import_module(name)


def output_path(wanted: str | None, weights: Path, suffix: str) -> Path:
    """Where to write: --output, which may be a folder; by default beside the weights.

    Raises:
        ConfigError: another suffix, or the weights themselves.
    """
    output = Path(wanted) if wanted else weights.with_suffix(suffix)
    if output.is_dir():
        output = output / weights.with_suffix(suffix).name
    if output.suffix != suffix and not (suffix == ".weights" and first_layers(output) is not None):
        part = f", or {output.stem}.conv.N for its first N layers" if suffix == ".weights" else ""
        raise ConfigError(f"--output {output}: expected a folder that exists, or a file {output.stem}{suffix}{part}")
    if output.resolve() == weights.resolve():
        raise ConfigError(f"--output: {output} is what is to be exported; name another file")
    return output


def describe(spec: ExportSpec, form: Format) -> str:
    """Input and precision, for the output."""
    height, width = spec.info.image_size
    if spec.dynamic or form.open_sizes:
        taken = f"any batch and size, {height}x{width} by default"
    else:
        taken = f"{spec.batch_size} image{'s' if spec.batch_size > 1 else ''} of {height}x{width} at a time"
    return f"{taken}, {spec.metadata['precision']}"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = argparse.ArgumentParser(description="Write a detector for other runtimes.", allow_abbrev=False)
    parser.add_argument("--weights", help=".pt or darknet .weights (default: newest runs/train/*/weights/best.pt)")
    parser.add_argument("--cfg", help="model config, for darknet .weights only")
    parser.add_argument("--format", choices=tuple(FORMATS), required=True, help="what to write")
    parser.add_argument(
        "--img-size", type=whole_number, help="side of the network input in pixels (default: the model's)"
    )
    parser.add_argument("--batch-size", type=whole_number, default=1, help="images at a time")
    parser.add_argument("--dynamic", action="store_true", help="take any batch, and any size that the stride divides")
    parser.add_argument("--half", action="store_true", help="store weights in fp16: half the size, computed in fp32")
    parser.add_argument("--output", help="file or folder to write (default: beside the weights)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
