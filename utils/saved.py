"""What the files of a trained model say: every key that one may have is checked where it is opened, and only there."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from utils.choices import NMS_KINDS, RESIZES
from utils.config import ConfigError
from utils.text import shown
from utils.thresholds import CHECKS as OF_SCORES

if TYPE_CHECKING:
    from torch import Tensor

MOST_VALUES = 300_000
"""Of lists and mappings in a file; the checkpoint of a large network has some 10,000."""
MOST_CLASSES = 100_000
_DEEPEST = 50
LOWEST_VARIANCE = -1e-12
"""Good files hold variances like -7e-44, which flushing to zero leaves behind; what is further below 0 is none."""
_CHANGED = "the file was changed, or was not written by train.py"
_REPLAY = (
    *("config", "names", "category_ids", "task", "class_counts"),
    *("state", "batches", "total_steps", "rank", "failure"),
)
"""Keys that every replay file has."""
_LONGEST = 1_000
"""Characters of a class or a model's name."""
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_WHOLE = ("bool", "uint8", "int8", "int16", "int32", "int64")


def wrong_value(values: Mapping[str, Any]) -> str | None:
    """What is wrong with the first key that has a wrong value, 'names: expected ..., found ...'; None if all are right.

    Keys that are not there are not missed, and keys that nobody knows are not looked at.

    >>> wrong_value({"names": ["cat", "dog"], "image_size": [416, 416]})
    >>> wrong_value({"image_size": 1})
    'image_size: expected height and width, whole numbers from 1 to 65536, found 1'
    """
    for key, (test, expected) in _CHECKS.items():
        if key in values and not test(values[key]):
            return f"{key}: expected {expected}, found {shown(values[key])}"
    return None


def check_pairs(names: tuple[str, ...], category_ids: tuple[int, ...], *, where: str) -> None:
    """Refuse class names and ids that do not belong together.

    Raises:
        ConfigError: another number of them, or an id twice.
    """
    if len(names) != len(category_ids) or len(set(category_ids)) != len(category_ids):
        raise ConfigError(
            f"{where}: category_ids: expected a different one for each of the {len(names)} names, "
            f"found {shown(list(category_ids))}"
        )


def check_state(state: Mapping[str, Any], *, where: str) -> None:
    """Refuse a checkpoint that holds something else than it should.

    Raises:
        ConfigError: names the key, or the layer whose numbers are NaN or infinite.
    """
    _check_values(state, where)
    for key in ("weights", "ema"):
        check_weights(state.get(key, {}), where=where)


def check_replay(content: Mapping[str, Any], *, where: str) -> None:
    """Refuse a replay file that lacks something, or holds something else than it should; its weights may be NaN.

    Raises:
        ConfigError: names the key.
    """
    missing = [key for key in _REPLAY if key not in content]
    if missing:
        raise ConfigError(f"{where}: {missing[0]}: this key is missing; {_CHANGED}")
    _check_values(content, where)
    _check_values(content["state"], f"{where}: state")
    for key in ("weights", "ema"):
        check_weights(content["state"].get(key, {}), where=f"{where}: state: {key}", finite=False)
    check_pairs(tuple(content["names"]), tuple(content["category_ids"]), where=where)
    if len(content["class_counts"]) != len(content["names"]):
        raise ConfigError(f"{where}: class_counts: expected a number for each of the {len(content['names'])} names")
    for batch in content["batches"]:
        labels = batch["targets"]["labels"]
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < len(content["names"]):
            raise ConfigError(f"{where}: batches: a label is none of the {len(content['names'])} classes; {_CHANGED}")


def _check_values(values: Mapping[str, Any], where: str) -> None:
    for value in _walk(values, where):
        if _is_tensor(value) and not _is_plain_tensor(value):
            raise ConfigError(f"{where}: expected plain tensors, found one of another kind, {_described(value)}")
    wrong = wrong_value(values)
    if wrong is not None:
        raise ConfigError(f"{where}: {wrong}; {_CHANGED}")


