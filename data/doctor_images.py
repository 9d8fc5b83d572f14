"""What only the pixels of a data set tell: damaged files, sizes that the labels get wrong, the same picture twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from data.formats.rows import KEPT, LEFT_OUT
from data.images import read_image
from utils.log import Progress
from utils.structures import LabelProblem, Sample

THREADS = 8


class ImageChecks(NamedTuple):
    """A digest of the pixels of each image, None where the image cannot be used, and why."""

    digests: list[bytes | None]
    problems: list[LabelProblem]


def examine_images(samples: Sequence[Sample], *, title: str) -> ImageChecks:
    """Decode every image of a split, and compare its size with what the labels were made for."""
    digests: list[bytes | None] = []
    problems: list[LabelProblem] = []
    with ThreadPoolExecutor(THREADS) as pool, Progress(len(samples), title) as progress:
        for digest, problem in pool.map(_examine, samples):
            digests.append(digest)
            problems += [problem] if problem else []
            progress.advance()
    return ImageChecks(digests, problems)


def compare_images(
    splits: Mapping[str, Sequence[Sample]], digests: Mapping[str, Sequence[bytes]]
) -> Iterator[tuple[str, LabelProblem]]:
    """Images whose pixels are those of an earlier image, of this split or another, as (split, problem)."""
    first: dict[bytes, tuple[str, Path]] = {}
    for split, samples in splits.items():
        for sample, digest in zip(samples, digests[split], strict=True):
            if digest not in first:
                first[digest] = (split, sample.path)
                continue
            other, path = first[digest]
            leak = "" if other == split else ", so the measured accuracy is too good"
            yield split, LabelProblem(str(sample.path), f"the same picture as {path} in {other}{leak}", KEPT)


def _examine(sample: Sample) -> tuple[bytes | None, LabelProblem | None]:
    try:
        image = read_image(sample.path)
    except ValueError as error:
        what = str(error).removeprefix(f"{sample.path}: ")
        return None, LabelProblem(str(sample.path), what, LEFT_OUT)
    height, width = image.shape[:2]
    if (height, width) != (sample.height, sample.width):
        swapped = (width, height) == (sample.height, sample.width)
        why = ": were the boxes drawn without the EXIF rotation?" if swapped else ""
        what = f"the labels are for {sample.width}x{sample.height}, the upright image is {width}x{height}{why}"
        return None, LabelProblem(str(sample.path), what, LEFT_OUT)
    return hashlib.blake2b(image, digest_size=16, person=f"{height}x{width}".encode()[:16]).digest(), None
