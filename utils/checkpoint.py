"""Checkpoints: plain tensors and plain values in one file, with the one before kept beside it.

Also what a checkpoint is made of: nests of dicts, lists, tensors and plain values, made plain, copied and compared.
"""

from __future__ import annotations

import logging
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.config import ConfigError
from utils.files import link, remove_temporaries, sync_folder, write_atomically
from utils.pickles import imported_names
from utils.saved import check_state
from utils.text import first_line, listed, shown

logger = logging.getLogger(__name__)

FORMAT = "cspdet-1"
_RUN_FILES = (
    *("config.yaml", "results.csv", "metrics.json", "predictions.json", "ground_truth.json"),
    *("thumbnails.zip", "report.html"),
)
"""Of a run's folder, which a killed run may have left half written."""
TRAINING = ("weights", "ema_updates", "optimizer", "scaler", "rng", "sums", "sample_order", "files")
"""What a checkpoint holds only for a training to go on from it."""


class ForeignFile(ConfigError):
    """A file of another program."""


def save_checkpoint(path: Path, state: dict[str, Any], *, best: Path | None = None) -> None:
    """Write a checkpoint and keep the one before as `previous_of(path)`; at every instant one of them is whole.

    It is written to a temporary file and flushed, then `path` gets a second name, then the new file takes its place.

    Args:
        state: tensors, and values as JSON has them; NumPy's numbers become Python's.
        best: where the best checkpoint is kept, if this is the best so far; it becomes the same file.
    Raises:
        DiskFull: says how much is needed; what was at `path` stays.
        OSError: the folder cannot be written; what was at `path` stays.
    """
    remove_temporaries(path.parent, _names(path, best))
    state = plain({"format": FORMAT, **state, "is_best": best is not None}, "state")
    write_atomically(
        path,
        lambda file: torch.save(state, file),
        needed=size_in_bytes(state),
        previous=previous_of(path) if zipfile.is_zipfile(path) else None,  # one that is cut off is worth less
    )
    if best is not None:
        replace_with_link(best, path)


def add_to_checkpoint(path: Path, values: dict[str, Any]) -> None:
    """Give a checkpoint more plain values, in place of those of the same names; it is whole at every instant.

    Raises:
        ConfigError: there is no whole checkpoint.
        OSError: it cannot be written; what was there stays.
    """
    state = plain({**load_checkpoint(path), **values}, path.name)
    write_atomically(path, lambda file: torch.save(state, file), needed=size_in_bytes(state))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, on the CPU; nothing in the file can run code.

    Raises:
        ForeignFile: a file of another program, with what to do.
        ConfigError: no such file, a damaged one, or one with values that train.py does not write; names a whole one
            beside it.
    """
    if not path.is_file():
        remedy = offer(path) or "train one with 'python train.py', or check the path"
        raise ConfigError(f"{path}: no such checkpoint; {remedy}")
    try:
        return _read(path)
    except ForeignFile as error:
        start = "start a training from it with train.py --weights, or name a checkpoint that train.py wrote"
        raise ForeignFile(f"{error}; {offer(path) or start}") from None
    except ConfigError as error:
        fallback = "use another checkpoint of the run (last.pt, last.prev.pt, best.pt)"
        raise ConfigError(f"{error}; {offer(path) or fallback}") from None


def repair_(last: Path, best: Path) -> None:
    """Repair a run's checkpoints after a kill or a power cut, and log each repair.

    Call it in one process, before the run continues. Temporary files are removed, a missing `last` is restored from the
    one before it, and `best` becomes `last` if `last` says that it is the best.
    """
    for path in (
        *remove_temporaries(last.parent, _names(last, best)),
        *remove_temporaries(last.parent.parent, _RUN_FILES),
    ):
        logger.info("Removed %s, which a run that was killed left behind", path)
    previous = previous_of(last)
    if not last.exists() and previous.is_file():
        replace_with_link(last, previous)
        logger.info("%s is missing: going on from the one before it, %s", last, previous.name)
    newest = _about(last)
    if newest is not None and newest.get("is_best"):
        kept = _about(best)
        if kept is None or kept.get("step") != newest.get("step"):
            replace_with_link(best, last)
            logger.info("%s is the best so far: %s made of it", last.name, best.name)


def previous_of(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept: last.prev.pt for last.pt."""
    return path.with_name(f"{path.stem}.prev{path.suffix}")


def replace_with_link(path: Path, source: Path) -> None:
    """Make `path` the same file as `source`, in one step: a hard link, or a copy on a disk without hard links."""
    try:
        link(path, source)
    except OSError:
        with open(source, "rb") as file:
            size = source.stat().st_size
            write_atomically(path, lambda copy: shutil.copyfileobj(file, copy), needed=size)
    sync_folder(path.parent)


def offer(path: Path) -> str:
    """A hint at an intact checkpoint beside a bad one at `path`; empty if there is none."""
    beside = [previous_of(path), *(path.with_name(name) for name in ("last.pt", "last.prev.pt", "best.pt"))]
    for other in dict.fromkeys(beside):
        if other == path or not other.is_file():
            continue
        try:
            state = _read(other)
        except ConfigError:
            continue
        when = f", after epoch {state['epoch']} and step {state['step']}" if {"epoch", "step"} <= state.keys() else ""
        if "weights" not in state:
            return f"{other} is whole{when}, for inference alone: name it in place of this file"
        return f"{other} is whole{when}: go on from it with --resume {other}, or name it in place of this file"
    return ""


