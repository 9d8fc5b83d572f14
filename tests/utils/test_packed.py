"""Packed records are those that were put in, in their order, whatever their number."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from data.doctor.findings import Finding
from utils.packed import BLOCK, UNPACKED, Packed, Picked
from utils.structures import LabelProblem


def test_boxes_and_numbers_come_back_as_they_were() -> None:
    wanted = [
        Finding("note", "val", "a", "b", "kept", None, (0.1, 1e-300, -7.0, float(n)), n / 3, None, "t")
        for n in range(300)
    ]
    assert list(Packed(Finding, wanted)) == wanted


def problem(number: int) -> LabelProblem:
    return LabelProblem(f"ñ\udcff/{number}.txt:{number % 7}", f"text {number}\n" * (number % 3), "left out")


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, (UNPACKED + 3) * BLOCK + 5])
def test_records_are_given_back(count: int) -> None:
    wanted = [problem(number) for number in range(count)]
    packed = Packed(LabelProblem, wanted)
    assert list(packed) == wanted
    assert len(packed) == count
    assert packed[-3:] == wanted[-3:]
    assert packed[:: BLOCK // 2] == wanted[:: BLOCK // 2]
    assert isinstance(packed.settled(), tuple) == (count < BLOCK)
    assert list(packed.settled()) == wanted
    assert [packed[-number] for number in range(1, count + 1, 97)] == wanted[::-1][::97]
    assert list(pickle.loads(pickle.dumps(packed))) == wanted  # loader processes get a copy
    with pytest.raises(IndexError):
        packed[count]
    packed.put_first(problem(-1))
    packed.append(problem(-2))
    assert list(packed) == [problem(-1), *wanted, problem(-2)]


def test_some_of_the_records() -> None:
    packed = Packed(LabelProblem, map(problem, range(3 * BLOCK)))
    positions = np.random.default_rng(0).permutation(3 * BLOCK)[:50]
    picked = Picked(packed, positions)
    assert list(picked) == [problem(number) for number in positions.tolist()]
    assert picked[:3] == list(picked)[:3]
    assert len(picked) == 50
