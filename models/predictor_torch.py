"""Predictors that torch runs: checkpoints, darknet and YOLOX weights, and TorchScript files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.build import build_model
from models.config import ModelConfig, load_model_config
from models.darknet.cfg import MARK, declared_classes
from models.darknet.header import read_numbers
from models.darknet.weights import classes_in_file, load_weights_
from models.detector import Detector
from models.fuse import fuse_, pack_
from models.info import CALLS, ModelInfo, Predictor, Values, read_of_scores
from models.names import known_names, names_beside
from models.pretrained import fitted
from models.pretrained_yolox import classes_of_yolox
from models.runtimes import precision_of
from models.saved import build_saved, check_shapes
from utils.config import ConfigError
from utils.device import describe_device
from utils.saved import check_pairs, check_weights
from utils.text import first_line, from_json
from utils.weights import load_foreign, load_saved_model

# Name of the metadata inside a TorchScript file, JSON: torch.jit.load(path, _extra_files={SCRIPT_METADATA: ""}).
SCRIPT_METADATA = "cspdet.json"


class ModelPredictor(Predictor):
    """A model in memory.

    Args:
        model: put into evaluation mode and onto `device`.
        info: of this model.
        fuse: change the model as `models.fuse` says, and the order of its weights to channels_last or, on a CPU, to
            that of oneDNN: faster.
        half: convolutions in fp16. Boxes are decoded in fp32 all the same: fp16 knows half pixels only, from 512 on.
    Raises:
        ConfigError: `half` without CUDA.
    """

    def __init__(
        self, model: Detector, info: ModelInfo, *, device: torch.device, half: bool = False, fuse: bool = False
    ) -> None:
        if half and device.type != "cuda":
            raise ConfigError(f"--half: needs a CUDA GPU, and the device is {device}; leave it out")
        precision = "fp16" if half else "fp32"
        super().__init__(info, device=str(device), precision=precision, runtime=f"PyTorch on {describe_device(device)}")
        self.torch_device, self.threads_of_call = device, torch.get_num_threads()
        self.model = model.eval().to(device)
        self.memory_format = torch.contiguous_format if device.type == "mps" else torch.channels_last
        if fuse:
            fuse_(self.model)
            self.model.to(memory_format=self.memory_format)
            if device.type == "cpu":
                pack_(self.model)

    @contextmanager
    def side_by_side(self) -> Iterator[Predictor]:
        """See Predictor."""
        threads = torch.get_num_threads()
        if self.torch_device.type != "cpu" or threads == 1:
            yield self
            return
        shared = copy(self)
        shared.calls = min(threads, CALLS)
        shared.threads_of_call = threads // shared.calls
        try:
            yield shared
        finally:
            torch.set_num_threads(threads)  # part of what a thread sets is set for all

    def begin_thread(self) -> None:
        """See Predictor."""
        torch.set_num_threads(self.threads_of_call)

    @torch.inference_mode()
    def predict(self, images: Values) -> tuple[Tensor, Tensor] | Tensor:
        """See Predictor."""
        return self.model.head.decode(self._raw_maps(images))

    @torch.inference_mode()
    def candidates(self, images: Values, conf_thres: float) -> tuple[Tensor, Tensor] | Tensor:
        """See Predictor; only the boxes of candidates are computed."""
        return self.model.head.decode_above(self._raw_maps(images), conf_thres)

    def _raw_maps(self, images: Values) -> list[Tensor]:
        """The head's raw maps, float32."""
        inputs = _as_input(images, self.torch_device, self.memory_format)
        with torch.autocast(self.torch_device.type, torch.float16, enabled=self.precision == "fp16"):
            return [raw.float() for raw in self.model(inputs)]


