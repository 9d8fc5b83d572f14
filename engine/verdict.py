"""What a training's curves mean, in words: where it goes wrong, and what helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeGuard

import numpy as np

LEARNED = 0.25
"""AP on training images from which they are learned, if not by heart."""

CARRIED_OVER = 0.2
"""Share of that AP which the best one on val has where anything carries over; healthy runs have a half and more."""

NOTHING = 0.01
"""AP below which nothing is learned."""

LEAST, LONG = 6, 10
"""Evaluations and epochs from which a run is judged; and evaluations from which its tail is."""

MORE_SCENES = (
    "start from weights that have seen more (--weights: a run on COCO, or one of docs/weights.md)",
    "more scenes in training: other places, cameras and times, rather than more images of the same",
    "another split, if val is meant to be like training (python -m data.split, with --group for scenes)",
)
LABELS = (
    "the order and the spelling of the class names in the labels of each split",
    "python -m data.doctor DATA --predictions RUN/predictions.json lists the labels that the model disputes",
)


NO_VERDICT: dict[str, Any] = {"kind": None, "text": "", "advice": []}
"""Of a run that goes well, in metrics.json."""


@dataclass(frozen=True)
class Verdict:
    """A judgement that has become true.

    Args:
        kind: 'memorises', 'learns nothing', 'labels disagree', 'val cannot tell' or 'still rising'.
        text: why, with the figures. advice: what helps.
    """

    kind: str
    text: str
    advice: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """As plain values, for a checkpoint and metrics.json."""
        return {**asdict(self), "advice": list(self.advice)}


def verdict_text(verdict: Mapping[str, Any]) -> str:
    """Two lines on a verdict in plain values."""
    return f"Verdict: {verdict['kind']}. {verdict['text']}.\n  What helps: {'; '.join(verdict['advice'])}"


@dataclass(frozen=True, eq=False)
class Curves:
    """The epochs of a run that were evaluated.

    Args:
        epochs, ap, loss: (E,) number, AP on val, and sum of the losses.
        ap_train: (E,) AP on the sample of training images, NaN in most epochs.
        total: epochs planned.
    """

    epochs: np.ndarray
    ap: np.ndarray
    loss: np.ndarray
    ap_train: np.ndarray
    total: int

    @classmethod
    def of_rows(cls, rows: Sequence[Mapping[str, str]], total: int) -> Curves:
        """From the rows of results.csv."""
        rows = [row for row in rows if row.get("AP")]
        losses = [sum(float(value or "nan") for key, value in row.items() if key.startswith("loss/")) for row in rows]
        columns = [[float(row.get(key) or "nan") for row in rows] for key in ("epoch", "AP", "AP_train")]
        epochs, ap, ap_train = np.array(columns, np.float64).reshape(3, -1)
        return cls(epochs, ap, np.array(losses, np.float64), ap_train, total)

    @property
    def progress(self) -> float:
        """Share of the planned epochs that is done."""
        return self.epochs[-1] / self.total

    @property
    def best(self) -> int:
        """Position of the highest AP on val, of equal ones the last."""
        return int(np.flatnonzero(self.ap == self.ap.max())[-1])

    @property
    def train(self) -> np.ndarray:
        """(S,) AP on the sample, where it was counted."""
        return self.ap_train[np.isfinite(self.ap_train)]

    def falls(self) -> bool:
        """Whether the losses have fallen by a tenth and more since the first third."""
        third = len(self.loss) // 3
        return self.loss[-3:].mean() < 0.9 * self.loss[max(third - 1, 0) : third + 2].mean()


def verdict_of(
    rows: Sequence[Mapping[str, str]],
    *,
    total: int,
    final: bool,
    told_apart: bool,
    errors: Mapping[str, Mapping[str, Any]],
) -> Verdict | None:
    """The verdict after an epoch; None for a run that goes well, and for one that is too short to be judged.

    Args:
        rows: of results.csv.
        total: epochs planned; final: this was the last.
        told_apart: as in TrainState.
        errors: `DetectionMetric.errors()` of 'val', and of the sample as 'train', where they are known.
    """
    curves = Curves.of_rows(rows, total)
    if len(curves.ap) < LEAST or curves.epochs[-1] < LONG:
        return None
    learned, train = curves.train[-1] if len(curves.train) else np.nan, errors.get("train")
    if max(curves.ap.max(), np.nan_to_num(learned)) < NOTHING:
        return _learns_nothing(curves, final=final)
    if learned >= LEARNED and curves.ap.max() <= CARRIED_OVER * learned and curves.progress >= 0.2:
        return _memorises(curves, learned, errors.get("val"), told_apart=told_apart)
    if told_apart and learned >= 2 * LEARNED and _has_fallen(curves):
        return _forgets(curves, learned)
    if learned < LEARNED and (final or curves.progress >= 0.6) and _classes_only(train) and _is_flat(curves):
        text = f"AP on training images stays at {learned:.3f}: {_wrong_classes(train)}"
        return Verdict("labels disagree", f"{text}. Alike objects seem to be labelled as different classes", LABELS)
    if not told_apart and (final or curves.progress >= 0.5):
        more = "more images in val, with more objects", *MORE_SCENES[:2]
        choice = _choice(curves)
        return Verdict("val cannot tell", choice[:1].upper() + choice[1:], more)
    return _still_rising(curves) if final and told_apart else None


def _learns_nothing(curves: Curves, *, final: bool) -> Verdict | None:
    falls = curves.falls()
    if not final and (falls or curves.progress < 0.4):
        return None
    seen = f" and {curves.train[-1]:.3f} on training images" if len(curves.train) else ""
    losses = "the losses still fall" if falls else "the losses do not fall"
    longer = ("train longer (--epochs)",) if falls else ()
    advice = (
        *longer,
        "do the boxes of train_batch0 lie on the objects, and are these large enough to be seen there (--img-size)?",
        "python -m data.doctor DATA checks the labels; train.py --dry-run, whether one batch can be learned",
        "another learning rate (--set optimizer.lr=...), or pre-trained weights (--weights)",
    )
    text = f"AP is {curves.ap[-1]:.3f} on val{seen} after {curves.epochs[-1]:.0f} epochs, and {losses}"
    return Verdict("learns nothing", text, advice)


def _memorises(curves: Curves, learned: float, val: Mapping[str, Any] | None, *, told_apart: bool) -> Verdict:
    there = f"AP on training images is {learned:.3f}, on val it never was above {curves.ap.max():.3f}"
    choice = "" if told_apart else f". Val cannot tell epochs apart: {_choice(curves)}"
    if _classes_only(val):
        other = "The classes of val seem to be labelled in another way than those of training"
        return Verdict("labels disagree", f"{there}: {_wrong_classes(val)}. {other}{choice}", LABELS)
    return Verdict("memorises", f"{there}: what is learned does not carry over to val's images{choice}", MORE_SCENES)


def _has_fallen(curves: Curves) -> bool:
    """Whether val's AP has been a quarter below its peak for long, while that of training images rose."""
    best = curves.best
    since, before = curves.ap_train[best:], curves.ap_train[: best + 1]
    if len(curves.ap) - best <= LONG or not np.isfinite(since).any() or not np.isfinite(before).any():
        return False
    rose = curves.train[-1] > before[np.isfinite(before)][-1]
    return bool(rose and curves.ap[best] >= 0.05 and np.median(curves.ap[-5:]) < 0.75 * curves.ap[best])


