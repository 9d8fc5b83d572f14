"""What exported files say of themselves; a TorchScript file, which is a program, is read and not loaded."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from models.darknet.cfg import read_cfg
from models.darknet.header import read_header
from models.info import ModelInfo
from models.predictor import open_predictor
from models.predictor_torch import SCRIPT_METADATA
from utils.config import ConfigError
from utils.text import first_line, from_json, listed

EXPORTS = {".onnx": "ONNX", ".xml": "OpenVINO", ".torchscript": "TorchScript", ".weights": "darknet weights"}
"""Suffix -> kind of file."""
_MOST_METADATA = 2**24
"""Bytes."""


def suffix_of(path: Path) -> str:
    """What tells the kind of a file; '.weights' also of the first layers of a darknet network, NAME.conv.N."""
    return ".weights" if re.search(r"\.conv\.\d+$", path.name) else path.suffix.lower()


def about_export(path: Path) -> tuple[dict[str, Any], str]:
    """Plain values, and the same as text.

    Raises:
        ConfigError: damaged, or not of export.py.
    """
    kind = suffix_of(path)
    about = {"file": str(path), "bytes": path.stat().st_size, "kind": EXPORTS[kind]}
    if kind == ".weights":
        about |= _darknet(path)
    elif kind == ".torchscript":
        about |= _described(ModelInfo.from_metadata(_script_metadata(path), shape=(None, None), where=str(path)))
        about["note"] = "a program, which val.py and detect.py load with --trust; nothing of it was run"
    else:
        predictor = open_predictor(path, device="cpu")
        about |= {"runs": f"by {predictor.runtime}, {predictor.precision}"} | _described(predictor.info)
    return about, _text(about)


def _described(info: ModelInfo) -> dict[str, Any]:
    return {
        "task": info.task,
        "image_size": list(info.image_size),
        "fixed_size": info.fixed_size,
        "resize": info.resize,
        "stride": info.stride,
        "nms": info.nms if info.task == "detect" else None,
        "names": list(info.names),
        "category_ids": list(info.category_ids),
    }


def _script_metadata(path: Path) -> dict[str, str]:
    """The metadata in a TorchScript archive, read as the zip file that it is.

    Raises:
        ConfigError: no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(f"/extra/{SCRIPT_METADATA}")]
            if not names or archive.getinfo(names[0]).file_size > _MOST_METADATA:
                return {}
            content = from_json(archive.read(names[0]).decode("utf-8"))
    except (zipfile.BadZipFile, ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as TorchScript ({first_line(error)}); export it again") from None
    return content if isinstance(content, dict) else {}


def _darknet(path: Path) -> dict[str, Any]:
    """The header of the numbers, and the .cfg and .names beside them."""
    header, beside = read_header(path), path.with_suffix(".cfg")
    about: dict[str, Any] = {
        "numbers": (path.stat().st_size - header.size) // 4,
        "version": f"{header.major}.{header.minor}.{header.revision}",
        "seen": header.seen,
        "cfg": str(beside) if beside.is_file() else None,
    }
    if beside.is_file():
        about["layers"] = len(read_cfg(beside)) - 1
    names = path.with_suffix(".names")
    if names.is_file():
        about["names"] = [line.strip() for line in names.read_text(encoding="utf-8").splitlines() if line.strip()]
    return about


def _text(about: dict[str, Any]) -> str:
    size = about.get("image_size")
    shape = None
    if size:
        alone = "alone" if about["fixed_size"] else "or another multiple of the stride"
        shape = f"{size[0]} x {size[1]} {alone}, {about['resize']}, stride {about['stride']}"
    names = about.get("names")
    lines = {
        "file": f"{about['file']}, {about['bytes'] / 1e6:,.1f} MB",
        "kind": about["kind"],
        "runs": about.get("runs"),
        "task": about.get("task"),
        "input": shape,
        "nms": about.get("nms"),
        "numbers": f"{about['numbers']:,}, of {about['seen']:,} images seen" if "numbers" in about else None,
        "cfg": about.get("cfg") or ("none beside it; name one with --cfg" if "numbers" in about else None),
        "layers": about.get("layers"),
        "classes": f"{len(names)}: {listed(names[:10])}{', ...' if len(names) > 10 else ''}" if names else None,
        "note": about.get("note"),
    }
    return "\n".join(f"{name:12} {value}" for name, value in lines.items() if value is not None)
