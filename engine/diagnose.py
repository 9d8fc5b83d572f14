"""Why a loss or gradient is not a finite number: the step is done again on a copy, watched, and in full precision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from engine.state import Snapshot, TrainState, amp_dtype
from engine.step import Stepper, TrainingDiverged
from engine.trial_step import scratch_of, try_forward, try_step
from engine.watch import Sighting, Watch, largest_magnitude
from utils.faults import is_out_of_memory
from utils.log import first_few
from utils.memory import release_unused
from utils.structures import Batch
from utils.text import printable

FAR_TOO_LARGE = 1e5
"""Values and weights beyond this come from a training that has blown up; sane ones stay below 1,000."""


@dataclass(frozen=True)
class Evidence:
    """What was found out about a step that failed, on this process.

    Args:
        failure: of the step when it was done again; None if it was finite then.
        suspects: the batches that it comes from, as far as they can be told apart.
        weights: names of weights and records of the optimizer that were not finite before the step.
        data: what is wrong with images or targets.
        output, gradient: first sighting of each.
        largest, largest_weight: finite magnitude of what modules gave, and of the weights.
        precision: of the step.
        finite_in_full: whether the step is finite in full precision; None where that was not tried.
        repeated: how much of the step there was memory for when it was done again.
    """

    failure: TrainingDiverged | None
    suspects: list[Batch]
    weights: list[str]
    data: list[str]
    output: Sighting | None
    gradient: Sighting | None
    largest: float
    largest_weight: float
    precision: torch.dtype | None
    finite_in_full: bool | None
    repeated: Literal["whole", "forward", "nothing"] = "whole"

    @property
    def is_at_fault(self) -> bool:
        """Whether it is this process's part of the batch, and not that of another."""
        return bool(self.failure or self.weights or self.data)

    @property
    def suspicion(self) -> int:
        """How likely it is this process's part: 2 where that is known, 1 where it could not be looked for, else 0."""
        return 2 if self.is_at_fault else int(self.repeated != "whole")


@dataclass(eq=False)
class Repeated:
    """A step that was done again, or as much of it as there was memory for; names as in Evidence."""

    part: Literal["whole", "forward", "nothing"]
    failure: TrainingDiverged | None
    suspects: list[Batch]
    watch: Watch


def examine(stepper: Stepper, state: TrainState, batches: list[Batch]) -> Evidence:
    """Do a failed step again, on this process alone; the run's weights and random numbers stay as they are.

    That takes a copy of the model. Where there is no memory for it, the forward pass is done alone, or nothing.
    """
    repeated = Repeated("nothing", None, batches, Watch(state.model))
    for part in ("whole", "forward"):
        found = _repeated(stepper, state, batches, part)
        if found is not None:
            repeated = found
            break
        release_unused(stepper.device)
    failure, watch = repeated.failure, repeated.watch
    precision = amp_dtype(stepper.recipe, stepper.device)
    finite_in_full = None if precision is None or failure is None else _finite_in_full(stepper, state, batches)
    full = repeated.part == "nothing"  # of the device: what is looked at there takes memory of its own
    weights = {name: value.cpu() if full else value for name, value in _before(stepper, state).items()}
    records = {name: value.cpu() if full else value for name, value in _records(state).items()}
    return Evidence(
        failure=failure,
        suspects=repeated.suspects,
        weights=[*_not_finite(weights), *_not_finite(records)],
        data=[problem for batch in batches for problem in data_problems(batch)],
        output=watch.output,
        # After a loss that is not finite, gradients only follow from it.
        gradient=None if failure is not None and failure.quantity == "loss" else watch.gradient,
        largest=watch.largest,
        largest_weight=largest_magnitude([weights[name] for name, _ in state.model.named_parameters()]),
        precision=precision,
        finite_in_full=finite_in_full,
        repeated=repeated.part,
    )


def _repeated(
    stepper: Stepper, state: TrainState, batches: list[Batch], part: Literal["whole", "forward"]
) -> Repeated | None:
    """A failed step, or its forward pass, done again on a copy; None where there is too little memory."""
    try:
        again, scratch = scratch_of(stepper, state)
        if part == "forward":
            with Watch(scratch.model) as watch:
                failure = try_forward(again, scratch, batches, rng=stepper.before.rng)
        else:
            failure, watch = _watched(again, scratch, batches, stepper.before)
        suspects = batches if failure is None or failure.batch is None else [batches[failure.batch]]
        if failure is not None and len(suspects) > 1:  # the gradient of a sum: which of its parts is it?
            for batch in batches:
                alone, seen = _watched(again, scratch, [batch], stepper.before)
                if alone is not None:
                    suspects, watch = [batch], seen
                    break
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    return Repeated(part, failure, suspects, watch)


def _before(stepper: Stepper, state: TrainState) -> dict[str, Tensor]:
    """Weights and statistics by name, as they were before the step."""
    names = [name for name, _ in state.model.named_buffers()]
    buffers = dict(zip(names, stepper.before.saved, strict=True)) if stepper.before.saved else {}
    return {name: buffers.get(name, value) for name, value in state.model.state_dict().items()}


def describe_failure(error: TrainingDiverged, evidence: Evidence, *, lr: float) -> str:
    """What the user is told of a failed step: terms, images, the first place, the likely cause and the remedy."""
    failure = evidence.failure or error
    cause, remedy = cause_and_remedy(evidence, lr=lr, fresh=failure.step == 1)
    lines = [str(failure), f"images: {first_few(culprits(evidence), 4)}", f"first seen: {_first_seen(evidence)}"]
    return "\n  ".join([*lines, f"likely cause: {cause}", f"remedy: {remedy}"])


