"""The formats of exported files, and what of an export can be checked before torch is imported."""

from __future__ import annotations

import argparse
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from models.layouts import Final, Layout
from models.runtimes import import_onnxruntime, import_openvino
from utils.config import ConfigError


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Args:
        suffix: of the file that `--weights` takes.
        open_sizes: every file takes any batch and size.
        packages: what writing and comparing need beside PyTorch.
    """

    suffix: str
    open_sizes: bool = False
    packages: tuple[str, ...] = ()


FORMATS = {
    "onnx": Format(".onnx", packages=("onnx", "onnxruntime")),
    "openvino": Format(".xml", packages=("onnx", "openvino")),
    "torchscript": Format(".torchscript", open_sizes=True),
    "darknet": Format(".weights", open_sizes=True),
}


def check_options(args: argparse.Namespace) -> None:
    """Refuse what the format cannot do, before the long work.

    Raises:
        ConfigError: a package is missing, or an option does not belong.
    """
    for package in FORMATS[args.format].packages:
        _need(args.format, package)
    for option in ("half", "dynamic", *GRAPH_OPTIONS):
        if args.format == "darknet" and given(args, option):
            raise ConfigError(f"--{name_of(option)}: darknet's files know no such thing; leave it out")
    for option in GRAPH_OPTIONS:
        if args.format == "torchscript" and given(args, option):
            raise ConfigError(f"--{name_of(option)}: is for --format onnx and openvino; leave it out")
    _check_ends(args)
    if args.int8 is not None:
        _need(args.format, "onnxruntime")
        if args.half:
            raise ConfigError("--half: --int8 stores weights in 8 bits already; leave one of them out")


GRAPH_OPTIONS = ("with_nms", "with_preprocess", "layout", "int8")
"""Options of the formats that are graphs of the standard's operators."""
_ENDS = ("conf_thres", "iou_thres", "max_det")


def name_of(option: str) -> str:
    """As it is typed, without dashes in front."""
    return option.replace("_", "-")


def given(args: argparse.Namespace, option: str) -> bool:
    """Whether the command line asks for something by an option."""
    return getattr(args, option) not in (None, False, "own")


def _check_ends(args: argparse.Namespace) -> None:
    """Refuse options about the beginning and the end of a graph that do not go together."""
    layout = args.layout
    if layout == "deepstream" and args.format != "onnx":
        raise ConfigError("--layout deepstream: DeepStream reads --format onnx; leave one of them out")
    for option in ("with_nms", "with_preprocess"):
        if layout != "own" and given(args, option):
            raise ConfigError(
                f"--{name_of(option)}: readers of --layout {layout} do that themselves; leave one of them out"
            )
    for option in _ENDS:
        if getattr(args, option) is not None and not args.with_nms:
            raise ConfigError(f"--{name_of(option)}: is for --with-nms alone; add that, or leave it out")
    if args.with_preprocess and args.batch_size > 1:
        raise ConfigError("--batch-size: --with-preprocess takes one picture at a time; leave it out")


def layout_of(args: argparse.Namespace) -> Layout:
    """The contract that the command line asks for."""
    thresholds = {option: value for option in _ENDS if (value := getattr(args, option)) is not None}
    return Layout(args.layout, Final(**thresholds) if args.with_nms else None, args.with_preprocess)


def _need(kind: str, package: str) -> None:
    """Refuse a format whose package is missing."""
    try:
        import_package(package)
    except ImportError:
        raise ConfigError(f"--format {kind}: needs {package}, which is not installed: pip install {package}") from None


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


def first_layers(path: Path) -> int | None:
    """N of a file NAME.conv.N, which holds a network's first N layers; None for other files."""
    match = re.fullmatch(r".+\.conv\.([0-9]+)", path.name)
    return None if match is None else int(match[1])


def import_package(name: str) -> ModuleType:
    """A package that not every user needs.

    Raises:
        ImportError: it is not installed.
    """
    with_care = {"openvino": import_openvino, "onnxruntime": import_onnxruntime}
    return with_care[name]() if name in with_care else importlib.import_module(name)
