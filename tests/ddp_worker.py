"""What test_ddp.py starts with torchrun: several trainings in one process group.

torchrun --nproc_per_node 2 tests/ddp_worker.py RESULT.json RUNS.json
RUNS.json is a list of {"arguments": [...], "fault": null | "stop" | "nan", "step": k}; RESULT.json gets the exit status
of each run on each rank.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train
from utils import dist
from utils.training import step as step_module


def main() -> None:
    result, runs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    for name in ("plot_batch", "plot_labels", "plot_results", "plot_pr_curves", "plot_predictions"):
        setattr(train.plots, name, lambda *_, **__: None)
    device, codes = torch.device("cpu"), []
    with dist.process_group(device):
        group, dist.process_group = dist.process_group, lambda _: contextlib.nullcontext()
        for run in runs:
            with fault(run.get("fault"), run.get("step", 0)):
                codes.append(dist.gather(train.main(run["arguments"])))
        dist.process_group = group
        if dist.rank() == 0:
            result.write_text(json.dumps(codes))


@contextlib.contextmanager
def fault(kind: str | None, step: int):
    """On rank 1 alone: SIGTERM after `step` steps, or a loss that is not a number after them."""
    real_step, real_terms = train.train_step, step_module.loss_terms
    done = 0

    def interrupted(*arguments):
        nonlocal done
        terms = real_step(*arguments)
        done += 1
        if kind == "stop" and done == step and dist.rank() == 1:
            signal.raise_signal(signal.SIGTERM)
        return terms

    def spoiled(*arguments):
        terms = real_terms(*arguments)
        if kind == "nan" and done == step and dist.rank() == 1:
            terms["box"] = terms["box"] * float("nan")
        return terms

    train.train_step, step_module.loss_terms = interrupted, spoiled
    try:
        yield
    finally:
        train.train_step, step_module.loss_terms = real_step, real_terms


if __name__ == "__main__":
    main()
