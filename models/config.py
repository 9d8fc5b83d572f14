"""ModelConfig: a checked cfg/<model>.yaml."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from utils.choices import Resize
from utils.config import ROOT, ConfigError, apply_overrides, find_file, from_home, load_yaml, unknown_key
from utils.program import quiet_imports
from utils.schema import height_and_width, to_dataclass
from utils.text import shown

FIGURES = ("params", "bflops", "AP", "AP50", "AP75", "APs", "APm", "APl", "top1", "top5", "fps")
"""What `published` may report: millions of weights, billions of operations, percent, frames a second on `device`."""


COUNTED = ("weights", "params", "floats")
"""What published `params` count: weights of convolutions (the default), trainable parameters, or all numbers."""


@dataclass(frozen=True)
class ModelConfig:
    """What inference needs to know of a model.

    Args:
        backbone, neck, head: each a mapping with `type`; the other keys are that type's keyword arguments. `neck: null`
            joins head and backbone directly.
        image_size: side or [height, width] of the network input in pixels; read it as `size`.
        resize: how images get that size: 'letterbox' keeps the aspect ratio, 'stretch' does not (darknet's default),
            'crop' keeps it and cuts off the rest (the default of classifiers), 'corner' is a letterbox with the image
            in the top left corner (YOLOX).
        nms, beta_nms: kind of non-maximum suppression, as in `postprocess`. A head with one-to-one branches needs none:
            its file has 'none' unless it says otherwise.
        norm_eps: what batch normalisation adds to variances; null leaves it at 1e-5, or a timm network's own.
        published: figures reported by others (`FIGURES`), one mapping per `image_size`, shown beside ours;
            `unverified` lists the keys of an entry for which no source was found.
        name: the model's name for messages, by default that of its file.
    """

    backbone: dict[str, Any]
    head: dict[str, Any]
    neck: dict[str, Any] | None = None
    image_size: int | list[int] = 416
    resize: Resize = "letterbox"
    nms: Literal["default", "greedynms", "diounms", "vote", "none"] = "default"
    beta_nms: float = 0.6
    norm_eps: float | None = None
    published: list[dict[str, Any]] = field(default_factory=list)
    name: str = "model"

    def __post_init__(self) -> None:
        height_and_width(self.image_size)
        if self.norm_eps is not None and not 0 < self.norm_eps < 1:
            raise ValueError(f"norm_eps: expected a number above 0 and below 1, found {self.norm_eps}")
        for figures in self.published:
            _check_published(figures)

    @property
    def file(self) -> str:
        """The name of the model's file, for messages."""
        return f"{self.name}.cfg" if self.backbone.get("type") == "darknet_cfg" else f"{self.name}.yaml"

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network input in pixels."""
        return height_and_width(self.image_size)


def _check_published(figures: Mapping[str, Any]) -> None:
    """One entry of `published`.

    Raises:
        ValueError: no image size, an unknown key, a figure that is no number, or `unverified` names what is not there.
    """
    if not isinstance(figures.get("image_size"), int):
        raise ValueError(f"published: expected an image_size in pixels with every entry, found {shown(figures)}")
    known = ("image_size", *FIGURES, "counted", "device", "note", "unverified")
    for key, value in figures.items():
        if key not in known:
            raise ValueError(unknown_key("published", key, known))
        if key in FIGURES and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise ValueError(f"published.{key}: expected a number, found {shown(value)}")
    if figures.get("counted", "weights") not in COUNTED:
        raise ValueError(f"published.counted: expected one of {', '.join(COUNTED)}, found {shown(figures['counted'])}")
    unverified = figures.get("unverified", [])
    absent = [key for key in unverified if key not in list(figures)] if isinstance(unverified, list) else [unverified]
    if absent:
        raise ValueError(f"published.unverified: expected a list of keys of the same entry, found {shown(absent)}")


def load_model_config(name_or_path: str | Path, overrides: Sequence[str] = ()) -> ModelConfig:
    """A model file with its `base` files merged in, or the network of a darknet cfg.

    Args:
        name_or_path: a path, or the name of a file in cfg/ or cfg/darknet/.
        overrides: `key.path=value` assignments, applied last.
    Raises:
        ConfigError: no such file, or wrong keys or values in it.
    """
    suffix = ".cfg" if str(name_or_path).lower().endswith(".cfg") else ".yaml"
    folders = [ROOT / "cfg" / "darknet"] if suffix == ".cfg" else [ROOT / "cfg"]
    path = find_file(str(name_or_path), folders, suffix=suffix, kind="model config")
    values = _load_darknet(path) if suffix == ".cfg" else _load_with_base(path, ())
    in_file = _finds_once(values)
    values = apply_overrides(values, overrides)
    head = values.get("head")
    if isinstance(head, Mapping) and head.get("type") == "classify":
        values.setdefault("resize", "crop")
    if _finds_once(values) and not in_file and not any(text.strip().startswith("nms=") for text in overrides):
        values["nms"] = "none"
    try:
        return to_dataclass(ModelConfig, {"name": path.stem, **values}, where=f"{path}: model")
    except ConfigError as error:
        if {"backbone", "head"} <= values.keys():
            raise
        hint = "a variant of another model file names that file with the key 'base'"
        raise ConfigError(*error.lines[:-1], f"{error.lines[-1]}; {hint}") from None


def model_config_from(values: Mapping[str, Any], *, where: str) -> ModelConfig:
    """A configuration from plain values, as a checkpoint or a run's config.yaml holds them."""
    return to_dataclass(ModelConfig, values, where=where)


def _load_darknet(path: Path) -> dict[str, Any]:
    """The values of a darknet cfg."""
    with quiet_imports():
        from models.darknet.cfg import model_values, read_cfg  # its network is planned with torch; YAML needs none

    try:
        return model_values(read_cfg(path))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _load_with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The mapping in `path` over the one its key `base` names (a path relative to the file, or a name in cfg/)."""
    if path.resolve() in seen:
        raise ConfigError(f"{path}: base: this file is its own base, by way of {', '.join(map(str, seen))}")
    values = load_yaml(path)
    known = [*(each.name for each in dataclasses.fields(ModelConfig)), "base"]
    unknown = [unknown_key(f"{path}: model", key, known) for key in [key for key in values if key not in known][:20]]
    if unknown:
        raise ConfigError(*unknown)
    _resolve_weights_(values.get("backbone"), path.parent)
    if _finds_once(values):  # a base's kind of suppression is for its own head
        values.setdefault("nms", "none")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: expected the name of a model file, found {shown(base)}")
    beside = path.parent / base
    folders = list(dict.fromkeys((path.parent.resolve(), ROOT / "cfg")))
    file = find_file(str(beside if os.path.isfile(beside) else base), folders, kind=f"{path}: base")
    inherited = _load_with_base(file, (*seen, path.resolve()))
    for own in ("published", "name"):  # they belong to that model, not to its variants
        inherited.pop(own, None)
    return _merge(inherited, values)


def _finds_once(values: Mapping[str, Any]) -> bool:
    """Whether these values give the head one-to-one branches, which need no suppression."""
    head = values.get("head")
    return isinstance(head, Mapping) and head.get("one_to_one") is True


def _resolve_weights_(backbone: Any, folder: Path) -> None:
    """Make the file that `backbone.pretrained` names relative to the folder of the YAML file, as all paths are."""
    name = backbone.get("pretrained") if isinstance(backbone, dict) else None
    if isinstance(name, str):
        backbone["pretrained"] = str(folder / from_home(name))


def _merge(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` over `base`, mappings key by key; a mapping that names another `type` replaces the base's whole."""
    merged = dict(base)
    for key, value in values.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            same_type = value.get("type", old.get("type")) == old.get("type")
            value = _merge(old, value) if same_type else value
        merged[key] = value
    return merged
