"""A file with everything that a failed step consisted of, and doing that step again."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from data.read import DataSplits
from engine.build import build_stepper, build_trainable
from engine.diagnose import describe_failure, examine
from engine.finetune import keep_held_statistics_
from engine.optim import keep_frozen_statistics_
from engine.state import TrainState, amp_dtype
from engine.step import Stepper, TrainingDiverged, set_learning_rate_
from utils import dist
from utils.checkpoint import copied, plain, read_torch_file, size_in_bytes
from utils.config import ConfigError, to_plain
from utils.files import write_atomically
from utils.log import say
from utils.provenance import versions
from utils.saved import check_replay
from utils.schema import to_dataclass
from utils.structures import Batch, LabelledImages, Samples, Targets
from utils.text import shown
from utils.train_config import TrainConfig

FORMAT = "cspdet-replay-1"

PRECISIONS: dict[torch.dtype | None, Literal["off", "bf16", "fp16"]] = {
    None: "off",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}
"""Type of mixed precision -> the recipe's `amp`."""


@dataclass(frozen=True, eq=False)
class Replay:
    """One failed step.

    Args:
        config: of the run, with the precision that the step really had.
        images: classes and task of the training set, without its images.
        class_counts: objects of each class in it.
        state: of the training before the step.
        batches: of the step, of the process that wrote this; rank: of that process.
        total_steps: see Stepper.
        failure: what was not finite: 'what', 'step', 'terms', and 'message'.
    """

    config: TrainConfig
    images: LabelledImages
    class_counts: list[int]
    state: dict[str, Any]
    batches: list[Batch]
    rank: int
    total_steps: int
    failure: dict[str, Any]


def save_replay(
    path: Path,
    error: TrainingDiverged,
    message: str,
    *,
    about: dict[str, Any],
    stepper: Stepper,
    state: TrainState,
    batches: list[Batch],
) -> None:
    """Write a failed step to a file of plain tensors and values that appears whole or not at all.

    Args:
        about: 'config', 'names', 'category_ids', 'task' and 'class_counts' of the run.
        state: as before the step.
    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    precision = PRECISIONS[amp_dtype(stepper.recipe, stepper.device)]
    config = replace(about["config"], recipe=replace(stepper.recipe, amp=precision))
    content = {
        "format": FORMAT,
        **about,
        "config": to_plain(config),
        "state": state.state_dict(),
        "batches": [_to_plain_batch(batch) for batch in batches],
        "total_steps": stepper.total_steps,
        "failure": {"what": error.quantity, "step": error.step, "terms": error.terms, "message": message},
        "rank": dist.rank(),
        "world_size": dist.world_size(),
        "device": str(stepper.device),
        "versions": versions(),
    }
    content = plain(content, "replay")
    write_atomically(path, lambda file: torch.save(content, file), needed=size_in_bytes(content))


def is_replay(path: Path) -> bool:
    """Whether this is a replay file, by the format that it names."""
    try:
        content = read_torch_file(path)
    except (pickle.UnpicklingError, ConfigError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def load_replay(path: Path) -> Replay:
    """What `save_replay` wrote; nothing in the file can run code.

    Raises:
        ConfigError: no such file, a damaged one, or one of another kind.
    """
    if not path.is_file():
        raise ConfigError(f"--replay {path}: no such file; a run that stops at a bad number writes one to its folder")
    try:
        content = read_torch_file(path)
    except pickle.UnpicklingError:
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        kind = content.get("format") if isinstance(content, dict) else "another kind of file"
        raise ConfigError(f"--replay {path}: expected a file with format '{FORMAT}', found {shown(kind)}")
    check_replay(content, where=f"--replay {path}")
    return Replay(
        config=to_dataclass(TrainConfig, content["config"], where=f"{path}: config"),
        images=LabelledImages(
            Samples.of(()), tuple(content["names"]), tuple(content["category_ids"]), {}, task=content["task"]
        ),
        batches=[_from_plain_batch(batch) for batch in content["batches"]],
        **{key: content[key] for key in ("class_counts", "state", "rank", "total_steps", "failure")},
    )


def replay(path: Path, device: torch.device) -> int:
    """Do the failed step in a replay file again and print what is seen; 0 if it fails in the same way, 1 if not.

    Raises:
        ConfigError: not a replay file.
    """
    saved = load_replay(path)
    images = DataSplits(saved.images, saved.images, saved.config.data)
    counts, steps = saved.class_counts, saved.total_steps
    try:
        recipe, start = saved.config.recipe, saved.config.start
        model = build_trainable(saved.config, images, device, fresh=False)[0].train()
        keep_frozen_statistics_(model, recipe.freeze)
        keep_held_statistics_(model, recipe, start, saved.state["epoch"])
        stepper = build_stepper(saved.config, model, device, class_counts=counts, total_steps=steps)
    except ConfigError as error:
        raise ConfigError(*(f"--replay {path}: {line}" for line in error.lines)) from None
    return 0 if repeat(saved, stepper, TrainState.create(model, recipe, device, start=start)) else 1


def repeat(replay: Replay, stepper: Stepper, state: TrainState) -> bool:
    """Do the step again and print what is found; returns whether it failed in the same way.

    Args:
        state: of a model as the replay's configuration describes it; it gets the replay's state.
    """
    state.resume(replay.state, where="the replay file")
    stepper.before.take_(state.model)
    set_learning_rate_(state, stepper)
    with dist.alone(as_rank=replay.rank):
        evidence = examine(stepper, state, replay.batches)
    known = replay.failure
    if evidence.failure is None and not evidence.is_at_fault:
        if evidence.repeated != "whole":
            raise ValueError(
                f"out of memory on {stepper.device}: the step cannot be done again there; use --device cpu"
            )
        say(f"Not reproduced on {stepper.device}: the step is finite here. It was told:\n{known['message']}")
        return False
    failure = evidence.failure or TrainingDiverged(known["what"], state, known["terms"])
    say(describe_failure(failure, evidence, lr=state.optimizer.param_groups[0]["lr"]))
    same = (failure.quantity, failure.step) == (known["what"], known["step"])
    exactly = (
        "with the same terms to the last bit" if _same_terms(failure.terms, known["terms"]) else "with other terms"
    )
    say(
        f"Reproduced on {stepper.device}, {exactly}"
        if same
        else f"Another failure than in the file: {known['message']}"
    )
    return same


def _same_terms(one: dict[str, float], two: dict[str, float]) -> bool:
    return one.keys() == two.keys() and all(one[key] == two[key] or one[key] != one[key] for key in one)


def _to_plain_batch(batch: Batch) -> dict[str, Any]:
    tensors = copied({"images": batch.images, "targets": vars(batch.targets)})
    return {**tensors, "image_ids": batch.image_ids, "paths": batch.paths}


def _from_plain_batch(values: dict[str, Any]) -> Batch:
    ids, paths = tuple(values["image_ids"]), tuple(values["paths"])
    return Batch(values["images"], Targets(**values["targets"]), ids, paths)