def check_weights(weights: Mapping[str, Tensor], *, where: str, finite: bool = True) -> None:
    """Refuse weights that no training should start from and no picture should meet.

    Args:
        finite: look at the numbers too.
    Raises:
        ConfigError: names the layer: no plain tensor of numbers; NaN or infinity, or a variance below 0.
    """
    for name, value in weights.items():
        if not _is_plain_tensor(value) or _type_of(value) not in (*_FLOATS, *_WHOLE):
            raise ConfigError(f"{where}: {shown(name)}: expected a plain tensor of numbers, found {_described(value)}")
        if not finite or _type_of(value) not in _FLOATS or value.numel() == 0:
            continue
        broken = value.numel() - int(value.isfinite().sum())
        if broken:
            raise ConfigError(
                f"{where}: {shown(name)}: {broken:,} of its {value.numel():,} numbers are NaN or infinite; the "
                "file is damaged, or its training had failed"
            )
        if name.endswith("running_var") and float(value.min()) < LOWEST_VARIANCE:
            raise ConfigError(f"{where}: {shown(name)}: expected variances from 0 on, found {float(value.min()):g}")


def _is_tensor(value: object) -> TypeGuard[Tensor]:
    """Whether this is a tensor, which nothing can be before torch is imported: exported files are opened without it."""
    return isinstance(value, getattr(sys.modules.get("torch"), "Tensor", ()))


def _type_of(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _is_plain_tensor(value: object) -> bool:
    """Whether this is a dense tensor on the CPU with as many numbers in memory as its shape says."""
    torch = sys.modules.get("torch")
    if torch is None or type(value) not in (torch.Tensor, torch.nn.Parameter) or not _is_tensor(value):
        return False
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _described(value: object) -> str:
    if not _is_tensor(value):
        return shown(value)
    shape = " x ".join(map(str, value.shape))
    return f"{_type_of(value)} {value.layout} of {shape or 'no'} numbers on {value.device.type}"


def _walk(value: Any, where: str) -> Iterator[Any]:
    """Every value in a nest of mappings and lists.

    Raises:
        ConfigError: too many, or too deep; a file of a kilobyte can hold what takes years to print.
    """
    left, rest = MOST_VALUES, [(value, 0)]
    while rest:
        current, depth = rest.pop()
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise ConfigError(f"{where}: expected at most {MOST_VALUES:,} values, {_DEEPEST} deep, found more")
        yield current
        if isinstance(current, Mapping):
            rest.extend((item, depth + 1) for pair in current.items() for item in pair)
        elif isinstance(current, list | tuple):
            rest.extend((item, depth + 1) for item in current)


def _is_plain(value: Any, depth: int = 0) -> bool:
    """Whether this is made of what JSON has, with texts as keys."""
    if depth > _DEEPEST:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(item, depth + 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(item, depth + 1) for item in value)
    return value is None or isinstance(value, bool | float | str) or _is_whole(value)


def _is_whole(value: object, low: int = -(2**63), high: int = 2**63 - 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: object, *, infinite: bool = False) -> bool:
    if isinstance(value, float):
        return math.isfinite(value) or (infinite and not math.isnan(value))
    return _is_whole(value)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST


def _are_names(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) <= MOST_CLASSES and all(map(_is_name, value))


def _are_ids(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) <= MOST_CLASSES and all(map(_is_whole, value))


def _is_size(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(_is_whole(side, 1, 65536) for side in value)


def _is_count(value: object) -> bool:
    return _is_whole(value, 0)


def _is_group(value: object) -> bool:
    return isinstance(value, Mapping) and _is_plain(value)


def _is_optional_group(value: object) -> bool:
    return value is None or _is_group(value)


def _is_model(value: object) -> bool:
    if not isinstance(value, Mapping) or not _is_plain(value) or not _is_name(value.get("name", "model")):
        return False
    parts = (value.get(part) for part in ("backbone", "neck", "head"))
    return all(part is None or isinstance(part, Mapping) for part in parts)


def _is_recipe(value: object) -> bool:
    if not _is_optional_group(value):
        return False
    groups = (value.get(key) for key in ("optimizer", "schedule")) if isinstance(value, Mapping) else ()
    return all(group is None or isinstance(group, Mapping) for group in groups)


def _are_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and _is_tensor(item) for name, item in value.items()
    )


def _are_sums(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(item, int | float) for key, item in value.items()
    )


def _is_optimizer(value: object) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("state"), Mapping):
        return False
    groups = value.get("param_groups")
    return isinstance(groups, list) and len(groups) > 0 and all(isinstance(group, Mapping) for group in groups)


def _is_random_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and "cpu" in value
        and all(_is_tensor(state) and _type_of(state) == "uint8" for state in value.values())
    )


def _is_failure(value: object) -> bool:
    if not isinstance(value, Mapping) or not _is_whole(value.get("step"), 0) or not _are_sums(value.get("terms")):
        return False
    return isinstance(value.get("what"), str) and isinstance(value.get("message"), str)


