"""The pictures of a data set, decoded: damaged, plain and doubled ones, and scenes that two splits share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.doctor.report import Suspect
from data.formats.assemble import size_mismatch
from data.formats.rows import KEPT, LEFT_OUT, SUSPECT
from data.images import SMALL_SHAPE, read_image, shrink
from data.similar import SCENE, alike, largest_change
from utils.log import Progress
from utils.packed import Packed
from utils.structures import LabelledImages, LabelProblem, Sample, Samples
from utils.text import printable

THREADS = 8
"""Threads that decode images; Pillow and the digest release the interpreter lock."""

CHUNK = 512
"""Images that are handed out at once: a task for each of a million would fill the memory."""

NEARLY, SAME = (3, 0.999), 4
"""Limits as of `data.similar` and grey levels of the largest change: a photo saved again, or one that hardly differs.
A chess piece or a walker who moved changes a value of the small pictures by 6 to 25 levels, JPEG by 1 to 3."""

DARK = 12
"""A picture whose brightest hundredth is darker shows nothing, of 255."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """What is known of the pictures of a split that can be used.

    Args:
        usable: (N,) bool, of all images of the split.
        digests: of the pixels of each usable one; small: (K, 16, 18) uint8, each small and grey.
    """

    usable: np.ndarray
    digests: list[bytes]
    small: np.ndarray


def examine_pictures(samples: Samples, problems: Packed[LabelProblem], *, title: str) -> Pictures:
    """Decode every image of a split.

    Args:
        problems: where to add what is wrong.
    """
    usable = np.zeros(len(samples), bool)
    small = np.zeros((len(samples), *SMALL_SHAPE), np.uint8)
    digests: list[bytes] = []
    with ThreadPoolExecutor(THREADS) as pool, Progress(len(samples), title) as progress:
        for start in range(0, len(samples), CHUNK):
            chunk = range(start, min(start + CHUNK, len(samples)))
            for index, seen in zip(chunk, pool.map(_examine, map(samples.__getitem__, chunk)), strict=True):
                problems.extend(seen.problems)
                if seen.digest is not None and seen.small is not None:
                    usable[index], small[len(digests)] = True, seen.small
                    digests.append(seen.digest)
                progress.advance()
    return Pictures(usable, digests, small[: len(digests)])


@dataclass(frozen=True, eq=False)
class _Seen:
    problems: list[LabelProblem]
    digest: bytes | None = None
    small: np.ndarray | None = None


def _examine(sample: Sample) -> _Seen:
    path, notes = str(sample.path), list[str]()
    try:
        image = read_image(sample.path, notes=notes)
    except ValueError as error:
        return _Seen([LabelProblem(path, str(error).removeprefix(f"{printable(path)}: "), LEFT_OUT)])
    problems = [LabelProblem(path, note, KEPT) for note in notes]
    height, width = image.shape[:2]
    if (height, width) != (sample.height, sample.width):
        return _Seen([*problems, LabelProblem(path, size_mismatch(sample, (height, width)), LEFT_OUT)])
    if plain := _plain(image):
        problems.append(LabelProblem(path, plain, KEPT))
    person = f"{height}x{width}".encode()[:16]
    return _Seen(problems, hashlib.blake2b(image.data, digest_size=16, person=person).digest(), shrink(image))


def _plain(image: np.ndarray) -> str | None:
    """Why a picture shows nothing, if it does not."""
    low, high = int(image.min()), int(image.max())
    if low == high:
        return f"every pixel has the same colour ({low})"
    if high < 3 * DARK or np.percentile(image[::4, ::4], 99) < DARK:
        bright = float(np.percentile(image, 99))
        return f"nearly black: 99 % of it is darker than {bright:.0f} of 255" if bright < DARK else None
    return None


def compare_pictures(
    splits: Mapping[str, LabelledImages], pictures: Mapping[str, Pictures]
) -> Iterator[tuple[str, Suspect]]:
    """Pictures whose pixels are those of an earlier one, and pictures that look like one of another split."""
    first: dict[bytes, tuple[str, Path]] = {}
    for split, data in splits.items():
        for index, digest in enumerate(pictures[split].digests):
            path = data.samples.path(index)
            other, earlier = first.setdefault(digest, (split, path))
            if earlier != path or other != split:
                leak = "" if other == split else ", so the measured accuracy is too good"
                problem = LabelProblem(str(path), f"the same picture as {earlier} in {other}{leak}", KEPT)
                yield split, Suspect(problem, path, twin=earlier)
    yield from _shared_scenes(splits, pictures)


def _shared_scenes(
    splits: Mapping[str, LabelledImages], pictures: Mapping[str, Pictures]
) -> Iterator[tuple[str, Suspect]]:
    """Pictures that look like one of an earlier split, other than by every pixel."""
    names = list(splits)
    if len(names) < 2:
        return
    small = np.concatenate([pictures[split].small for split in names])
    owner = np.repeat(np.arange(len(names)), [len(pictures[split].small) for split in names])
    digests = [digest for split in names for digest in pictures[split].digests]
    starts = np.cumsum([0, *(len(pictures[split].small) for split in names)])
    told: set[int] = set()
    for limits, what in ((NEARLY, "nearly the same picture as"), (SCENE, "the same scene as")):
        pairs = alike(small, limits)
        if limits == NEARLY:
            pairs = pairs[largest_change(small, pairs) <= SAME]
        for one, other in pairs.tolist():
            if owner[one] == owner[other] or other in told or digests[one] == digests[other]:
                continue
            told.add(other)
            split, first = names[owner[other]], names[owner[one]]
            path = splits[split].samples.path(other - int(starts[owner[other]]))
            twin = splits[first].samples.path(one - int(starts[owner[one]]))
            yield split, Suspect(LabelProblem(str(path), f"{what} {twin} in {first}", SUSPECT), path, twin=twin)