def goes_on(path: Path) -> bool | None:
    """Whether a training can go on from a checkpoint, by its keys; None where there is no whole one."""
    state = _mapped(path)
    return None if state is None else "weights" in state


def read_torch_file(path: Path) -> Any:
    """Content of a file of torch.save, tensors and plain values only, on the CPU; its checksums are verified.

    Raises:
        pickle.UnpicklingError: it would have to run code of the file.
        ConfigError: cut off, damaged, or of another kind.
    """
    try:
        _check_sums(path)
        with warnings.catch_warnings():  # of files of other kinds; the errors below say it
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can end in any exception, as the documentation of pickle says
        if isinstance(error, pickle.UnpicklingError) and imported_names(path):
            raise
        size = path.stat().st_size
        refused = isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error)  # with torch's own advice
        reason = "nothing that torch.save wrote" if refused else first_line(error)
        raise ConfigError(
            f"{path}: cannot be read as a checkpoint ({size:,} bytes; {reason}): "
            "the file is cut off, damaged or of another kind"
        ) from None


def load_matching_(model: nn.Module, weights: dict[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Copy the tensors of `weights` (name -> tensor) whose name and shape agree with the model's.

    Returns:
        Names of those loaded, of those left out for another shape, and of the model's own that `weights` lacks.
    """
    own = model.state_dict()
    loaded = [name for name, value in weights.items() if name in own and own[name].shape == value.shape]
    other_shape = [name for name, value in weights.items() if name in own and own[name].shape != value.shape]
    model.load_state_dict({name: weights[name] for name in loaded}, strict=False)
    absent = [name for name in own if name not in weights]
    return loaded, other_shape, absent


def plain(value: Any, where: str) -> Any:
    """`value` with NumPy scalars replaced by Python numbers, since NumPy's could not be loaded; itself if it has none.

    Args:
        where: what the value is, for the message.
    Raises:
        TypeError: something else than tensors, texts, numbers, None, and dicts, lists and tuples of them.
    """
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str | Tensor):
        return value
    if isinstance(value, dict):
        new = {key: plain(item, f"{where}.{key}") for key, item in value.items()}
        return value if all(new[key] is item for key, item in value.items()) else new
    if isinstance(value, list | tuple):
        items = [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(items)
    raise TypeError(f"{where}: expected a tensor or a plain value, found {type(value).__name__}")


def copied(value: Any) -> Any:
    """A copy of a nest of dicts, lists, tensors and plain values; its tensors are detached and on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def same_values(one: Any, two: Any) -> bool:
    """Whether two nests of dicts, lists, tensors and plain values are equal to the last bit; devices may differ."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        one, two = one.cpu().contiguous(), two.cpu().contiguous()
        return one.dtype == two.dtype and one.shape == two.shape and bytes(_raw(one)) == bytes(_raw(two))
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(same_values(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(same_values, one, two))
    return one == two


def size_in_bytes(value: Any) -> int:
    """Approximate size of a file that holds `value`, in bytes: each tensor storage once, and a little for the rest."""
    pieces: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            pieces[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            for item in value.values():
                visit(item)
        elif isinstance(value, list | tuple):
            for item in value:
                visit(item)

    visit(value)
    return sum(pieces.values()) + 100_000


def _read(path: Path) -> dict[str, Any]:
    try:
        state = read_torch_file(path)
    except pickle.UnpicklingError:
        named = listed(imported_names(path), 120)
        raise ForeignFile(f"{path}: not a checkpoint of CSPDet: loading it would run code ({named})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        name = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise ForeignFile(f"{path}: expected a checkpoint with format '{FORMAT}', found {shown(name)}")
    check_state(state, where=str(path))
    return state


def _check_sums(path: Path) -> None:
    """Verify what torch itself does not look at: the checksums, and that a file unpacks to no more than it is."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise ValueError("its parts are compressed, and torch compresses none")
            if sum(part.file_size for part in parts) > path.stat().st_size:
                raise ValueError("its parts are larger than the file")
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"wrong check sum of {damaged}")


def _about(path: Path) -> dict[str, Any] | None:
    """The plain numbers of a checkpoint, without reading its tensors; None where there is no whole one.

    No tensor stays: the file would stay open with it, and Windows replaces no open file.
    """
    state = _mapped(path)
    return state and {key: value for key, value in state.items() if isinstance(value, int | float | str)}


def _mapped(path: Path) -> dict[str, Any] | None:
    """A checkpoint whose tensors are not read; None where there is no whole one. It is open as long as a tensor is."""
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception:  # any, as above; whoever needs the file gets the reason
        return None
    return state if isinstance(state, dict) and state.get("format") == FORMAT else None


def _names(last: Path, best: Path | None) -> tuple[str, ...]:
    return (last.name, previous_of(last).name, *([best.name] if best is not None else []))


def _raw(value: Tensor) -> memoryview:
    return value.reshape(-1).view(torch.uint8).numpy().data if value.numel() else memoryview(b"")
