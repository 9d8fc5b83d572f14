"""open_predictor(): one predict() over PyTorch, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.build import build_model
from models.config import model_config_from
from models.detector import Detector
from models.info import ModelInfo, Predictor
from models.runtimes import OnnxPredictor, OpenVinoPredictor
from utils.config import ROOT, ConfigError
from utils.device import describe_device, select_device
from utils.training.checkpoint import load_checkpoint

logger = logging.getLogger(__name__)


class ModelPredictor(Predictor):
    """A model in memory.

    Args:
        model: put into evaluation mode and onto `device`.
        half: convolutions in fp16. Boxes are decoded in fp32 all the same: fp16 knows half pixels only, from 512 on.
        data: what the model was trained on.
    Raises:
        ConfigError: `half` without CUDA.
    """

    def __init__(
        self,
        model: Detector,
        *,
        names: Sequence[str],
        category_ids: Sequence[int],
        image_size: tuple[int, int],
        resize: str,
        device: torch.device,
        half: bool = False,
        data: str | None = None,
    ) -> None:
        if half and device.type != "cuda":
            raise ConfigError(f"--half: needs a CUDA GPU, and the device is {device}; leave it out")
        info = ModelInfo(tuple(names), tuple(category_ids), image_size, resize, model.stride, data=data)
        precision = "fp16" if half else "fp32"
        super().__init__(info, device=device, precision=precision, runtime=f"PyTorch on {describe_device(device)}")
        self.model = model.eval().to(device)

    @torch.inference_mode()
    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See Predictor."""
        with torch.autocast(self.device.type, torch.float16, enabled=self.precision == "fp16"):
            raw_maps = self.model(images)
        return self.model.head.decode([raw.float() for raw in raw_maps])


def open_predictor(
    weights: Path | str, *, cfg: Path | str | None = None, device: torch.device | str | None = None, half: bool = False
) -> Predictor:
    """The predictor for a file of weights, by its suffix: .pt, .onnx or .xml (OpenVINO).

    Args:
        cfg: model config of darknet .weights; the other files carry their own.
        device: where to compute; None is the fastest for a .pt and the CPU for the others.
        half: fp16 convolutions, for a .pt on CUDA; an exported file has the precision it was exported with.
    Raises:
        ConfigError: a missing, foreign or unreadable file, a missing package, or a device that cannot be used.
    """
    path = Path(weights)
    kind = path.suffix.lower()
    if kind == ".weights" or ".conv." in path.name:
        raise ConfigError(f"{path}: darknet weights are not supported yet; expected .pt, .onnx or .xml")
    if kind not in (".pt", ".onnx", ".xml"):
        raise ConfigError(f"{path}: expected .pt, .onnx or .xml (OpenVINO), found the suffix '{kind}'")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; check --weights, or leave it out for the newest training run")
    if cfg is not None:
        logger.warning("--cfg %s is not used: %s says itself what model it holds", cfg, path.name)
    if half and kind != ".pt":
        raise ConfigError(f"--half: {path.name} has the precision it was exported with; use export.py --half instead")
    if not isinstance(device, torch.device):
        device = select_device("cpu" if device is None and kind != ".pt" else device)
    if kind == ".pt":
        return _open_checkpoint(path, device, half)
    if kind == ".onnx":
        return OnnxPredictor(path, device)
    if device.type != "cpu":
        raise ConfigError(f"{path}: OpenVINO runs on the CPU here, and the device is {device}; use --device cpu")
    return OpenVinoPredictor(path)


def default_weights(project: Path = ROOT / "runs" / "train") -> Path:
    """The newest PROJECT/*/weights/best.pt, for --weights left out.

    Raises:
        ConfigError: there is none; says how to get one.
    """
    found = sorted(project.glob("*/weights/best.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ConfigError(
            f"--weights was left out and {project} holds no trained model (*/weights/best.pt); train one first with "
            "'python train.py --cfg csppeleenet-prn.yaml', or name a file with --weights"
        )
    return found[-1]


def _open_checkpoint(path: Path, device: torch.device, half: bool) -> ModelPredictor:
    """The averaged weights of a checkpoint of ours."""
    state = load_checkpoint(path)
    try:
        config = model_config_from(state["model"], where=f"{path}: model")
        names, category_ids, resize, weights = (state[key] for key in ("names", "category_ids", "resize", "ema"))
        height, width = state["image_size"]
    except KeyError as error:
        raise ConfigError(f"{path}: the checkpoint has no key {error}; it was not written by train.py") from None
    model = build_model(config, len(names))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[1:2] or [str(error)]
        raise ConfigError(
            f"{path}: the weights do not fit the model '{config.name}' described beside them ({first[0].strip()}); "
            "the checkpoint was changed, or comes from another version of CSPDet"
        ) from None
    options = {"image_size": (height, width), "resize": resize, "device": device, "half": half}
    return ModelPredictor(model, names=names, category_ids=category_ids, data=state.get("data"), **options)
