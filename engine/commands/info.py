"""What `python -m utils.info` does: say what a file is that train.py or export.py wrote, without running any of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.commands.info_exports import EXPORTS, about_export, suffix_of
from engine.replay import is_replay, load_replay
from utils.checkpoint import ForeignFile
from utils.config import ConfigError, to_plain
from utils.log import say
from utils.metrics.figures import figure_text
from utils.text import listed
from utils.thresholds import Thresholds
from utils.weights import SUFFIX, load_saved_model, write_safetensors

if TYPE_CHECKING:
    from torch import Tensor

_STATISTICS = re.compile(r"(.*\.)?(running_mean|running_var|num_batches_tracked|anchors_\d+|mean|std)")
"""Names of tensors that no gradient changes."""

KINDS = {
    "weights": "averaged weights (safetensors)",
    "checkpoint": "checkpoint of train.py, with what --resume needs",
    "inference checkpoint": "checkpoint of train.py for inference; what --resume needs is in last.pt",
}
"""Kind of a file with weights of ours -> what it is."""

_TOLD = (
    *("category_ids", "epoch", "batch", "step", "best", "best_epoch", "is_best", "metrics", "recipe"),
    *("data", "fingerprint", "seed", "versions", "thresholds", "temperature"),
)
"""Keys of a checkpoint that are copied as they are."""


def run(path: Path, *, as_json: bool = False, safetensors: Path | None = None) -> None:
    """Print what a file is.

    Args:
        safetensors: where to write its averaged weights too: a file of that suffix, or a folder.
    Raises:
        ConfigError: a file of another program, or a damaged one.
        OSError: it cannot be read, or the weights cannot be written.
    """
    if suffix_of(path) in EXPORTS:
        if safetensors:
            raise ConfigError(f"--safetensors {safetensors}: is for the weights of a checkpoint, and {path} is none")
        about, text = about_export(path)
    else:
        about, text = _about_saved(path, safetensors)
    say(json.dumps(about, indent=2, ensure_ascii=False) if as_json else text)
    if safetensors and not as_json:
        say(f"Wrote {about['written']} ({Path(about['written']).stat().st_size / 1e6:,.1f} MB)")


def _about_saved(path: Path, safetensors: Path | None) -> tuple[dict[str, Any], str]:
    """Of a checkpoint, its weights as safetensors, or a replay file: plain values, and the same as text."""
    try:
        state = load_saved_model(path)
    except ForeignFile:
        if safetensors or not is_replay(path):
            raise
        about = _about_replay(path)
        return about, lines_of({key: value for key, value in about.items() if key != "config"})
    about = as_dict(path, state)
    if safetensors:
        about["written"] = str(write_beside(path, state, safetensors))
    return about, as_text(about)


def _about_replay(path: Path) -> dict[str, Any]:
    saved = load_replay(path)
    config, failure = saved.config, saved.failure
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "kind": "replay of a failed step: python train.py --replay FILE",
        "model": config.model.get("name"),
        "failure": failure["message"],
        "step": failure["step"],
        "images": [name for batch in saved.batches for name in batch.paths],
        "names": list(saved.images.names),
        "config": to_plain(config),
    }


def lines_of(values: Mapping[str, Any]) -> str:
    """A line for each value that there is; of long lists the beginning."""
    texts: dict[str, object] = {}
    for key, value in values.items():
        if key == "file":
            texts[key] = f"{value}, {values['bytes'] / 1e6:,.1f} MB"
        elif key != "bytes" and value not in (None, "", []):
            long = isinstance(value, list)
            texts["classes" if key == "names" else key] = f"{len(value)}: {listed(value, 200)}" if long else value
    return "\n".join(f"{key:12} {value}" for key, value in texts.items())


def as_dict(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a checkpoint in plain values: the keys of --json.

    Args:
        state: what `load_saved_model` gave for `path`.
    """
    model, weights = state.get("model") or {}, state.get("ema") or {}
    learned = [value.numel() for name, value in weights.items() if is_parameter(name, value)]
    parts = {part: (model.get(part) or {}).get("type") for part in ("backbone", "neck", "head")}
    about = {
        "file": str(path),
        "bytes": path.stat().st_size,
        "kind": _kind(path, state),
        "model": model.get("name"),
        **parts,
        "image_size": state.get("image_size"),
        "resize": state.get("resize"),
        "parameters": sum(learned),
        "tensors": len(weights),
        "names": state.get("names"),
    }
    about |= {key: state.get(key) for key in _TOLD} | {"config": model}
    if about["best"] in (-math.inf, -1.0):  # not evaluated yet, or nothing to measure on; JSON has no infinity
        about["best"] = None
    return about


