"""open_predictor(): one predict() over PyTorch, ONNX Runtime, OpenVINO and TorchScript.

What torch runs is in `predictor_torch`, which is imported for those files alone.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from models.info import Predictor
from models.runtimes import OnnxPredictor, OpenVinoPredictor
from utils.config import ROOT, ConfigError
from utils.program import quiet_imports

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

NEED_CFG = (".weights", ".pth")
"""Files that hold numbers and no network."""
_IN_MEMORY = (".pt", ".safetensors", *NEED_CFG)


def open_predictor(
    weights: Path | str,
    *,
    cfg: Path | str | None = None,
    device: torch.device | str | None = None,
    half: bool = False,
    trust: bool = False,
    threads: int | None = None,
    fuse: bool = True,
) -> Predictor:
    """The predictor for a file: .pt, .safetensors, .weights (darknet), .pth (YOLOX), .onnx, .xml or .torchscript.

    Args:
        cfg: the darknet .cfg or our model file of .weights and .pth, as `network_file` takes it; the other files carry
            their own.
        device: where to compute; None is the fastest for what torch runs in memory, and the CPU for exported files.
        half: fp16 convolutions, for the same on CUDA; an exported file has the precision it was exported with.
        trust: open .torchscript too. THAT RUNS CODE FROM THE FILE: only for files whose origin is trusted.
        threads: CPU threads of ONNX Runtime and OpenVINO; None is their own choice.
        fuse: merge norms into convolutions, which is the same function and faster; an export needs them apart.
    Raises:
        ConfigError: a file that would run code without `trust`; a missing, foreign or unreadable one; a missing
            package, or a device that cannot be used.
    """
    path = Path(weights)
    kind = path.suffix.lower()
    in_memory = kind in _IN_MEMORY
    check_file(path, trust=trust)
    if cfg is not None and kind not in NEED_CFG:
        logger.warning("--cfg %s is not used: %s says itself what model it holds", cfg, path.name)
    if half and not in_memory:
        raise ConfigError(f"--half: {path.name} has the precision it was exported with; use export.py --half instead")
    if kind in (".onnx", ".xml") and str(device or "cpu") == "cpu":
        return OnnxPredictor(path, threads=threads) if kind == ".onnx" else OpenVinoPredictor(path, threads=threads)
    with quiet_imports():
        from models.predictor_torch import TorchScriptPredictor, open_checkpoint, open_darknet, open_released
        from utils.device import select_device

    name = "cpu" if device is None and not in_memory else device
    device = select_device(name) if name is None or isinstance(name, str) else name
    if kind in (".pt", ".safetensors"):
        return open_checkpoint(path, device, half=half, fuse=fuse)
    if kind in NEED_CFG:
        open_numbers = open_darknet if kind == ".weights" else open_released
        return open_numbers(path, network_file(path, cfg), device, half=half, fuse=fuse)
    if kind == ".torchscript":
        return TorchScriptPredictor(path, device)
    if kind == ".onnx":
        return OnnxPredictor(path, str(device), threads=threads)
    raise ConfigError(f"{path}: OpenVINO runs on the CPU here, and the device is {device}; use --device cpu")


def network_file(weights: Path, cfg: Path | str | None) -> Path | str:
    """The model file of a file in NEED_CFG: `cfg`, or for darknet weights the .cfg of that name beside them.

    Raises:
        ConfigError: none was named, and none is there.
    """
    beside = weights.with_suffix(".cfg")
    if cfg is not None or (weights.suffix.lower() == ".weights" and beside.is_file()):
        return cfg or beside
    if weights.suffix.lower() == ".weights":
        raise ConfigError(
            f"{weights}: darknet weights hold no network; name its file with --cfg (there is no {beside})"
        )
    likely = ROOT / "cfg" / f"{weights.stem.replace('_', '-')}.yaml"
    named = f": --cfg {likely.name}" if likely.is_file() else " with --cfg (yolox-nano.yaml for YOLOX's yolox_nano.pth)"
    raise ConfigError(f"{weights}: a .pth file holds no network; name its model file{named}")


def check_file(path: Path, *, trust: bool = False) -> None:
    """Refuse what no predictor can be made of, or what would run code, before anything is read.

    Raises:
        ConfigError: another suffix, no such file, or a program without `trust`.
    """
    kind = path.suffix.lower()
    if ".conv." in path.name:
        raise ConfigError(f"{path}: holds the first layers of a network alone; start a training from it, with train.py")
    if kind not in (*_IN_MEMORY, ".onnx", ".xml", ".torchscript"):
        raise ConfigError(
            f"{path}: expected .pt, .pth, .weights, .onnx, .xml (OpenVINO), .torchscript or .safetensors, found the "
            f"suffix '{kind}'"
        )
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; check --weights, or leave it out for the newest training run")
    if kind == ".torchscript" and not trust:
        raise ConfigError(
            f"{path}: not loaded, because a TorchScript file is a program, which can do anything while it is loaded or "
            "used. Use the checkpoint or an .onnx file instead; or, if you trust where it comes from, add --trust"
        )


def default_weights(project: Path = Path("runs", "train")) -> Path:
    """The newest PROJECT/*/weights/best.pt, for --weights left out.

    Raises:
        ConfigError: there is none; says how to get one.
    """
    checkpoints = sorted(project.glob("*/weights/best.pt"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise ConfigError(
            f"--weights was left out and {project} holds no trained model (*/weights/best.pt); train one first with "
            "'python train.py --cfg csppeleenet-prn.yaml', or name a file with --weights"
        )
    return checkpoints[-1]
