"""Groups of pictures dealt out to splits so that every class has its share in each (iterative stratification)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stratify(
    objects: tuple[np.ndarray, np.ndarray], groups: np.ndarray, classes: int, shares: Sequence[float], seed: int
) -> np.ndarray:
    """Which split each picture belongs to; those of a group stay together.

    The rarest class comes first: its groups, those of most pictures first, go to the split that lacks most of its
    objects. Pictures without objects come last and fill up (Sechidis et al., On the Stratification of Multi-label Data,
    2011; here with objects for examples, and groups for single ones).

    Args:
        objects: picture and class of each object, (M,) int64 both.
        groups: (N,) int64, equal for pictures that stay together.
        classes: their number.
        shares: part of the whole that each split should have; they add up to 1.
        seed: decides between groups that are alike.
    Returns:
        (N,) int64 index into `shares`.
    """
    _, group_of = np.unique(groups, return_inverse=True)
    images = np.bincount(group_of)
    pairs, counts = np.unique(np.stack((group_of[objects[0]], objects[1])), axis=1, return_counts=True)
    dealer = _Dealer(images, pairs, counts, classes, shares, seed)
    while (rarest := dealer.rarest_class()) is not None:
        for group in dealer.groups_of(rarest):
            dealer.deal(group, rarest)
    for group in dealer.rest():
        dealer.deal(group, classes)
    return dealer.split[group_of]


class _Dealer:
    """Groups, what they hold, and what each split still lacks.

    Args:
        images: (G,) pictures of each group.
        pairs: (2, P) group and class, ascending, with `counts` (P,) objects.
    """

    def __init__(
        self,
        images: np.ndarray,
        pairs: np.ndarray,
        counts: np.ndarray,
        classes: int,
        shares: Sequence[float],
        seed: int,
    ) -> None:
        self.images, self.classes = images, classes
        self.labels, self.counts = pairs[1], counts
        self.starts = np.searchsorted(pairs[0], np.arange(len(images) + 1))
        totals = np.bincount(pairs[1], weights=counts, minlength=classes)
        self.lacking = np.outer(shares, [*totals, images.sum()])
        self.left = np.bincount(pairs[1], minlength=classes)
        """Groups of each class that no split has yet."""
        self.split = np.full(len(images), -1, np.int64)
        chance = np.random.default_rng(seed).permutation(len(images))
        order = np.lexsort((chance[pairs[0]], -images[pairs[0]], pairs[1]))
        self._by_class = np.split(pairs[0][order], np.searchsorted(pairs[1][order], np.arange(1, classes)))
        self._chance = chance

    def rarest_class(self) -> int | None:
        """The class with the fewest groups left, if any has one."""
        present = np.flatnonzero(self.left)
        return int(present[self.left[present].argmin()]) if len(present) else None

    def groups_of(self, label: int) -> list[int]:
        """The groups left of a class, those of most pictures first."""
        return [group for group in self._by_class[label].tolist() if self.split[group] < 0]

    def rest(self) -> list[int]:
        """The groups left, the largest first."""
        left = np.flatnonzero(self.split < 0)
        return left[np.lexsort((self._chance[left], -self.images[left]))].tolist()

    def deal(self, group: int, label: int) -> None:
        """Give a group to the split that lacks most of a class, of pictures where several do."""
        lack = self.lacking[:, label]
        best = np.flatnonzero(lack >= lack.max() - 1e-9)
        split = int(best[self.lacking[best, self.classes].argmax()])
        part = slice(self.starts[group], self.starts[group + 1])
        self.split[group] = split
        self.lacking[split, self.labels[part]] -= self.counts[part]
        self.lacking[split, self.classes] -= self.images[group]
        self.left[self.labels[part]] -= 1
