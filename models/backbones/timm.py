"""Any network of the package timm that returns feature maps, as a backbone."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
from torch import Tensor, nn

from models.parts import Backbone
from utils.config import did_you_mean, from_home
from utils.structures import Features
from utils.text import listed
from utils.weights import load_foreign

logger = logging.getLogger(__name__)

_OURS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "features_only", "out_indices", "checkpoint_path")


class TimmBackbone(Backbone):
    """A network of timm, up to the deepest map that is asked for.

    Its weights expect images with mean 0 and deviation 1 in each channel; the backbone takes RGB in [0, 1] like every
    other and normalises with timm's values for that network. They are saved in the checkpoint, so that a newer timm
    with other values changes nothing.

    Args:
        model: timm's name, with or without the tag of its weights: cspresnext50, cspresnext50.ra_in1k.
        pretrained: true loads timm's own weights from its cache or the network; a path loads that file (.safetensors,
            or a state_dict as torch.save writes it) without using the network.
        strides: of the maps to return, ascending; the coarsest three when left out.
        options: further arguments of timm.create_model: {drop_path_rate: 0.1}, {img_size: 640}.
    Raises:
        ValueError: timm has no such network, or it cannot give such maps; weights that cannot be had or do not fit.
    """

    def __init__(
        self,
        *,
        model: str,
        pretrained: bool | str = False,
        strides: list[int] | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        timm, options = _import_timm(), options or {}
        _check_name(timm, model)
        if wrong := [key for key in options if key in _OURS]:
            raise ValueError(f"options.{wrong[0]}: is for the backbone to decide; use its keys pretrained and strides")
        network = _create(timm, model, options)
        indices, taken = _select(network, model, strides)
        if taken[-1] < len(indices) - 1:  # leave out what lies behind the deepest map
            indices, taken = [indices[i] for i in taken], list(range(len(taken)))
            network = _create(timm, model, {**options, "out_indices": tuple(indices)})
        if pretrained is True:
            network = _with_own_weights(timm, model, {**options, "out_indices": tuple(indices)})
        elif pretrained:
            _fill_(network, from_home(str(pretrained)), model)
        self.network = network
        self.taken = taken
        info = network.feature_info
        channels, reductions = info.channels(), info.reduction()
        self.features = Features(tuple(channels[i] for i in taken), tuple(reductions[i] for i in taken))
        figures = network.pretrained_cfg
        self.mean: Tensor
        self.std: Tensor
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(figures[name], dtype=torch.float32).view(1, -1, 1, 1))
        self.channels_last = False
        self._try(model, options)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in [0, 1] -> the maps that `features` names, finest first."""
        if self.fixed_size and not torch.jit.is_tracing() and images.shape[2:] != self.fixed_size:
            raise ValueError(
                f"backbone: this network takes {self.fixed_size[0]} x {self.fixed_size[1]} pixels alone, found "
                f"{images.shape[2]} x {images.shape[3]}; leave augment.multi_scale at 0"
            )
        maps = self.network((images - self.mean) / self.std)
        maps = [maps[i] for i in self.taken]
        return [x.permute(0, 3, 1, 2) for x in maps] if self.channels_last else maps

    def match(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a state_dict of timm (the whole network or its features) under this backbone's names.

        timm's feature networks have the names of the whole ones with other separators.
        """
        own = {_plain_name(name.removeprefix("network.")): name for name in self.state_dict()}
        return {own[plain]: value for name, value in weights.items() if (plain := _plain_name(name)) in own}

    @torch.enable_grad()
    def _try(self, model: str, options: dict[str, Any]) -> None:
        """Run the network once: which sizes it takes, whether its maps are as declared, and which weights they use."""
        stride = self.features.strides[-1]
        native = options.get("img_size") or self.network.pretrained_cfg["input_size"][1:]
        native = (native, native) if isinstance(native, int) else tuple(native)
        self.eval()
        for size in ((2 * stride, 3 * stride), native):
            try:
                maps = self(torch.zeros(1, 3, *size, device=self.mean.device))
            except (RuntimeError, AssertionError, ValueError, TypeError, IndexError) as error:
                reason = _reason(error)
                continue
            break
        else:
            raise ValueError(f"timm's '{model}' does not run as a backbone: {reason}")
        self.fixed_size = size if size == native else None
        shapes = [tuple(x.shape[1:]) for x in maps]
        channels, strides = self.features.channels, self.features.strides
        expected = [(width, size[0] // step, size[1] // step) for width, step in zip(channels, strides, strict=True)]
        if shapes == [(height, width, count) for count, height, width in expected]:
            self.channels_last = True
        elif shapes != expected:
            raise ValueError(
                f"timm's '{model}' cannot be a backbone: of an image of {size[0]} x {size[1]} it gives maps (channels, "
                f"height, width) {shapes}, and a head needs {expected}"
            )
        sum(x.sum() for x in maps).backward()
        for parameter in self.parameters():  # DistributedDataParallel waits for the gradient of each that is trained
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        self.train()


def _import_timm() -> ModuleType:
    """timm, imported here because it takes seconds."""
    try:
        import timm
    except ImportError:
        raise ValueError("needs the package timm, which is not installed: pip install timm") from None
    return timm


def _check_name(timm: ModuleType, model: str) -> None:
    """Refuse a name that timm does not have.

    Raises:
        ValueError: names the nearest.
    """
    name = model.partition(".")[0]
    if timm.is_model(name):
        return
    hint = did_you_mean(name, timm.list_models())
    raise ValueError(
        f"model: timm {timm.__version__} has no network '{model}'.{hint} To see them all: "
        "python -c \"import timm; print(*timm.list_models('*csp*'))\""
    )


def _create(timm: ModuleType, model: str, options: dict[str, Any]) -> Any:
    """The network as a feature extractor, an nn.Module with timm's `feature_info` and `pretrained_cfg`.

    Raises:
        ValueError: it cannot be one, or does not know the options.
    """
    try:
        with torch.device("cpu"):  # older releases read numbers out of tensors, which the device 'meta' has not
            network = timm.create_model(model, features_only=True, pretrained=False, **options)
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, LookupError) as error:
        given = f" with options {options}" if options else ""
        raise ValueError(
            f"timm's '{model}' cannot be made a feature extractor{given} ({_reason(error)}); choose a convolutional "
            "network, for example cspresnext50, cspdarknet53 or mobilenetv3_large_100"
        ) from None
    if not hasattr(network, "feature_info") or not hasattr(network, "pretrained_cfg"):
        raise ValueError(f"timm's '{model}' does not say which maps it gives; choose another network")
    # Not get_default_device(): in PyTorch 2.6 and 2.7 it does not see `with torch.device("meta")`.
    return network.to(torch.empty(0).device)


def _select(network: Any, model: str, strides: list[int] | None) -> tuple[list[int], list[int]]:
    """timm's indices of all maps of the network, and the positions in that list of the maps to take.

    Of several maps of one stride the deepest is taken.
    """
    reductions = network.feature_info.reduction()
    deepest = {stride: index for index, stride in enumerate(reductions)}
    wanted = sorted(deepest)[-3:] if strides is None else strides
    if not wanted or wanted != sorted(set(wanted)) or not set(wanted) <= set(deepest):
        raise ValueError(f"strides {strides}: expected some of {sorted(deepest)}, ascending: those that '{model}' has")
    return list(network.feature_info.out_indices), [deepest[stride] for stride in wanted]


def _with_own_weights(timm: ModuleType, model: str, options: dict[str, Any]) -> Any:
    """The network with timm's weights, from its cache or the network.

    Raises:
        ValueError: there are none, or they cannot be fetched; says what to do without a network.
    """
    logger.info("Weights of timm's '%s': from its cache, or else over the network (may take minutes)", model)
    try:
        with _quiet("huggingface_hub", "timm"), _offline_without_network():
            return timm.create_model(model, features_only=True, pretrained=True, **options)
    except Exception as error:  # the libraries below raise errors of many kinds, of their own and of the system
        raise ValueError(
            f"pretrained: timm's weights for '{model}' cannot be had ({type(error).__name__}: {_reason(error)}). "
            "Offline take a file: pretrained: /path/to/file.safetensors (or .pth), which another machine saves with "
            f"torch.save(timm.create_model('{model}', pretrained=True).state_dict(), 'file.pth')"
        ) from None


@contextmanager
def _offline_without_network() -> Iterator[None]:
    """Let the hub's library look into its cache alone where its server's name is unknown; it would try for a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        if not getproxies():  # a proxy may know names that this machine does not
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Silences the warnings of these packages; what matters is raised."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _fill_(network: nn.Module, path: Path, model: str) -> None:
    """Copy weights from a file into the network, all of them.

    Raises:
        ValueError: no such file, an unsafe one, or one that lacks tensors of the network.
    """
    weights = {_plain_name(name): value for name, value in load_foreign(path).items()}
    own = network.state_dict()
    missing = [
        name
        for name, tensor in own.items()
        if not name.endswith("num_batches_tracked")
        and (_plain_name(name) not in weights or weights[_plain_name(name)].shape != tensor.shape)
    ]
    if missing:
        raise ValueError(
            f"pretrained: {path} does not fit timm's '{model}': {len(missing)} of its {len(own)} tensors are not in "
            f"the file or have another shape there ({listed(missing[:4])}{', ...' if len(missing) > 4 else ''}); "
            "expected the state_dict of that network"
        )
    network.load_state_dict({name: weights[_plain_name(name)] for name in own if _plain_name(name) in weights})
    rest = len(weights) - sum(_plain_name(name) in weights for name in own)
    logger.info("Backbone: all %d tensors of timm's '%s' loaded from %s; %d more there", len(own), model, path, rest)


def _plain_name(name: str) -> str:
    """A tensor's name without timm's separators, which differ between a network and its feature extractor."""
    return name.removeprefix("model.").removeprefix("body.").replace(".", "_")


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