def _kind(path: Path, state: Mapping[str, Any]) -> str:
    if path.suffix.lower() == SUFFIX:
        return "weights"
    return "checkpoint" if "weights" in state else "inference checkpoint"


def is_parameter(name: str, value: Tensor) -> bool:
    """Whether a tensor of a state_dict is learned, by its name: statistics and anchors are not."""
    return value.is_floating_point() and not _STATISTICS.fullmatch(name)


def as_text(about: Mapping[str, Any]) -> str:
    """`as_dict` as text: one line per item; unknown items are left out."""
    names, versions = about["names"] or [], dict(about["versions"] or {})
    commit = versions.pop("commit", None)
    size = " x ".join(map(str, about["image_size"] or ())) + f", {about['resize']}"
    lines = {
        "file": f"{about['file']}, {about['bytes'] / 1e6:,.1f} MB",
        "kind": KINDS[about["kind"]],
        "model": f"{about['model']}: backbone {about['backbone']}, neck {about['neck']}, head {about['head']}",
        "input": size if about["image_size"] else None,
        "parameters": f"{about['parameters']:,} in {about['tensors']} tensors with statistics",
        "classes": f"{len(names)}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}",
        "threshold": Thresholds.from_plain(about["thresholds"]).told(names) if about["thresholds"] else None,
        "temperature": about["temperature"],
        "position": _position(about),
        "metrics": _pairs(about["metrics"]),
        "best": _best(about),
        "recipe": _recipe(about["recipe"]),
        "data": about["data"],
        "fingerprint": _pairs(about["fingerprint"]),
        "commit": commit,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return "\n".join(f"{name:12} {value}" for name, value in lines.items() if value)


def _position(about: Mapping[str, Any]) -> str | None:
    if about["epoch"] is None:
        return None
    inside = f" and {about['batch']} batches" if about["batch"] else ""
    return f"after epoch {about['epoch']}{inside}, step {about['step']}"


def _best(about: Mapping[str, Any]) -> str | None:
    if not about["best_epoch"] or about["best"] is None:
        return None
    here = " (this file)" if about["is_best"] and about["epoch"] == about["best_epoch"] else ""
    return f"{figure_text(about['best'], digits=4)} after epoch {about['best_epoch']}{here}"


def _pairs(values: Any) -> str | None:
    if not isinstance(values, Mapping):
        return None if values is None else str(values)
    texts = (f"{key} {value:.4f}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items())
    return ", ".join(texts)


def _recipe(recipe: Mapping[str, Any] | None) -> str | None:
    if not recipe:
        return None
    optimizer, schedule = recipe.get("optimizer") or {}, recipe.get("schedule") or {}
    return (
        f"{recipe.get('epochs')} epochs, batch {recipe.get('batch_size')}, {optimizer.get('type')} with lr "
        f"{optimizer.get('lr')}, schedule {schedule.get('type')}"
    )


def write_beside(source: Path, state: dict[str, Any], out: Path) -> Path:
    """Write the weights to `out`, which may be a folder; returns the file.

    Raises:
        ConfigError: another suffix, the checkpoint itself, or one without weights.
    """
    if out.is_dir():
        out = out / source.with_suffix(SUFFIX).name
    if out.suffix != SUFFIX:
        raise ConfigError(f"--safetensors {out}: expected a folder that exists, or a file {out.stem}{SUFFIX}")
    if out.resolve() == source.resolve():
        raise ConfigError(f"--safetensors {out}: is the file to be read; name another")
    if not state.get("ema"):
        raise ConfigError(f"{source}: holds no averaged weights to write")
    write_safetensors(out, state)
    return out
