"""What test_ddp.py starts with torchrun: several trainings in one process group.

torchrun --nproc_per_node 2 tests/ddp_worker.py RESULT.json RUNS.json
RUNS.json is a list of {"arguments": [...], "fault": null | "stop" | "nan", "step": k}, or of {"double": {...}} for
`steps_in_double`. RESULT.json gets of each run and each rank the exit status, the images of each step, and the images
that each evaluation counted.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train
from data.loader import train_loader_of, train_set_of
from data.read import read_splits
from engine import evaluate as evaluation
from engine import failure, finish, loop
from engine import step as step_module
from engine.optim import keep_frozen_statistics_
from engine.state import TrainState
from engine.step import StepClock, Stepper, train_step
from models.build import build_criterion, build_model
from models.config import load_model_config
from models.normalization import synchronize_norms_
from utils import dist, pictures, plots
from utils.config import to_plain
from utils.metrics.detection import DetectionMetric
from utils.recipe import load_recipe
from utils.train_config import TrainConfig


def main() -> None:
    result, runs = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    without_pictures()
    device, found = torch.device("cpu"), []
    torch.set_num_threads(1)
    with dist.launch(), dist.process_group(device):
        group, dist.process_group = dist.process_group, lambda _: contextlib.nullcontext()
        for run in runs:
            if "double" in run:
                found.append(dist.gather(steps_in_double(**run["double"])))
                continue
            with fault(run.get("fault"), run.get("step", 0)), watched() as seen:
                seen["code"] = train.main(run["arguments"])
            faulthandler.cancel_dump_traceback_later()  # which would end a process that has failed
            found.append(dist.gather(seen))
        dist.process_group = group
        if dist.rank() == 0:
            result.write_text(json.dumps(found))


def without_pictures(put: Callable[[object, str, object], None] = setattr) -> None:
    """They take most of the time of so small a run."""
    for name in ("plot_batch", "plot_predictions"):
        put(pictures, name, lambda *_, **__: None)
    for name in ("plot_results", "plot_labels"):
        put(plots, name, lambda *_, **__: None)
    put(evaluation, "plot_metric", lambda *_: None)


@contextlib.contextmanager
def watched():
    """Notes the images of each step, and those that this rank evaluates, before those of other ranks are added."""
    seen: dict[str, list] = {"steps": [], "evaluations": []}
    real_step, real_evaluate, real_update = failure.train_step, loop.evaluate, DetectionMetric.update

    def stepped(stepper, state, batches):
        seen["steps"].append([state.step, *(image for batch in batches for image in batch.image_ids)])
        return real_step(stepper, state, batches)

    def evaluate(*arguments, **options):
        seen["evaluations"].append([])
        return real_evaluate(*arguments, **options)

    def update(metric, image_ids, detections):
        seen["evaluations"][-1] += image_ids
        real_update(metric, image_ids, detections)

    failure.train_step, DetectionMetric.update = stepped, update
    loop.evaluate = finish.evaluate = evaluate
    try:
        yield seen
    finally:
        failure.train_step, DetectionMetric.update = real_step, real_update
        loop.evaluate = finish.evaluate = real_evaluate


@contextlib.contextmanager
def fault(kind: str | None, step: int):
    """On the last rank alone: SIGTERM after `step` steps, or a loss that is not a number after them."""
    real_step, real_terms = failure.train_step, step_module.loss_terms
    done, chosen = 0, dist.rank() == dist.world_size() - 1

    def interrupted(*arguments):
        nonlocal done
        terms = real_step(*arguments)
        done += 1
        if kind == "stop" and done == step and chosen:
            signal.raise_signal(signal.SIGTERM)
        return terms

    def spoiled(*arguments):
        terms = real_terms(*arguments)
        if kind == "nan" and done == step and chosen:
            terms["box"] = terms["box"] * float("nan")
        return terms

    failure.train_step, step_module.loss_terms = interrupted, spoiled
    try:
        yield
    finally:
        failure.train_step, step_module.loss_terms = real_step, real_terms


def steps_in_double(*, cfg: str, data: str, settings: list[str], steps: int, file: str, frozen: bool) -> Any:
    """Steps of a training in double precision; rank 0 writes the weights into `file`."""
    torch.manual_seed(0)
    model_config, recipe = load_model_config(cfg), load_recipe("default", [*settings, "augment.scale=0.5"])
    model = build_model(model_config, 2).double()
    norms = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    config = TrainConfig(to_plain(model_config), recipe, data, (64, 64), None, 3, 0)
    dataset = train_set_of(read_splits(data).train, config)
    ranks = {"rank": dist.rank(), "world_size": dist.world_size()}
    loader = train_loader_of(dataset, config, stride=model.stride, **ranks)
    state = TrainState.create(model, recipe, torch.device("cpu"))
    if not frozen:
        synchronize_norms_(model, torch.device("cpu"))
    keep_frozen_statistics_(model.train(), norms if frozen else [])
    criterion, device = build_criterion(model, recipe.loss, where="recipe: loss"), torch.device("cpu")
    stepper = Stepper(dist.wrap(model, device), criterion, recipe, steps, 3, device, StepClock(device))
    for epoch in range(steps // len(loader)):
        loader.batch_sampler.set_position(epoch)
        for batch in loader:
            train_step(stepper, state, [replace(batch, images=batch.images.double() / 255)])
    if dist.rank() == 0:
        torch.save(state.state_dict()["weights"], file)
    return state.step


if __name__ == "__main__":
    main()
