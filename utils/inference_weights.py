"""best.pt at the end of a training: what inference needs, without what only going on with the training does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from utils.checkpoint import TRAINING, goes_on, load_checkpoint, plain, size_in_bytes
from utils.config import ConfigError
from utils.files import write_atomically

logger = logging.getLogger(__name__)


def keep_inference_(best: Path, **values: Any) -> None:
    """Leave in a checkpoint the averaged weights and what describes the model; what --resume needs stays in last.pt.

    The file is whole at every instant, before and after; last.pt, which may have been the same file, is not touched.
    Where it cannot be written, the larger one stays, which serves as well, and that is told.

    Args:
        values: plain values that the file gets too, in place of those of the same name.
    Raises:
        ConfigError: there is no whole checkpoint.
        TypeError: no plain value.
    """
    state = load_checkpoint(best)
    kept = plain({key: value for key, value in state.items() if key not in TRAINING} | values, best.name)
    if kept.keys() == state.keys() and all(kept[key] == state[key] for key in values):
        return
    try:
        write_atomically(best, lambda file: torch.save(kept, file), needed=size_in_bytes(kept))
    except OSError as error:
        logger.warning("%s keeps what --resume needs too, because it could not be written anew: %s", best, error)


def check_goes_on(start: Path, last: Path) -> None:
    """Refuse to resume from a file that holds what inference needs alone.

    Args:
        start: what --resume named.
        last: the newest checkpoint of its run.
    Raises:
        ConfigError: names `last`, or where that is gone a new training.
    """
    if not start.is_file() or goes_on(start) is not False:
        return  # one that is missing or damaged is refused where it is read
    if last != start and goes_on(last):
        remedy = f"what resuming needs is in {last}: --resume {last}"
    else:
        remedy = f"there is no whole {last} to go on from; start a new run from its weights: --weights {start}"
    raise ConfigError(f"--resume {start}: the training has ended, and this holds what inference needs alone; {remedy}")