def _are_batches(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_batch, value))


def _is_batch(value: object) -> bool:
    """Whether this is a batch of a training as plain values: (B, 3, H, W) images, B ids and paths, and targets."""
    if not isinstance(value, Mapping) or not isinstance(value.get("targets"), Mapping):
        return False
    images, ids, paths = value.get("images"), value.get("image_ids"), value.get("paths")
    if not _is_tensor(images) or images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        return False
    if not isinstance(ids, list | tuple) or not all(map(_is_whole, ids)):
        return False
    if not isinstance(paths, list | tuple) or not all(isinstance(path, str) for path in paths):
        return False
    targets = {key: value["targets"].get(key) for key in ("boxes", "labels", "image_index", "crowd")}
    extra = value["targets"].keys() - targets.keys()
    if not len(images) == len(ids) == len(paths) or not extra <= {"weights"}:
        return False
    weights = value["targets"].get("weights")
    columns = [*targets.values(), *([] if weights is None else [weights])]
    if not all(map(_is_tensor, columns)):
        return False
    boxes, _, index, _, *_ = columns
    if boxes.ndim != 2 or boxes.shape[1] != 4 or any(column.shape != boxes.shape[:1] for column in columns[1:]):
        return False
    return not len(index) or 0 <= int(index.min()) <= int(index.max()) < len(images)


def _one_of(*words: str) -> tuple[Callable[[object], bool], str]:
    return lambda value: isinstance(value, str) and value in words, f"one of {', '.join(words)}"


_WEIGHTS = (_are_tensors, "tensors by the names of the model's layers")
_GROUP = (_is_optional_group, "a mapping of plain values")
_COUNT = (_is_count, "a whole number from 0 on")
_FLAG = (lambda value: isinstance(value, bool), "true or false")

_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (_is_model, "a mapping of plain values with the mappings backbone, neck and head"),
    "names": (_are_names, f"a list of texts, at most {MOST_CLASSES:,}"),
    "category_ids": (_are_ids, f"a list of whole numbers, at most {MOST_CLASSES:,}"),
    "image_size": (_is_size, "height and width, whole numbers from 1 to 65536"),
    "resize": _one_of(*RESIZES),
    "stride": (lambda value: _is_whole(value, 1, 65536), "a whole number from 1 to 65536"),
    "nms": _one_of(*NMS_KINDS),
    "beta_nms": (_is_number, "a number"),
    **dict.fromkeys(("named", "clip", "is_best", "told_apart"), _FLAG),
    "task": _one_of("detect", "classify"),
    "precision": (_is_name, "a text"),
    "data": (lambda value: value is None or isinstance(value, str), "a text"),
    "ema": _WEIGHTS,
    "weights": _WEIGHTS,
    "optimizer": (_is_optimizer, "the mappings of an optimizer, state and param_groups"),
    "scaler": (lambda value: isinstance(value, Mapping), "a mapping"),
    "rng": (_is_random_state, "the states of random number generators"),
    **dict.fromkeys(("ema_updates", "step", "epoch", "batch"), _COUNT),
    "best": (lambda value: value is None or _is_number(value, infinite=True), "a number"),
    "best_epoch": _COUNT,
    "start_figure": (lambda value: value is None or _is_number(value), "a number, or null"),
    "verdict": _GROUP,
    "sample_order": _COUNT,
    **dict.fromkeys(("sums", "row"), (_are_sums, "a mapping of numbers")),
    **dict.fromkeys(("metrics", "fingerprint", "versions", "began_with"), _GROUP),
    "recipe": (_is_recipe, "a mapping of plain values"),
    "config": (_is_group, "a mapping of plain values"),
    "class_counts": (lambda value: _are_ids(value) and all(map(_is_count, value)), "a list of whole numbers from 0 on"),
    "state": (lambda value: isinstance(value, Mapping), "a mapping, the state of a training"),
    "batches": (_are_batches, "batches of a training: images, targets, image_ids and paths that fit together"),
    "total_steps": (lambda value: _is_whole(value, 1), "a whole number from 1 on"),
    "rank": _COUNT,
    "failure": (_is_failure, "a mapping with what, step, terms and message"),
    "seed": (lambda value: value is None or _is_whole(value), "a whole number"),
    **OF_SCORES,
}
"""Key -> whether a value is right, and what is expected of it."""
