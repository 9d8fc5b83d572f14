"""Write a trained detector for other runtimes: ONNX, OpenVINO, TorchScript or darknet.

python export.py --format onnx                                  # the newest training run
python export.py --format openvino --weights best.pt --dynamic  # any batch and size
python export.py --format darknet --output csdarknet53.conv.105  # the first 105 layers, to start a detector from
"""

from __future__ import annotations

from utils.program import quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import argparse
from dataclasses import replace
from pathlib import Path

from models.export.compare import ExportError
from models.export.darknet import first_layers
from models.export.network import ExportSpec
from models.export.write import FORMATS, export, export_first_layers, import_package, input_text
from models.predictor import default_weights, open_predictor
from models.predictor_torch import ModelPredictor
from utils.arguments import Parser, whole_number
from utils.config import ConfigError
from utils.faults import report
from utils.log import say, say_error, setup_logging


def main(argv: list[str] | None = None) -> int:
    """Command line; 0 when the file is there, 1 when it differs from the original, 2 for a wrong command line."""
    args = parse_args(argv)
    setup_logging()
    try:
        run(args)
    except ExportError as error:
        options = [f"--{option}" for option in ("half", "dynamic") if getattr(args, option)]
        remedy = f"Leave {' and '.join(options)} out" if options else "Try another --format"
        say_error(f"--format {args.format}: {error}. Nothing was written. {remedy}")
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
    if weights.suffix.lower() in (".onnx", ".xml", ".torchscript"):
        raise ConfigError(f"--weights {weights}: is an exported file; name the checkpoint (.pt) that it came from")
    original = open_predictor(weights, cfg=args.cfg, device="cpu")
    assert isinstance(original, ModelPredictor)  # all others are
    size = (args.img_size, args.img_size) if args.img_size else original.image_size
    original.info.check_size(size, where="--img-size")
    if first_layers(output) is not None:
        last = export_first_layers(original, output)
        say(f"Wrote {_size_of(output)}, up to {last}; read again, it is the same")
        say(f"Next: python train.py --weights {output} --cfg CFG --data DATA")
        return output
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


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Options as in docs/reference.md."""
    parser = Parser(description="Write a detector for other runtimes.", allow_abbrev=False)
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


def _size_of(file: Path) -> str:
    return f"{file} ({max(file.stat().st_size / 1e6, 0.1):.1f} MB)"


if __name__ == "__main__":
    run_program(main)
