"""The classes of several splits: the same names mean the same classes, whatever their order and ids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.formats.rows import MATCHED
from utils.config import ConfigError
from utils.structures import LabelledImages, LabelProblem
from utils.text import listed


def same_classes(first: LabelledImages, other: LabelledImages) -> LabelledImages:
    """`other` with the class indices of `first`; what differs is added to its problems.

    Its category ids stay its own, so that its ground truth stays what its file says.

    Raises:
        ConfigError: one of the two has a class that the other has not; names it.
    """
    if (first.names, first.category_ids) == (other.names, other.category_ids):
        return other
    if set(first.names) != set(other.names):
        only = sorted(set(first.names) ^ set(other.names))
        raise ConfigError(
            f"one split has {len(first.names)} classes, the other {len(other.names)}: only one of them has "
            f"{listed(only[:5])}{' and more' if len(only) > 5 else ''}; give every split the same list of categories"
        )
    place = {name: label for label, name in enumerate(first.names)}
    new = np.array([place[name] for name in other.names], np.int64)
    ids = [other.category_ids[label] for label in np.argsort(new).tolist()]
    what = "the classes have the same names as in the other split"
    number = next((label for label, name in enumerate(other.names) if name != first.names[label]), None)
    if number is None:
        number = next(label for label, each in enumerate(ids) if each != first.category_ids[label])
        what += f" and other ids ('{first.names[number]}': {ids[number]} for {first.category_ids[number]})"
    else:
        what += f" in another order (class {number} is '{other.names[number]}' here, '{first.names[number]}' there)"
    places = list(other.ground_truth.get("images", ()))[:1]
    where = places[0].get("file_name", "the split") if places else "the split"
    samples = replace(other.samples, labels=new[other.samples.labels])
    return replace(
        other,
        samples=samples,
        names=first.names,
        category_ids=tuple(ids),
        problems=(*other.problems, LabelProblem(where, what, MATCHED)),
    )