def _forgets(curves: Curves, learned: float) -> Verdict:
    best, now = curves.ap[curves.best], float(np.median(curves.ap[-5:]))
    fell = f"AP on val fell from {best:.3f} in epoch {curves.epochs[curves.best]:.0f} to {now:.3f}"
    text = f"{fell}, while on training images it rose to {learned:.3f}; best.pt is of that epoch"
    shorter = "fewer epochs (--epochs, or --set patience=20), stronger augmentation, a smaller network"
    return Verdict("memorises", text, (shorter, *MORE_SCENES[:2]))


def _is_flat(curves: Curves) -> bool:
    """Whether AP on training images has not changed over three counts, at least 30 epochs into the training."""
    last = curves.train[-3:]
    return bool(len(last) == 3 and curves.epochs[-1] >= 30 and np.ptp(last) <= max(0.02, 0.1 * last.mean()))


def _classes_only(errors: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    """Whether the boxes are right and the classes wrong: with classes mended AP50 would be three times as high."""
    if errors is None:
        return False
    lost, now = errors["class"], errors["AP50"]
    return lost is not None and lost >= 0.3 and lost >= 2 * now


def _wrong_classes(errors: Mapping[str, Any]) -> str:
    better = errors["AP50"] + errors["class"]
    return f"boxes are found, but classes are wrong (AP50 is {errors['AP50']:.3f}, with right classes {better:.3f})"


def _choice(curves: Curves) -> str:
    highest = f"its AP was {curves.ap.max():.3f} at most (epoch {curves.epochs[curves.best]:.0f})"
    return f"{highest}, which is no more than noise (resampling its images), so best.pt is the newest epoch"


def _still_rising(curves: Curves) -> Verdict | None:
    """At the end: the mean of the last third of a fifth of the run against that of its first third."""
    if len(curves.ap) < LONG:
        return None
    window = curves.ap[-max(len(curves.ap) // 5, 6) :]
    third = len(window) // 3
    rise = float(window[-third:].mean() - window[:third].mean())
    if rise <= max(0.01, 0.05 * curves.ap[-1]):
        return None
    over = curves.epochs[-1] - curves.epochs[-len(window)] + 1
    text = f"AP on val rose by {rise:.3f} within the last {over:.0f} epochs"
    return Verdict("still rising", text, ("more epochs: train.py --resume RUN --epochs +N goes on from here",))
