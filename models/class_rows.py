"""The outputs of a head that belong to classes, copied one by one from a head for other classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.names import ClassMatch
from models.parts import Head


def with_own_rows(
    weights: Mapping[str, Tensor], head: Head, classes: ClassMatch
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights of a file whose head is for `classes.of` classes, with the shapes of a model's own head.

    Outputs of classes that the file has come from it, and so do boxes and objectness beside them; the others keep the
    initial values of `head`.

    Args:
        weights: by the model's names.
    Returns:
        The weights, without what is for other classes alone, and the names of those of which some rows are the file's.
    """
    own, changed, in_part = head.state_dict(), dict(weights), []
    for layer, (groups, before) in head.class_layers().items():
        for kind in ("weight", "bias"):
            name = f"head.{layer}.{kind}"
            source, target = weights.get(name), own[f"{layer}.{kind}"]
            if source is None or source.shape != (groups * (before + classes.of), *target.shape[1:]):
                continue
            if classes.is_identity:
                continue
            if not (before or classes.known):  # nothing of it is of use
                del changed[name]
                continue
            changed[name] = target.clone()
            copy_rows_(changed[name], source, classes, groups=groups, before=before)
            if not classes.is_whole:
                in_part.append(name)
    return changed, in_part


@torch.no_grad()
def copy_rows_(target: Tensor, source: Tensor, classes: ClassMatch, *, groups: int, before: int) -> None:
    """Copy the rows of known classes, and those before the classes, from one convolution to another.

    Args:
        target: (groups * (before + C), ...) weight or bias of the model's C classes.
        source: (groups * (before + classes.of), ...) of the file's.
    """
    into, given = target.unflatten(0, (groups, -1)), source.unflatten(0, (groups, -1)).to(target)
    into[:, :before] = given[:, :before]
    known = list(classes.known)
    labels = [before + label for label in classes.labels if label is not None]
    into[:, [before + own for own in known]] = given[:, labels]
