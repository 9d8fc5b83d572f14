"""Verdicts on curves: none on runs that went well, and the right one on each way to go wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.verdict import Verdict, verdict_of, verdict_text

CHESS = (
    *(0.0, 0.0, 0.0, 0.001, 0.018, 0.047, 0.115, 0.229, 0.286, 0.371, 0.513, 0.548, 0.532, 0.609, 0.655, 0.667, 0.675),
    *(
        0.696,
        0.708,
        0.714,
        0.717,
        0.728,
        0.73,
        0.73,
        0.736,
        0.735,
        0.734,
        0.735,
        0.74,
        0.739,
        0.741,
        0.74,
        0.739,
        0.746,
    ),
    *(0.747, 0.751, 0.758, 0.754, 0.756, 0.757, 0.762, 0.761, 0.76, 0.758, 0.757, 0.758, 0.759, 0.762, 0.763, 0.765),
    *(0.766, 0.767, 0.766, 0.767, 0.769, 0.767, 0.769, 0.769, 0.768, 0.769),
)
"""AP on val of chess with cspdet-n, 60 epochs."""

FINE = {"AP50": 0.6, "class": 0.05}
SWAPPED = {"AP50": 0.02, "class": 0.6}


def rows(ap: Any, train: dict[int, float], *, loss: Any = None, every: int = 1) -> list[dict[str, str]]:
    """Of results.csv: AP on val by evaluation, and AP on training images by epoch."""
    table = []
    for number, value in enumerate(ap):
        epoch = every * (number + 1)
        known, total = train.get(epoch), 3.0 - 2.0 * number / len(ap) if loss is None else loss[number]
        row = {"epoch": str(epoch), "loss/box": repr(total), "AP": repr(float(value))}
        table.append({**row, "AP_train": "" if known is None else repr(float(known))})
    return table


def judged(table: list[dict[str, str]], total: int, **changes: Any) -> Verdict | None:
    options = {"final": len(table) == total, "told_apart": True, "errors": {"val": FINE, "train": FINE}, **changes}
    return verdict_of(table, total=total, **options)


def kinds(table: list[dict[str, str]], **changes: Any) -> list[str | None]:
    """After each epoch."""
    found = (judged(table[: n + 1], len(table), **changes) for n in range(len(table)))
    return [None if verdict is None else verdict.kind for verdict in found]


def curve(end: float, *, epochs: int, start: float = 0.1, seed: int = 0) -> np.ndarray:
    """From 0 on, after `start` of the epochs, levelling off, with noise."""
    time = np.linspace(0, 1, epochs)
    noise = 1 + 0.03 * np.random.default_rng(seed).normal(size=epochs)
    return end * noise * np.clip(1 - np.exp(-8 * (time - start)), 0, None)


def test_a_real_run_that_went_well_has_no_verdict() -> None:
    table = rows(CHESS, {epoch: 1.03 * CHESS[epoch - 1] for epoch in range(6, 61, 6)})
    assert set(kinds(table)) == {None}
    undecided = [judged(table[:n], 60, told_apart=n > 6) for n in range(1, 60)]
    assert not any(undecided), "before val can tell epochs apart, too"


@pytest.mark.parametrize("end", [0.04, 0.12, 0.7])
@pytest.mark.parametrize(("epochs", "start"), [(12, 0.1), (60, 0.1), (200, 0.05)])
@pytest.mark.parametrize("gap", [1.0, 2.0])
def test_runs_that_go_well_have_none(end: float, epochs: int, start: float, gap: float) -> None:
    ap, every = curve(end, epochs=epochs, start=start), -(-epochs // 10)
    due = [*range(every, epochs + 1, every), epochs]
    table = rows(ap, {e: min(gap * float(ap[e - 1]), 0.95) for e in due})
    assert not any(judged(table[:epoch], epochs) for epoch in due)


def test_runs_too_short_to_be_judged_have_none() -> None:
    assert set(kinds(rows([0.0] * 9, {1: 0.0, 9: 0.9}), told_apart=False)) == {None}
    assert judged(rows([0.0] * 5, {10: 0.9}, every=2), 10, final=True, told_apart=False) is None
    assert judged(rows([0.0] * 6, {10: 0.9}, every=2), 12, final=True, told_apart=False).kind == "memorises"
    assert judged([], 5) is None
    assert judged([{"epoch": "1", "loss/box": "2.0", "AP": ""}] * 40, 40) is None, "val without objects"


def case() -> list[dict[str, str]]:
    """Of issue 17: cameras in val that training never saw."""
    ap = [0.0, 0.0, 0.001, 0.003, 0.006, 0.011, 0.008, 0.006, 0.005, 0.004, 0.003, 0.003, 0.002]
    ap += [0.001, 0.002, 0.003, 0.002] * 12
    known = {e: 0.786 * (1 - np.exp(-e / 20)) for e in range(7, 62, 7)} | {61: 0.786}
    return rows(ap, known)


def test_the_case_of_the_issue_is_called_memorising_while_it_runs() -> None:
    found = kinds(case(), told_apart=False)
    assert found.index("memorises") <= 20 and set(found[20:]) == {"memorises"}
    verdict = judged(case(), 61, told_apart=False)
    assert "0.786" in verdict.text and "0.011 at most (epoch 6)" in verdict.text
    assert "best.pt is the newest" in verdict.text
    assert "--weights" in verdict.advice[0] and "data.split" in " ".join(verdict.advice)
    assert "best.pt" not in judged(case(), 61).text


def test_val_that_is_labelled_in_another_way_is_told_from_memorising() -> None:
    verdict = judged(case(), 61, told_apart=False, errors={"val": SWAPPED, "train": FINE})
    assert verdict.kind == "labels disagree"
    assert "AP50 is 0.020, with right classes 0.620" in verdict.text


def test_labels_that_contradict_each_other_keep_training_images_from_being_learned() -> None:
    ap = curve(0.08, epochs=60)
    known = {e: min(0.12, 0.01 * e) for e in range(6, 61, 6)}
    found = kinds(rows(ap, known), errors={"val": SWAPPED, "train": {"AP50": 0.15, "class": 0.5}})
    assert set(found[:35]) == {None} and found[-1] == "labels disagree"
    assert set(kinds(rows(ap, known))) == {None}, "a hard data set is none of it"


def test_a_peak_long_ago_is_memorising_from_there_on() -> None:
    ap = [*np.linspace(0, 0.4, 20), *np.linspace(0.39, 0.2, 40)]
    known = {e: min(0.95, 0.03 * e) for e in range(6, 61, 6)}
    found = kinds(rows(ap, known))
    assert set(found[:30]) == {None} and found[-1] == "memorises"
    assert "from 0.400 in epoch 20" in judged(rows(ap, known), 60).text
    assert set(kinds(rows(ap, dict.fromkeys(known, 0.4)))) == {None}, "training images did not gain by it"


def test_learning_nothing() -> None:
    flat = kinds(rows([0.0] * 50, dict.fromkeys(range(5, 51, 5), 0.001), loss=[5.0] * 50), told_apart=False)
    assert set(flat[:19]) == {None} and set(flat[20:]) == {"learns nothing"}
    falling = kinds(rows([0.0] * 50, {}), told_apart=False)
    assert set(falling[:-1]) == {None}, "it may only be slow"
    verdict = judged(rows([0.0] * 50, {}), 50, told_apart=False)
    assert verdict.kind == "learns nothing" and "train longer" in verdict.advice[0]


def test_noise_on_val_and_no_more_is_told() -> None:
    ap = [0.0, 0.004, 0.013, 0.002] * 10
    found = kinds(rows(ap, dict.fromkeys(range(4, 41, 4), 0.1)), told_apart=False)
    assert set(found[:19]) == {None} and set(found[19:]) == {"val cannot tell"}
    assert judged(rows(ap, {40: 0.1}), 40, told_apart=False).text.startswith("Its AP was 0.013 at most (epoch 39)")


def test_still_rising_is_said_at_the_end_alone() -> None:
    found = kinds(rows(np.linspace(0, 0.4, 40), {}))
    assert set(found[:-1]) == {None} and found[-1] == "still rising"
    late = judged(rows(np.linspace(0, 0.4, 20), {}, every=5), 100, final=True)
    assert late.kind == "still rising" and "last 26 epochs" in late.text


def test_a_verdict_is_plain_and_has_a_text() -> None:
    plain = Verdict("memorises", "AP is high", ("this", "that")).plain()
    assert plain == {"kind": "memorises", "text": "AP is high", "advice": ["this", "that"]}
    assert verdict_text(plain) == "Verdict: memorises. AP is high.\n  What helps: this; that"
