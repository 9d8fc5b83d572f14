"""A run that goes on: its checkpoint in place, and only where run, images and labels are those that it began with."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from data.images import read_image
from data.sampler import SAMPLE_ORDER
from engine.job import Job
from engine.state import TrainState
from utils import dist
from utils.checkpoint import load_checkpoint, replace_with_link
from utils.config import ConfigError, to_plain
from utils.provenance import changed_files, check_same_data, numeric_versions, other_versions, versions
from utils.structures import LabelledImages
from utils.text import listed
from utils.train_config import saved_config

logger = logging.getLogger(__name__)


def resume_(job: Job, state: TrainState) -> None:
    """Put the run's checkpoint into `state`, and more epochs than before into config.yaml.

    Raises:
        ConfigError: a damaged checkpoint, one of another run, or other data than it was trained on.
    """
    saved = load_checkpoint(job.run.checkpoint)
    check_same_data(saved.get("fingerprint"), job.about_data["fingerprint"], job.images.source)
    problem = None
    if dist.rank() == 0:  # which alone has read the files, and holds the folder
        problem = _other_run(saved, job) or _other_files(saved.get("files") or {}, job)
    if problem := dist.broadcast(problem):
        raise ConfigError(problem)
    state.resume(saved, where=f"{job.run.checkpoint}")
    job.row = saved.get("row")
    if dist.rank() == 0:
        job.lock.adopt(saved.get("run"))
        if job.run.checkpoint != job.run.last:
            replace_with_link(job.run.last, job.run.checkpoint)
    _compare_versions(saved, job)
    if saved.get("sample_order", 1) != SAMPLE_ORDER:
        state.begin_epoch_again(accumulate=job.config.recipe.accumulate)
        logger.info(
            "This run began under a release that drew its images in another order: epoch %d begins from its start, in "
            "the order of this release",
            state.epoch + 1,
        )
    epochs = job.config.recipe.total_epochs
    if dist.rank() == 0 and saved_config(job.run.folder / "config.yaml").recipe.total_epochs != epochs:
        job.run.lengthen(to_plain(job.config))
        logger.info("Now %d epochs, with the learning rate and the closing of mosaic of so long a run", epochs)
    logger.info("Continuing %s after epoch %d, batch %d", job.run.folder, state.epoch, state.batch)


def is_finished(job: Job, state: TrainState) -> bool:
    """Whether nothing is left of a run but to say so, which this does; the same on all ranks."""
    recipe = job.config.recipe
    whole, tired = state.epoch >= recipe.total_epochs, state.is_out_of_patience(recipe)
    if not dist.broadcast((whole or tired) and (job.run.folder / "metrics.json").is_file()):
        return False
    if whole:
        more = f"python train.py --resume {job.run.folder} --epochs +N trains it N epochs longer"
    else:
        more = f"to train on, set a larger patience in {job.run.folder / 'config.yaml'}"
    logger.info("%s is finished, after %d epochs; %s", job.run.folder, state.epoch, more)
    return True


def _compare_versions(saved: dict[str, Any], job: Job) -> None:
    """Say which packages are not of the version that the run began with; its next checkpoints remember that one."""
    began = saved.get("began_with") or numeric_versions(saved.get("versions") or {})
    job.about_data["began_with"] = began
    if changed := other_versions(began, versions()):
        logger.warning(
            "This run began with other versions: %s. Rounding differs between them, so it goes on well but not to the "
            "same numbers; for those install the versions that it began with",
            listed(changed),
        )


def _other_run(saved: dict[str, Any], job: Job) -> str | None:
    """What is wrong when the checkpoint is of another run; older releases wrote no id of the run, but its seed."""
    own, other = job.lock.run, saved.get("run")
    same = own == other if own and other else saved.get("seed", job.config.seed) == job.config.seed
    if same:
        return None
    return (
        f"{job.run.checkpoint}: is a checkpoint of another run than {job.run.folder}, and --resume goes on with a "
        f"run's own. Put its own back, or start a new run from these weights: --weights {job.run.checkpoint}"
    )


def _other_files(saved: Mapping[str, Tensor], job: Job) -> str | None:
    """What is wrong when image files have changed; one that cannot be read is a matter of bad_images."""
    for split, now in job.about_data["files"].items():
        images: LabelledImages = getattr(job.images, split)
        changed = [images.samples.path(index) for index in changed_files(saved.get(split, now), now)]
        changed = list(dict.fromkeys(changed))  # tiles have their file in common
        first = next(filter(_is_readable, changed), None)
        if first is not None:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            return (
                f"{first}{more}: {split}: other pixels than the run began with, so it cannot go on exactly. Put the "
                "files back, or start a new run from its weights: --weights RUN/weights/last.pt"
            )
    return None


def _is_readable(path: Path) -> bool:
    try:
        read_image(path)
    except ValueError:
        return False
    return True
