"""Command: describe a checkpoint, and convert its weights to safetensors.

python -m utils.info runs/train/exp/weights/best.pt
python -m utils.info best.pt --safetensors best.safetensors     # the averaged weights, in a file that is pure data
"""

from __future__ import annotations

from utils.program import quiet_imports, quiet_start, run_program

if __name__ == "__main__":
    quiet_start()

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.arguments import Parser
from utils.config import ConfigError
from utils.log import say, say_error
from utils.metrics.figures import figure_text
from utils.run import check_there
from utils.thresholds import Thresholds

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"

_STATISTICS = re.compile(r"(.*\.)?(running_mean|running_var|num_batches_tracked|anchors_\d+|mean|std)")
"""Names of tensors that no gradient changes."""

_TOLD = (
    *("category_ids", "epoch", "batch", "step", "best", "best_epoch", "is_best", "metrics", "recipe"),
    *("data", "fingerprint", "seed", "versions", "thresholds", "temperature"),
)
"""Keys of a checkpoint that are copied as they are."""


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
        "kind": "weights" if path.suffix.lower() == SUFFIX else "checkpoint",
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
        "kind": {"weights": "averaged weights (safetensors)", "checkpoint": "checkpoint of train.py"}[about["kind"]],
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
    here = " (this file)" if about["is_best"] else ""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0, or 2 for a wrong command line or file."""
    parser = Parser(prog="python -m utils.info", description="Say what a checkpoint is.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=Path, help="last.pt, best.pt or a .safetensors file")
    parser.add_argument("--json", action="store_true", help="everything, as one JSON object")
    parser.add_argument("--safetensors", metavar="OUT", type=Path, help="write the averaged weights to OUT.safetensors")
    args = parser.parse_args(argv)
    try:
        check_there(args.checkpoint)
        with quiet_imports():
            from utils.weights import load_saved_model

        state = load_saved_model(args.checkpoint)
        about = as_dict(args.checkpoint, state)
        if args.safetensors:
            about["written"] = str(write_beside(args.checkpoint, state, args.safetensors))
    except (ConfigError, OSError) as error:
        say_error(error)
        return 2
    say(json.dumps(about, indent=2, ensure_ascii=False) if args.json else as_text(about))
    if args.safetensors and not args.json:
        say(f"Wrote {about['written']} ({Path(about['written']).stat().st_size / 1e6:,.1f} MB)")
    return 0


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
    from utils.weights import write_safetensors

    write_safetensors(out, state)
    return out


if __name__ == "__main__":
    run_program(main)