class TorchScriptPredictor(Predictor):
    """A TorchScript file, which takes any batch and size; metadata in the extra file 'cspdet.json'."""

    def __init__(self, path: Path, device: torch.device) -> None:
        extra = {SCRIPT_METADATA: ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # newer PyTorch recommends torch.export
                self.module = torch.jit.load(str(path), map_location=device, _extra_files=extra).eval()
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"{path}: PyTorch cannot load it: {first_line(error)}") from None
        try:
            metadata = from_json(extra[SCRIPT_METADATA] or "{}")
        except (ValueError, RecursionError):
            metadata = {}
        metadata = metadata if isinstance(metadata, dict) else {}
        info = ModelInfo.from_metadata(metadata, shape=(None, None), where=str(path))
        runtime = f"TorchScript on {describe_device(device)}"
        super().__init__(info, device=str(device), precision=precision_of(metadata), runtime=runtime)
        self.torch_device = device

    @torch.inference_mode()
    def predict(self, images: Values) -> tuple[Tensor, Tensor] | Tensor:
        """See Predictor."""
        return self.module(_as_input(images, self.torch_device))


def _as_input(
    images: Values, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format
) -> Tensor:
    """Images as `predict` takes them, on the device and in [0, 1]; bytes travel as bytes."""
    tensor = torch.as_tensor(images).to(device).contiguous(memory_format=memory_format)
    return tensor.float().div_(255) if tensor.dtype == torch.uint8 else tensor


def open_checkpoint(path: Path, device: torch.device, *, half: bool, fuse: bool) -> ModelPredictor:
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
        **_of_scores(path, state, len(names)),
    )
    info.check_size(info.image_size, where=f"{path}: image_size")
    return ModelPredictor(model, info, device=device, half=half, fuse=fuse)


def _of_scores(path: Path, state: dict[str, Any], classes: int) -> dict[str, Any]:
    try:
        return read_of_scores(state, classes)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}; the checkpoint was changed") from None


def open_darknet(path: Path, cfg: Path | str, device: torch.device, *, half: bool, fuse: bool) -> ModelPredictor:
    """Darknet weights in the network of a cfg, or in a model of ours with the same layers.

    Boxes of darknet's own weights are counted as they come; those of our exports as before the export.
    """
    config = load_model_config(cfg)
    classes = declared_classes(config.backbone)
    if classes is None:  # our files are for any number of classes; the size of the file tells
        network = build_model(config, 80)
        fitting = (classes_in_file(network, len(numbers)) for _, numbers in read_numbers(path))
        classes = next((count for count in fitting if count), 80)
    model = build_model(config, classes)
    load_weights_(model, path)
    ours = (file := Path(cfg)).is_file() and file.read_text("utf-8", "replace").startswith(MARK)
    info = _info_of(config, model, (path, cfg), clip=ours)
    return ModelPredictor(model, info, device=device, half=half, fuse=fuse)


def open_released(path: Path, cfg: Path | str, device: torch.device, *, half: bool, fuse: bool) -> ModelPredictor:
    """Weights of another program, all of them, in a model of ours: YOLOX's .pth files (docs/weights.md).

    Boxes are counted as they come, as by their authors.

    Raises:
        ConfigError: tensors are missing, left over or of another shape: another --cfg.
    """
    config, weights = load_model_config(cfg), load_foreign(path)
    classes = classes_of_yolox(weights) or 80
    model = build_model(config, classes)
    weights = fitted(model, weights, path)
    check_weights(weights, where=str(path))
    try:
        check_shapes(model, weights)
    except ConfigError as error:
        raise ConfigError(f"{path}: the weights do not fit {config.file} ({error}); is it another --cfg?") from None
    model.load_state_dict(weights)
    return ModelPredictor(model, _info_of(config, model, (path, cfg)), device=device, half=half, fuse=fuse)


def _info_of(config: ModelConfig, model: Detector, files: Sequence[Path | str], *, clip: bool = False) -> ModelInfo:
    """What is known of a model whose file holds numbers alone."""
    classes = model.head.num_classes
    names = names_beside(classes, files)
    return ModelInfo(
        names or known_names(classes),
        tuple(range(1, classes + 1)),
        config.size,
        config.resize,
        model.stride,
        nms=config.nms,
        beta_nms=config.beta_nms,
        named=names is not None,
        task=model.task,
        clip=clip,
    )
