"""Where a checkpoint comes from: versions, git commit, and the fingerprint of its data."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

from utils.config import ROOT, ConfigError
from utils.structures import LabelledImages

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


def versions() -> dict[str, str]:
    """Python, the packages, the platform, and the project's git commit."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    result = {"python": platform.python_version(), "torch": str(torch.__version__)}  # with its build: +cu130, +cpu
    for package in PACKAGES:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            result[package] = "not installed"
    return result | {"platform": platform.platform(), "commit": git_commit(ROOT)}


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
    The pixels are not read.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(repr((images.names, images.category_ids, len(images))).encode())
    folders = {sample.path.absolute().parent for sample in images.samples}
    root = os.path.commonpath(folders) if folders else ""
    for sample in images.samples:
        relative = Path(os.path.relpath(sample.path.absolute(), root)).as_posix()
        digest.update(repr((relative, sample.height, sample.width, len(sample.labels))).encode())
        for values, kind in ((sample.boxes, "<f8"), (sample.labels, "<i8"), (sample.crowd, "u1")):
            digest.update(np.ascontiguousarray(values, kind).tobytes())
    return digest.hexdigest()


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
