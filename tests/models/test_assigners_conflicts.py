"""models/assigners/conflicts.py against a plain loop, and that no object goes without where a point is left."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.assigners.conflicts import settle
from models.assigners.points import SimOTAAssigner, TaskAlignedAssigner
from tests.models.test_assigners_points import grid, positives_of, scene
from utils.structures import Targets

POINTS = 9


def contest(seed: int, *, objects: int = 12, images: int = 2, k: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Claims, merits with ties, points and images of random candidates among few points."""
    torch.manual_seed(seed)
    point = torch.stack([torch.randperm(POINTS)[:k] for _ in range(objects)])
    merit = torch.randint(5, (objects, k)) / 4
    return torch.rand(objects, k) > 0.2, merit, point, torch.randint(images, (objects,)).sort().values


def keep_one(claims: Tensor, merit: Tensor, point: Tensor, image: Tensor) -> Tensor:
    lost = torch.zeros(len(claims), 1, dtype=torch.bool)
    return settle(claims, merit, point, image, torch.Size((2, POINTS, 4)), lost=lost, one_to_one=True)


def by_hand(claims: Tensor, merit: Tensor, point: Tensor, image: Tensor) -> set[tuple[int, int]]:
    """(object, place among its candidates) of what each keeps."""

    def owners(wanted: dict[int, list[int]]) -> dict[tuple[int, int], int]:
        best: dict[tuple[int, int], int] = {}
        value: dict[tuple[int, int], float] = {}
        for m, places in sorted(wanted.items()):
            for j in places:
                key = (int(image[m]), int(point[m, j]))
                if key not in best or float(merit[m, j]) > value[key]:
                    best[key], value[key] = m, float(merit[m, j])
        return best

    everyone = {m: [j for j in range(claims.shape[1]) if claims[m, j]] for m in range(len(claims))}
    kept: dict[int, int] = {}
    wanted = everyone
    while wanted:
        settled = owners(wanted)
        for m, places in wanted.items():
            left = [j for j in places if settled[(int(image[m]), int(point[m, j]))] == m]
            if left:
                kept[m] = left[0]
        held = {(int(image[m]), int(point[m, j])) for m, j in kept.items()}
        free = {
            m: [j for j in places if (int(image[m]), int(point[m, j])) not in held]
            for m, places in everyone.items()
            if m not in kept
        }
        wanted = {m: places[:1] for m, places in free.items() if places}
    return set(kept.items())


@pytest.mark.parametrize("seed", range(20))
def test_equals_a_plain_loop(seed: int) -> None:
    claims, merit, point, image = contest(seed)
    kept = keep_one(claims, merit, point, image)
    assert {(m, j) for m, j in kept.nonzero().tolist()} == by_hand(claims, merit, point, image)


@pytest.mark.parametrize("seed", range(20))
def test_only_who_lost_every_candidate_has_none(seed: int) -> None:
    claims, merit, point, image = contest(seed, objects=18)
    kept = keep_one(claims, merit, point, image)
    assert not (kept & ~claims).any()
    assert kept.sum(dim=1).max() == 1
    places = (image[:, None] * POINTS + point)[kept].tolist()
    assert len(set(places)) == len(places), "a point answers for one object"
    for m in (~kept.any(dim=1)).nonzero().flatten().tolist():
        assert {int(image[m]) * POINTS + int(p) for p in point[m][claims[m]]} <= set(places)


def test_who_fits_best_has_the_point_and_the_other_its_next() -> None:
    """Both want point 3 most; the first also fits point 5, and point 7 fits nobody else."""
    point, claims = torch.tensor([[3, 5], [3, 7]]), torch.ones(2, 2, dtype=torch.bool)
    for merit, expected in (([[0.9, 0.1], [0.8, 0.2]], [[1, 0], [0, 1]]), ([[0.7, 0.1], [0.8, 0.2]], [[0, 1], [1, 0]])):
        image = torch.zeros(2, dtype=torch.int64)
        assert keep_one(claims, torch.tensor(merit), point, image).int().tolist() == expected


@pytest.mark.parametrize(
    "assigner", [TaskAlignedAssigner(top_k=7, one_to_one=True), SimOTAAssigner(candidates=7, one_to_one=True)]
)
def test_two_objects_with_one_best_point_both_have_a_positive(assigner: TaskAlignedAssigner | SimOTAAssigner) -> None:
    """The same box twice: every point is as good for the one as for the other. The best goes to the first."""
    points, strides = grid()
    box = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    targets = Targets(box.repeat(2, 1), torch.tensor([0, 0]), torch.tensor([0, 0]), torch.zeros(2, dtype=torch.bool))
    noise = torch.linspace(0, 4, len(points))[:, None]
    found = positives_of(assigner(targets, (box + noise)[None], torch.zeros(1, len(points), 1), points, strides))
    assert found.target.tolist() == [0, 1]
    assert len(set(found.point.tolist())) == 2
    assert found.score[0] > found.score[1]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", [TaskAlignedAssigner, SimOTAAssigner])
def test_in_a_crowd_every_object_has_one_point(seed: int, kind: type) -> None:
    targets, boxes, scores, points, strides = scene(seed, objects=30)
    argument = {"top_k": 7} if kind is TaskAlignedAssigner else {"candidates": 7}
    whole = kind(**argument, one_to_one=True)(targets, boxes, torch.logit(scores), points, strides)
    found = positives_of(whole)
    places = list(zip(found.image.tolist(), found.point.tolist(), strict=True))
    assert len(set(places)) == len(places)
    assert found.target.bincount().max() == 1
    assert len(whole.positive) == len(targets), "the loss looks at no more than that"
    before = kind(**dict.fromkeys(argument, 1))(targets, boxes, torch.logit(scores), points, strides)
    lost = ~before.positive.view(len(targets), -1).any(dim=1)
    assert lost.any(), "the case is there"
    assert whole.positive.sum() > len(targets) - lost.sum()
