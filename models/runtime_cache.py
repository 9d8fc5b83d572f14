"""open_fastest(): a model by the fastest installed runtime, and the files in runs/cache that were exported for it.

A file serves inputs of any size, so the weights, the runtime's version and the exporter decide which one it is. The
folder can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from models.config import load_model_config
from models.export.formats import FORMATS, import_package
from models.info import Predictor
from models.predictor import NEED_CFG, network_file, open_predictor
from utils.config import ConfigError, to_plain
from utils.files import write_json
from utils.log import duration
from utils.program import quiet_imports
from utils.provenance import file_hash
from utils.text import first_line, from_json, to_json

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

CACHE = Path("runs", "cache")
FASTEST = ("onnx", "openvino")
"""On a CPU, best first; PyTorch comes after them (docs/inference.md has the times)."""
_OWN = {".onnx": "onnx", ".xml": "openvino", ".torchscript": "torch"}
WORTH_IT = 50
"""Pictures from which on 'auto' exports a model: an export takes as long as about so many (docs/inference.md)."""
_EXPORTER = 1
"""Raised when the files of the same weights change."""
_GPUS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
"""What Linux has where there may be a GPU that PyTorch can use."""


def open_fastest(
    weights: Path,
    *,
    runtime: str = "auto",
    cfg: Path | str | None = None,
    device: torch.device | str | None = None,
    half: bool = False,
    trust: bool = False,
    threads: int | None = None,
    pictures: int | None = None,
    cache: Path = CACHE,
) -> tuple[Predictor, str]:
    """The predictor of `open_predictor` by the runtime asked for, and why by this one; '' where the file decides.

    'auto' takes the fastest installed one on a CPU; PyTorch on other devices, for few pictures, and where the export
    fails. What is exported is kept in `cache` and found there the next time, without PyTorch.

    Args:
        weights, cfg, device, half, trust, threads: as in `open_predictor`.
        runtime: one of RUNTIMES.
        pictures: how many will be looked at, None for many; an export takes seconds.
    Raises:
        ConfigError: as `open_predictor`; a runtime that cannot run the file, or is not installed.
    """
    open_own = partial(open_predictor, weights, cfg=cfg, half=half, trust=trust, threads=threads)
    own = _OWN.get(weights.suffix.lower())
    _check(runtime, weights, own, device)
    if own is not None or runtime == "torch":
        return open_own(device=device), "" if own else "as asked for"
    asked = runtime != "auto"
    if not asked and (half or not _computes_on_cpu(device)):
        return open_own(device=device), "the fastest for this device"
    folder = cache / f"{weights.stem}-{_digest(os.fsencode(weights.resolve()))[:8]}"
    wanted = (runtime,) if asked else FASTEST
    names = [name for name in wanted if not _missing(FORMATS[name].packages[-1:])]
    why = "as asked for" if asked else "the fastest installed for a CPU"
    for name in names if folder.is_dir() else ():
        entry = Entry.of(weights, cfg, name, folder)
        if entry.is_whole():
            return open_predictor(entry.file, device=device or "cpu", threads=threads), f"{why}; {entry.file}"
    possible = [name for name in names if not _missing(FORMATS[name].packages)]
    if asked and (packages := " ".join(_missing(FORMATS[runtime].packages))):
        raise ConfigError(f"--runtime {runtime}: needs {packages}, not installed here: pip install {packages}")
    if not possible:
        return open_own(device="cpu"), "as no faster one is installed; pip install onnxruntime onnx"
    if not asked and pictures is not None and pictures < WORTH_IT:
        return open_own(device="cpu"), f"as so few pictures are not worth an export; --runtime {possible[0]} makes one"
    logger.info("Exporting %s for --runtime %s, once", weights, possible[0])
    begin = time.monotonic()
    try:
        entry = Entry.of(weights, cfg, possible[0], folder)
        entry.write(open_own(device="cpu", fuse=False))
        predictor = open_predictor(entry.file, device=device or "cpu", threads=threads)
    except Exception as error:  # of the exporter, the runtime or the disk
        if asked:
            raise ConfigError(f"--runtime {runtime}: {weights} cannot be exported: {first_line(error)}") from None
        return open_own(device="cpu"), f"as the export for {possible[0]} failed: {first_line(error)}"
    return predictor, f"{why}; exported in {duration(time.monotonic() - begin)} to {entry.file}"


@dataclass(frozen=True)
class Entry:
    """A file in the cache, with another that has the hashes of all its parts; written last, it makes the entry whole.

    Args:
        runtime: a key of FORMATS.
        folder: of all entries of these weights.
        key: of everything that decides what is in the file.
    """

    runtime: str
    folder: Path
    key: str

    @staticmethod
    def of(weights: Path, cfg: Path | str | None, runtime: str, folder: Path) -> Entry:
        """The entry of weights for the installed version of a runtime."""
        network, beside = None, Path(cfg or weights.with_suffix(".cfg"))
        if weights.suffix.lower() in NEED_CFG:
            network = to_plain(load_model_config(network_file(weights, cfg)))
        named = [file for path in (weights, beside) if (file := path.with_suffix(".names")).is_file()]
        parts = [file_hash(weights), to_json(network), *map(file_hash, named), str(_EXPORTER)]
        version = import_package(FORMATS[runtime].packages[-1]).__version__.split("-")[0]
        return Entry(runtime, folder, f"{runtime}-{version}-{_digest(' '.join(parts).encode())}")

    @property
    def file(self) -> Path:
        """What `open_predictor` takes."""
        return self.folder / f"{self.key}{FORMATS[self.runtime].suffix}"

    @property
    def _hashes(self) -> Path:
        return self.folder / f"{self.key}.json"

    def is_whole(self) -> bool:
        """Whether all its files are there as they were written."""
        try:
            hashes = from_json(self._hashes.read_text("utf-8"))
            changed = [name for name, value in hashes.items() if file_hash(self.folder / name) != value]
        except FileNotFoundError:
            return False
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            logger.warning("%s: damaged, and made again (%s)", self.file, first_line(error))
            return False
        if changed:
            logger.warning("%s: damaged, and made again (%s has changed)", self.file, changed[0])
        return not changed

    def write(self, original: Predictor) -> None:
        """Export a model of `predictor_torch`, and remove what was made for this runtime of other weights before."""
        with quiet_imports():
            from models.export.network import ExportSpec
            from models.export.write import export
            from models.predictor_torch import ModelPredictor

        assert isinstance(original, ModelPredictor)
        self._hashes.unlink(missing_ok=True)
        spec = ExportSpec(original.info, dynamic=original.model.backbone.fixed_size is None)
        _, files = export(original, self.runtime, self.file, spec)
        write_json(self._hashes, {file.name: file_hash(file) for file in files})
        for old in self.folder.glob(f"{self.runtime}-*"):
            if not old.name.startswith(f"{self.key}."):
                with contextlib.suppress(OSError):  # Windows: another program has it open
                    old.unlink()


def _check(runtime: str, weights: Path, own: str | None, device: torch.device | str | None) -> None:
    """Refuse a runtime that cannot run a file, whose own it has, or compute on a device."""
    if own is not None and runtime not in ("auto", own):
        raise ConfigError(
            f"--runtime {runtime}: {weights} is a file for --runtime {own}; leave --runtime out, or name the checkpoint"
        )
    if runtime == "openvino" and str(device or "cpu") != "cpu":
        raise ConfigError(f"--runtime openvino: runs on the CPU here, and the device is {device}; use --device cpu")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _missing(packages: Sequence[str]) -> list[str]:
    """Those that are not installed; none is imported."""
    return [package for package in packages if find_spec(package) is None]


def _computes_on_cpu(device: torch.device | str | None) -> bool:
    """Whether `open_predictor` would compute on the CPU; where that can be seen, without importing PyTorch."""
    if device is None and sys.platform == "linux" and not any(Path(name).exists() for name in _GPUS):
        return True
    if device is None:
        with quiet_imports():
            from utils.device import select_device

        device = select_device()
    return str(device) == "cpu"
