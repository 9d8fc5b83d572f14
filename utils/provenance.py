"""Where a checkpoint comes from: versions, git commit, and the fingerprint of its data."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import itertools
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.config import ROOT, ConfigError
from utils.files import common_folder, open_regular
from utils.structures import LabelledImages

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = (
    "torchvision",
    "numpy",
    "opencv-python-headless",
    "albumentations",
    "pillow",
    "av",
    "pycocotools",
    "faster-coco-eval",
    "timm",
    "safetensors",
    "pydantic",
)
"""Packages beside torch whose version can change the result of a training."""

NUMERIC = ("torch", "torchvision", "numpy", "opencv-python-headless", "albumentations", "pillow")
"""Those whose other versions were seen, or may be expected, to round other pixels and weights."""

_EDGE = 4096
"""Bytes at the beginning and at the end of a file that `file_numbers` reads."""


def versions() -> dict[str, str]:
    """Python, the packages, the platform, and the project's git commit."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    import torch

    result = {"python": platform.python_version(), "torch": str(torch.__version__)}  # with its build: +cu130, +cpu
    for package in PACKAGES:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            result[package] = "not installed"
    return result | {"platform": platform.platform(), "commit": git_commit(ROOT)}


def numeric_versions(known: Mapping[str, str]) -> dict[str, str]:
    """Of the result of `versions`, or what an older release wrote in its place, the packages of `NUMERIC`."""
    return {package: known[package] for package in NUMERIC if package in known}


def other_versions(saved: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The packages of `NUMERIC` that have another version now, as 'torch 2.6.0 -> 2.7.1'; none that one leaves out."""
    both = [package for package in NUMERIC if package in saved and package in now]
    return [f"{package} {saved[package]} -> {now[package]}" for package in both if saved[package] != now[package]]


def git_commit(folder: Path) -> str:
    """The commit that the repository `folder` is at, with '-dirty' where files differ from it; else 'unknown'."""
    if not (folder / ".git").exists():  # git would answer for a repository further up
        return "unknown"
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # only look
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True, env=environment)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"


def data_fingerprint(images: LabelledImages) -> str:
    """SHA-256 of what a split consists of: image paths, sizes and labels in their order, class names and ids.

    Paths count relative to the folder that holds all images, so that a data set keeps its fingerprint when it moves.
    The pixels are not read; see `file_numbers`.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(repr((images.names, images.category_ids, len(images))).encode())
    samples = images.samples
    paths = [path.absolute() for path in samples.paths()]
    folders = {path.parent for path in paths}
    root = common_folder(folders)
    columns = [(samples.boxes, "<f8"), (samples.labels, "<i8"), (samples.crowd, "u1")]
    if samples.tiles is not None:
        digest.update(np.ascontiguousarray(samples.tiles, "<i8").tobytes())
    ends = itertools.pairwise(samples.ends.tolist())
    for path, (height, width), (start, end) in zip(paths, samples.sizes.tolist(), ends, strict=True):
        relative = (path if root is None else Path(os.path.relpath(path, root))).as_posix()
        digest.update(repr((relative, height, width, end - start)).encode())
        for values, kind in columns:
            digest.update(np.ascontiguousarray(values[start:end], kind).tobytes())
    return digest.hexdigest()


def file_numbers(paths: Sequence[Path]) -> Tensor:
    """(N,) int64: of each file a number that its size, first and last bytes make; 0 for one that cannot be read.

    No whole file is read: 100,000 files take some seconds.
    """
    import torch

    once = list(dict.fromkeys(paths))  # tiles have their file in common
    parts = [once[start : start + 256] for start in range(0, len(once), 256)]
    with ThreadPoolExecutor(8) as pool:
        numbers = [number for part in pool.map(lambda part: [*map(_file_number, part)], parts) for number in part]
    number_of = dict(zip(once, numbers, strict=True))
    return torch.tensor([number_of[path] for path in paths], dtype=torch.int64)


def changed_files(saved: Tensor, now: Tensor) -> list[int]:
    """The positions at which two results of `file_numbers` differ; all where they are not of equally many files."""
    if saved.shape != now.shape:
        return list(range(len(now)))
    return (saved != now).nonzero().flatten().tolist()


def _file_number(path: Path) -> int:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(size.to_bytes(8, "little") + file.read(_EDGE), digest_size=8)
            if size > _EDGE:
                file.seek(max(size - _EDGE, _EDGE))
                digest.update(file.read(_EDGE))
    except OSError:
        return 0
    return int.from_bytes(digest.digest(), "little", signed=True)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits.

    Raises:
        ConfigError: there is no such file.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def check_same_data(saved: dict[str, str] | None, now: dict[str, str], source: str) -> None:
    """Refuse to continue a run on other data than it began with.

    Args:
        saved: fingerprints by split, as the checkpoint has them; None in checkpoints of before there were any.
        now: fingerprints of the data as it is.
    Raises:
        ConfigError: names the splits that have changed.
    """
    changed = [split for split, value in now.items() if saved and saved.get(split) != value]
    if changed:
        raise ConfigError(
            f"{source}: images or labels of {' and '.join(changed)} are not those that the run began with, so it "
            "cannot go on exactly. Put them back, or start a new run from its weights: --weights RUN/weights/last.pt"
        )
