"""What becomes of a step that fails: a bad number, or too little memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.diagnose import describe_failure, examine
from engine.memory import fitting_part
from engine.notes import FileNotes
from engine.replay import save_replay
from engine.state import TrainState
from engine.step import Stepper, TrainingDiverged, train_step
from utils import dist
from utils.faults import explain, is_out_of_memory, memory_reason
from utils.structures import Batch
from utils.text import printable

logger = logging.getLogger(__name__)

SKIPS_IN_A_ROW = 10
"""With `non_finite: skip`, so many steps may fail one after another; after that the training is beyond help."""


class RunFailed(ValueError):
    """A run that ends early; the message says why, what to do, and what is left."""


class StepFailed(ValueError):
    """A step that cannot be done; the message says why, and what to do."""


@dataclass(eq=False)
class Guard:
    """The steps of a run, with an answer to each that fails.

    Args:
        folder: of the run, for replay files.
        about: what a replay file says of the run: 'config', 'names', 'category_ids', 'task', 'class_counts'.
        in_a_row: steps that were skipped one after another.
        notes: on image files that are damaged.
    """

    folder: Path
    about: dict[str, Any]
    in_a_row: int = 0
    notes: FileNotes = field(default_factory=FileNotes)

    def step(self, stepper: Stepper, state: TrainState, batches: list[Batch]) -> dict[str, float]:
        """The loss terms of `train_step`; none where the recipe skips a step that is not finite.

        Raises:
            StepFailed: a number that is not finite, or too little memory.
        """
        self._note_files(state, batches)
        try:
            terms = train_step(stepper, state, batches)
        except TrainingDiverged as error:
            diverged = error.with_traceback(None)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            diverged, reason = None, memory_reason(error)
        else:
            self.in_a_row = 0
            return terms
        # Out here the error and with it the memory of the step are gone.
        if diverged is None:
            raise StepFailed(out_of_memory_text(stepper, state, batches, reason=reason))
        return self._diverged(diverged, stepper, state, batches)

    def _diverged(
        self, error: TrainingDiverged, stepper: Stepper, state: TrainState, batches: list[Batch]
    ) -> dict[str, float]:
        evidence = examine(stepper, state, batches)
        stepper.before.restore_(state.model)
        self.in_a_row += 1
        skips = stepper.recipe.non_finite == "skip" and not evidence.weights and self.in_a_row <= SKIPS_IN_A_ROW
        # All processes tell the message of the first one whose part of the batch it may be; that one writes the replay.
        suspicions = dist.gather(evidence.suspicion)
        owner = suspicions.index(max(suspicions))
        text = ""
        if dist.rank() == owner:
            text = describe_failure(error, evidence, lr=state.optimizer.param_groups[0]["lr"])
            if not skips or not state.sums.get("skipped"):
                text += "\n  " + self._write(evidence.failure or error, text, stepper, state, batches)
        text = dist.gather(text)[owner]
        if not skips:
            in_a_row = f"\n  {self.in_a_row} steps in a row" if self.in_a_row > 1 else ""
            raise StepFailed(text + in_a_row)
        state.step += 1
        state.count({"skipped": 1})
        logger.warning("Step skipped: %s", text)
        return {}

    def _write(
        self, failure: TrainingDiverged, text: str, stepper: Stepper, state: TrainState, batches: list[Batch]
    ) -> str:
        path = self.folder / f"replay_step{failure.step}.pt"
        try:
            save_replay(path, failure, text, about=self.about, stepper=stepper, state=state, batches=batches)
        except (OSError, RuntimeError, MemoryError) as problem:
            if not (isinstance(problem, OSError) or is_out_of_memory(problem)):
                raise
            return f"The optimizer has not moved. No replay file could be written: {printable(problem)}"
        return f"The optimizer has not moved; see the step again with: python train.py --replay {printable(path)}"

    def _note_files(self, state: TrainState, batches: list[Batch]) -> None:
        problems = [line for batch in batches for problem in batch.problems for line in problem.splitlines()]
        self.notes.add(*(f"Another image in its place (bad_images: skip): {problem}" for problem in problems))
        self.notes.add(*(note for batch in batches for note in batch.notes))
        if problems and dist.rank() == 0:
            state.count({"bad_images": len(problems)})
        elif problems:
            self.notes.replaced += problems  # rank 0 counts them when they are shared


def out_of_memory_text(stepper: Stepper, state: TrainState, batches: list[Batch], *, reason: str) -> str:
    """What does not fit, what would, and what else helps; `reason` is what the allocator said."""
    batch = max(batches, key=lambda each: each.images.numel())
    height, width = batch.images.shape[2:]
    stepper.before.restore_(state.model)
    state.optimizer.zero_grad()
    count = fitting_part(stepper, state, batch)
    recipe, smaller = stepper.recipe, ["a smaller --img-size", "a smaller model"]
    if recipe.amp == "off":
        smaller.insert(0, "--set amp=bf16")
    too_much = f"{len(batch)} images of {height} x {width} px do not fit"
    lines = [f"out of memory on {stepper.device} in step {state.step + 1}: {too_much} ({reason})"]
    if count:
        fits = max(recipe.batch_size * count // len(batch), 1)
        same = max(recipe.nominal_batch_size or 0, recipe.batch_size)
        lines.append(f"what fits, by trial: {count} images")
        lines.append(f"remedy: --batch-size {fits} --set nominal_batch_size={same} (steps as large, in parts)")
        lines.append(f"or --batch-size auto, {', '.join(smaller)}, or closing other programs that use the device")
    else:
        lines.append("what fits, by trial: not even one image")
        lines.append(f"remedy: {', '.join(smaller)}, or closing other programs that use the device")
    return "\n  ".join(lines)


@contextmanager
def saying_what_is_left(last: Path, folder: Path) -> Iterator[None]:
    """Whatever ends the block for want of memory, disk, files or processes is told with what the run still has.

    Args:
        last: the newest checkpoint.
        folder: of the run.
    Raises:
        RunFailed: with the cause, the remedy, and how to go on.
        KeyboardInterrupt: the user stopped it at once; with how to go on.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped at once\n  {_left(last, folder, same=True)}") from None
    except Exception as error:
        text = explain(error)
        if text is None:
            raise
        failed = RunFailed(f"{text}\n  {_left(last, folder, same=not isinstance(error, StepFailed))}")
    else:
        return
    raise failed


def _left(last: Path, folder: Path, *, same: bool) -> str:
    if not folder.is_dir():
        return f"{folder} is gone; put it back, and go on with: python train.py --resume {folder}"
    if not last.is_file():
        return "There was no checkpoint yet."
    other = f"with another recipe, --weights {printable(last)}"
    how = f"python train.py --resume {printable(folder)}" if same else other
    return f"The last checkpoint is whole; to go on from it: {how}"
