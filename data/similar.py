"""Pictures that look alike, found by a perceptual hash: a photo saved twice, frames of a clip, views of a scene."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from data.images import SMALL_SHAPE, read_small
from utils.log import tracked

THREADS = 8
"""Threads that decode pictures; Pillow releases the interpreter lock."""

CHUNK = 512
"""Pictures that are handed out at once: a task for each of a hundred thousand takes 300 MB."""

DUPLICATE = (4, 0.997)
"""The same photo again, resized, compressed or brighter: at most so many of 64 bits of the hash differ, and the
small pictures correlate by at least this much. Independent photos differ in 32 bits."""

SCENE = (14, 0.90)
"""The same scene: the same view with things moved, or the next frames of a clip."""

WINDOW = 12
"""Neighbours in the order of the hashes that a picture is compared with, in each of eight orders."""

BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1)
"""How many bits of a byte are set."""


def small_pictures(paths: Sequence[Path], title: str) -> np.ndarray:
    """(N, 16, 18) uint8: each picture small and grey; 0 where it cannot be read."""

    def read(path: Path) -> np.ndarray:
        try:
            return read_small(path)
        except ValueError:  # told where its labels are read
            return np.zeros(SMALL_SHAPE, np.uint8)

    small = np.zeros((len(paths), *SMALL_SHAPE), np.uint8)
    with ThreadPoolExecutor(THREADS) as pool:
        parts = (pool.map(read, paths[start : start + CHUNK]) for start in range(0, len(paths), CHUNK))
        for index, each in enumerate(tracked(itertools.chain.from_iterable(parts), len(paths), title)):
            small[index] = each
    return small


def alike(small: np.ndarray, limits: tuple[int, float]) -> np.ndarray:
    """(P, 2) int64: pairs of pictures that look alike, each pair once, the first index lower.

    A picture is compared with its neighbours in eight orders of the hashes, each of which begins at another byte: time
    and memory grow with the number of pictures, and of many that are alike, each is paired with a few. Of those that
    are equal, the first stands for all.

    Args:
        small: (N, 16, 18) uint8 from `small_pictures`.
        limits: the most bits that differ, and the least correlation: DUPLICATE or SCENE.
    """
    most_bits, least = limits
    hashes, contrast = _hashes(small)
    seen = contrast >= 2  # a plain picture is like every other plain one
    first, copies = _first_of_each(small)
    rows, copies = first[seen[first]], copies[seen[copies[:, 0]]]
    keys_found = copies[:, 0] * len(small) + copies[:, 1]
    for first_byte in range(hashes.shape[1]):
        keys = np.roll(hashes[rows], -first_byte, axis=1)
        order = rows[np.lexsort(keys.T[::-1])]
        for step in range(1, min(WINDOW, len(order) - 1) + 1):
            one, other = order[:-step], order[step:]
            near = BITS[hashes[one] ^ hashes[other]].sum(axis=1) <= most_bits
            low, high = np.minimum(one[near], other[near]), np.maximum(one[near], other[near])
            keys_found = np.union1d(keys_found, low * len(small) + high)
    found = np.stack(np.divmod(keys_found, max(len(small), 1)), axis=1)
    return found[_correlation(small, found) >= least]


def _first_of_each(small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first of all pictures that are equal (K,) ascending, and the others (P, 2), each behind its first.

    A thousand copies of a picture would be compared with each other alone, and be a million pairs.
    """
    values = np.ascontiguousarray(small.reshape(len(small), SMALL_SHAPE[0] * SMALL_SHAPE[1]))
    whole = values.view(np.dtype((np.void, values.shape[1]))).ravel()
    _, first, inverse = np.unique(whole, return_index=True, return_inverse=True)
    owner = first[inverse.ravel()]
    others = np.flatnonzero(owner != np.arange(len(small)))
    return np.sort(first), np.stack((owner[others], others), axis=1)


def groups(count: int, pairs: np.ndarray) -> np.ndarray:
    """(count,) int64: the lowest index of those that pairs (P, 2) join, directly or through others."""
    parent = list(range(count))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    for one, other in zip(pairs[:, 0].tolist(), pairs[:, 1].tolist(), strict=True):
        one, other = root(one), root(other)
        parent[max(one, other)] = min(one, other)
    return np.array([root(index) for index in range(count)], np.int64)


def _hashes(small: np.ndarray, chunk: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """(N, 8) uint8, a bit for each step to the right that grows brighter, and the contrast (N,) of each picture."""
    hashes, contrast = np.zeros((len(small), 8), np.uint8), np.zeros(len(small))
    for start in range(0, len(small), chunk):  # as floats, all of a hundred thousand take 230 MB
        part = small[start : start + chunk]
        bits = np.diff(part.reshape(-1, 8, 2, 9, 2).mean(axis=(2, 4)), axis=2) > 0
        hashes[start : start + chunk] = np.packbits(bits.reshape(-1, 64), axis=1)
        contrast[start : start + chunk] = part.std(axis=(1, 2))
    return hashes, contrast


def largest_change(small: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(P,) the largest difference between the two small pictures of each pair, in grey levels of the second.

    A change of brightness and contrast counts for nothing; a thing that moved, in a few of the 288 values, does.
    """
    values = np.zeros(len(pairs))
    for part, one, other in _centred(small, pairs):
        scale = (one * other).sum(axis=1) / np.maximum((one * one).sum(axis=1), 1e-9)
        values[part] = np.abs(other - scale[:, None] * one).max(axis=1, initial=0)
    return values


def _correlation(small: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """(P,) Pearson's correlation of the two small pictures of each pair."""
    values = np.zeros(len(pairs))
    for part, one, other in _centred(small, pairs):
        scale = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        values[part] = (one * other).sum(axis=1) / np.maximum(scale, 1e-9)
    return values


def _centred(
    small: np.ndarray, pairs: np.ndarray, chunk: int = 10_000
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Parts of the pairs, and (K, 288) float32 of both pictures of each, less their means."""
    for start in range(0, len(pairs), chunk):
        part = slice(start, start + chunk)
        one, other = (
            small[pairs[part, side]].reshape(-1, SMALL_SHAPE[0] * SMALL_SHAPE[1]).astype(np.float32) for side in (0, 1)
        )
        yield part, one - one.mean(axis=1, keepdims=True), other - other.mean(axis=1, keepdims=True)
