"""train.py with a fault in one process, which test_ddp_faults.py starts with torchrun.

torchrun ... tests/ddp_faulty.py '{"phase": "step", "kind": "raise", "ranks": [1], "marks": "FOLDER"}' TRAIN_ARGUMENTS
Phases: scan, step, evaluation, count (rank 0 counts while the others wait), save. Kinds: raise (an error for the user),
bug (another error), kill (SIGKILL), slow (takes `seconds`). "timeout" is that of collectives, in seconds. A file in
FOLDER, for each rank, gets the time of the fault, which happens once, however often torchrun starts again.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train
from engine import failure, job, loop
from tests.ddp_worker import without_pictures
from utils import dist
from utils.metrics.detection import DetectionMetric
from utils.torchrun import launched_rank


def main() -> int:
    fault, arguments = json.loads(sys.argv[1]), sys.argv[2:]
    without_pictures()
    dist.COLLECTIVE_TIMEOUT = timedelta(seconds=fault.get("timeout", 60))
    place, name = {
        "scan": (job, "read_shared"),
        "step": (failure, "train_step"),
        "evaluation": (DetectionMetric, "update"),
        "count": (DetectionMetric, "compute"),
        "save": (loop, "save_checkpoint"),
    }[fault["phase"]]
    setattr(place, name, spoiled(getattr(place, name), fault))
    return train.main(arguments)


def spoiled(function: Callable, fault: dict[str, Any]) -> Callable:
    """The function, with a fault at its n-th call in one process; the first time only."""
    mark, calls = Path(fault["marks"]), 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        mine = mark / str(launched_rank())
        if calls == fault.get("call", 1) and launched_rank() in fault["ranks"] and not mine.exists():
            mine.write_text(repr(time.time()))
            strike(fault)
        return function(*arguments, **options)

    return call


def strike(fault: dict[str, Any]) -> None:
    """What happens."""
    kind = fault["kind"]
    if kind == "raise":
        raise ValueError(fault.get("text", "shared disk is gone; mount it again").format(rank=launched_rank()))
    if kind == "bug":
        raise KeyError("an error of the program")
    if kind == "slow":
        time.sleep(fault["seconds"])
    else:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
