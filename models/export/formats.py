"""The formats of exported files, and what of an export can be checked before torch is imported."""

from __future__ import annotations

import argparse
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

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
