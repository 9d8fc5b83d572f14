"""open_predictor(): one predict() over PyTorch, ONNX Runtime, OpenVINO and TorchScript."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.build import build_model
from models.config import load_model_config
from models.darknet.cfg import MARK, declared_classes
from models.darknet.header import read_numbers
from models.darknet.weights import classes_in_file, load_weights_
from models.detector import Detector
from models.info import ModelInfo, Predictor
from models.runtimes import OnnxPredictor, OpenVinoPredictor, TorchScriptPredictor
from models.saved import build_saved
from utils.config import ROOT, ConfigError, load_yaml
from utils.device import describe_device, select_device
from utils.files import read_regular
from utils.saved import check_pairs
from utils.weights import load_saved_model

logger = logging.getLogger(__name__)

KNOWN = {80: ROOT / "cfg" / "data" / "coco.yaml", 20: ROOT / "cfg" / "data" / "voc.yaml"}
"""Data sets whose models have so many classes, as a rule."""
_IN_MEMORY = (".pt", ".safetensors", ".weights")


def names_beside(classes: int, files: Sequence[Path | str]) -> tuple[str, ...] | None:
    """The names in a file NAME.names, one a line as darknet has it, beside one of a model's files NAME.*, if any.

    Raises:
        ConfigError: it holds another number of names.
    """
    for path in (Path(file).with_suffix(".names") for file in files):
        if path.exists() and not path.is_dir():
            lines = read_regular(path).decode("utf-8-sig", errors="replace").splitlines()
            names = [line.strip() for line in lines if line.strip()]
            if len(names) != classes or len(set(names)) != classes:
                raise ConfigError(f"{path}: expected {classes} different names, one a line, found {len(set(names))}")
            return tuple(names)
    return None


def known_names(classes: int) -> tuple[str, ...]:
    """The likely names of so many classes: COCO's for 80, VOC's for 20, else numbers."""
    if classes not in KNOWN:
        return tuple(f"class {label}" for label in range(classes))
    names = load_yaml(KNOWN[classes])["names"]
    return tuple(str(names[label]) for label in range(classes))


class ModelPredictor(Predictor):
    """A model in memory.

    Args:
        model: put into evaluation mode and onto `device`.
        info: of this model.
        half: convolutions in fp16. Boxes are decoded in fp32 all the same: fp16 knows half pixels only, from 512 on.
    Raises:
        ConfigError: `half` without CUDA.
    """

    def __init__(self, model: Detector, info: ModelInfo, *, device: torch.device, half: bool = False) -> None:
        if half and device.type != "cuda":
            raise ConfigError(f"--half: needs a CUDA GPU, and the device is {device}; leave it out")
        precision = "fp16" if half else "fp32"
        super().__init__(info, device=device, precision=precision, runtime=f"PyTorch on {describe_device(device)}")
        self.model = model.eval().to(device)

    @torch.inference_mode()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        """See Predictor."""
        with torch.autocast(self.device.type, torch.float16, enabled=self.precision == "fp16"):
            raw_maps = self.model(images)
        return self.model.head.decode([raw.float() for raw in raw_maps])


def open_predictor(
    weights: Path | str,
    *,
    cfg: Path | str | None = None,
    device: torch.device | str | None = None,
    half: bool = False,
    trust: bool = False,
) -> Predictor:
    """The predictor for a file: .pt, .safetensors, .weights (darknet), .onnx, .xml (OpenVINO) or .torchscript.

    Args:
        cfg: the darknet .cfg or our model file of darknet .weights, by default the .cfg of that name beside them; the
            other files carry their own.
        device: where to compute; None is the fastest for .pt, .safetensors and .weights and the CPU for the others.
        half: fp16 convolutions, for the same on CUDA; an exported file has the precision it was exported with.
        trust: open .torchscript too. THAT RUNS CODE FROM THE FILE: only for files whose origin is trusted.
    Raises:
        ConfigError: a file that would run code without `trust`; a missing, foreign or unreadable one; a missing
            package, or a device that cannot be used.
    """
    path = Path(weights)
    kind = path.suffix.lower()
    in_memory = kind in _IN_MEMORY
    _check_file(path, trust=trust)
    if cfg is not None and kind != ".weights":
        logger.warning("--cfg %s is not used: %s says itself what model it holds", cfg, path.name)
    if half and not in_memory:
        raise ConfigError(f"--half: {path.name} has the precision it was exported with; use export.py --half instead")
    if not isinstance(device, torch.device):
        device = select_device("cpu" if device is None and not in_memory else device)
    if kind in (".pt", ".safetensors"):
        return _open_checkpoint(path, device, half)
    if kind == ".weights":
        return _open_darknet(path, cfg, device, half)
    if kind == ".onnx":
        return OnnxPredictor(path, device)
    if kind == ".torchscript":
        return TorchScriptPredictor(path, device)
    if device.type != "cpu":
        raise ConfigError(f"{path}: OpenVINO runs on the CPU here, and the device is {device}; use --device cpu")
    return OpenVinoPredictor(path)


def _check_file(path: Path, *, trust: bool) -> None:
    """Refuse what no predictor can be made of, or what would run code, before anything is read.

    Raises:
        ConfigError: another suffix, no such file, or a program without `trust`.
    """
    kind = path.suffix.lower()
    if ".conv." in path.name:
        raise ConfigError(f"{path}: holds the first layers of a network alone; start a training from it, with train.py")
    if kind not in (*_IN_MEMORY, ".onnx", ".xml", ".torchscript"):
        raise ConfigError(
            f"{path}: expected .pt, .weights, .onnx, .xml (OpenVINO), .torchscript or .safetensors, found the suffix "
            f"'{kind}'"
        )
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; check --weights, or leave it out for the newest training run")
    if kind == ".torchscript" and not trust:
        raise ConfigError(
            f"{path}: not loaded, because a TorchScript file is a program, which can do anything while it is loaded or "
            "used. Use the checkpoint or an .onnx file instead; or, if you trust where it comes from, add --trust"
        )


def default_weights(project: Path = ROOT / "runs" / "train") -> Path:
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


def _open_checkpoint(path: Path, device: torch.device, half: bool) -> ModelPredictor:
    """The averaged weights of a checkpoint or a .safetensors file of ours."""
    state = load_saved_model(path)
    missing = next(
        (key for key in ("model", "names", "category_ids", "resize", "ema", "image_size") if key not in state), ""
    )
    if missing:
        raise ConfigError(f"{path}: the checkpoint has no key '{missing}'; it was not written by train.py")
    names, category_ids, weights = tuple(state["names"]), tuple(state["category_ids"]), state["ema"]
    config, model = build_saved(state["model"], len(names), weights, where=str(path))
    check_pairs(names, category_ids, where=str(path))
    height, width = state["image_size"]
    info = ModelInfo(
        names,
        category_ids,
        (height, width),
        state["resize"],
        model.stride,
        data=state.get("data"),
        nms=config.nms,
        beta_nms=config.beta_nms,
        task=model.task,
    )
    info.check_size(info.image_size, where=f"{path}: image_size")
    return ModelPredictor(model, info, device=device, half=half)


def _open_darknet(path: Path, cfg: Path | str | None, device: torch.device, half: bool) -> ModelPredictor:
    """Darknet weights in the network of a cfg, or in a model of ours with the same layers.

    Boxes of darknet's own weights are counted as they come; those of our exports as before the export.
    """
    beside = path.with_suffix(".cfg")
    if cfg is None and not beside.is_file():
        raise ConfigError(f"{path}: darknet weights hold no network; name its file with --cfg (there is no {beside})")
    config = load_model_config(cfg or beside)
    classes = declared_classes(config.backbone)
    if classes is None:  # our files are for any number of classes; the size of the file tells
        network = build_model(config, 80)
        fitting = (classes_in_file(network, len(numbers)) for _, numbers in read_numbers(path))
        classes = next((count for count in fitting if count), 80)
    model = build_model(config, classes)
    load_weights_(model, path)
    names = names_beside(classes, (path, cfg or beside))
    ours = (file := Path(cfg or beside)).is_file() and file.read_text("utf-8", "replace").startswith(MARK)
    info = ModelInfo(
        names or known_names(classes),
        tuple(range(1, classes + 1)),
        config.size,
        config.resize,
        model.stride,
        nms=config.nms,
        beta_nms=config.beta_nms,
        named=names is not None,
        task=model.task,
        clip=ours,
    )
    return ModelPredictor(model, info, device=device, half=half)