def culprits(evidence: Evidence) -> list[str]:
    """The image files that a failure is about: those whose values were not finite, or all of the batch."""
    sighting = evidence.output or evidence.gradient
    if sighting is not None and sighting.images and len(evidence.suspects) == 1:
        paths = evidence.suspects[0].paths
        return [printable(paths[index]) for index in sighting.images if index < len(paths)]
    return [printable(path) for batch in evidence.suspects for path in batch.paths]


def _first_seen(evidence: Evidence) -> str:
    if evidence.output is not None:
        return f"output of {evidence.output}"
    if evidence.gradient is not None:
        return f"gradient, from the loss backwards, of the output of {evidence.gradient}"
    if evidence.failure is None:
        return {
            "whole": "nowhere, when the step was done again",
            "forward": "nowhere in the forward pass; there is too little memory to do the backward pass again",
            "nothing": "not looked for: there is too little memory to do the step again",
        }[evidence.repeated]
    return "the loss itself" if evidence.failure.quantity == "loss" else "gradients of weights alone"


def _watched(
    again: Stepper, scratch: TrainState, batches: list[Batch], before: Snapshot
) -> tuple[TrainingDiverged | None, Watch]:
    with Watch(scratch.model) as watch:
        failure = try_step(again, scratch, batches, rng=before.rng)
    return failure, watch


def cause_and_remedy(evidence: Evidence, *, lr: float, fresh: bool) -> tuple[str, str]:
    """The likeliest explanation, and what to do about it.

    Args:
        lr: learning rate of the step.
        fresh: whether the weights have never been trained in this run.
    """
    if evidence.weights:
        where = "start from another --weights file" if fresh else "go on from an earlier checkpoint with a lower rate"
        return f"weights that were not finite before the step: {first_few(evidence.weights, 3)}", where
    if evidence.data:
        return f"the data: {evidence.data[0]}", "correct the label or leave the image out (python -m data.doctor DATA)"
    if evidence.failure is None and evidence.repeated != "whole":
        cause = "not found, for want of memory to do the step again beside the run"
        return cause, "do it again with --replay, or train with a smaller --batch-size, which leaves room to look"
    if evidence.failure is None:
        cause = "none that can be repeated: done again, the same step is finite"
        return cause, "--deterministic for the next run; if it comes back, check the machine's memory and GPU"
    if evidence.finite_in_full and evidence.precision is not None:
        name = str(evidence.precision).removeprefix("torch.")
        most = torch.finfo(evidence.precision).max
        cause = f"mixed precision: in full precision the same step is finite ({name} ends at {most:.3g})"
        return cause, "--set amp=bf16 where the device has it, or --set amp=off"
    if max(evidence.largest, evidence.largest_weight) > FAR_TOO_LARGE:
        sizes = f"values up to {evidence.largest:.3g}, weights up to {evidence.largest_weight:.3g}"
        cause = f"the training has blown up ({sizes}; learning rate {lr:.3g})"
        return cause, "a lower optimizer.lr, a longer warm-up (schedule.warmup_steps), a smaller optimizer.clip_norm"
    if evidence.output is None and evidence.failure.quantity == "loss":
        terms = [name for name, value in evidence.failure.terms.items() if not math.isfinite(value)]
        cause = (
            f"the loss term {', '.join(terms)}: every output of the network is finite (up to {evidence.largest:.3g})"
        )
        return cause, "look at the targets of these images; another loss (the recipe's `loss`) avoids it"
    remedy = "a lower optimizer.lr or a longer warm-up; if it comes back, keep the replay file for a bug report"
    sighting = evidence.output or evidence.gradient
    return f"what {sighting.module if sighting else 'the step'} computes from finite numbers", remedy


def data_problems(batch: Batch) -> Iterator[str]:
    """What in a batch no network can learn from, with the file."""
    images, targets = batch.images, batch.targets
    if images.is_floating_point():
        for index in torch.nonzero(~torch.isfinite(images).flatten(1).all(dim=1)).flatten().tolist():
            yield f"{printable(batch.paths[index])}: pixels that are not finite"
    boxes = targets.boxes
    wrong = ~torch.isfinite(boxes).all(dim=1) | (boxes[:, 2:] <= boxes[:, :2]).any(dim=1) | (targets.labels < 0)
    for row in torch.nonzero(wrong).flatten().tolist():
        shown = ", ".join(f"{value:.4g}" for value in boxes[row].tolist())
        path = printable(batch.paths[int(targets.image_index[row])])
        yield f"{path}: a box without width or height, or not finite: [{shown}], label {int(targets.labels[row])}"


def _finite_in_full(stepper: Stepper, state: TrainState, batches: list[Batch]) -> bool | None:
    """Whether the step is finite without mixed precision; None where there is too little memory to see."""
    try:
        again, scratch = scratch_of(stepper, state, amp="off")
        return try_step(again, scratch, batches, rng=stepper.before.rng) is None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _not_finite(values: dict[str, Tensor]) -> list[str]:
    return [
        name for name, value in values.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]


def _records(state: TrainState) -> dict[str, Tensor]:
    """What the optimizer remembers of each weight, by name."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in state.model.named_parameters()}
    return {
        f"{key} of {names.get(parameter, '?')} in the optimizer": value
        for parameter, records in state.optimizer.state.items()
        for key, value in records.items()
        if isinstance(value, Tensor)
    }
