"""engine/notes.py: what each process finds is told once, by rank 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from engine import notes as notes_module
from engine.loop import share_records
from engine.notes import FileNotes
from utils import dist


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Be a rank, beside others that hand over these values."""

    def be(number: int, *others: list) -> None:
        monkeypatch.setattr(dist, "rank", lambda: number)
        monkeypatch.setattr(dist, "gather", lambda own: json.loads(json.dumps([own, *others])))

    return be


def test_one_process_tells_each_text_once(caplog: pytest.LogCaptureFixture) -> None:
    notes = FileNotes()
    notes.add("a", "b", "a")
    notes.add("b", "100 %s")
    assert caplog.messages == ["a", "b", "100 %s"]
    assert notes.share([]) == (0, "")
    assert notes.share(["c", "d"]) == (2, "c")
    assert len(caplog.messages) == 3


def test_rank_0_tells_what_the_others_have_found(rank: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    rank(1)
    theirs = FileNotes()
    theirs.add("b", "c")
    theirs.add("c")
    assert not caplog.messages
    assert theirs.waiting == ["b", "c"]
    assert theirs.share(["x"]) == (1, "x")
    assert not theirs.waiting
    assert not caplog.messages
    rank(0, [["b", "c"], 1, ["x"]], [["c", "d"], 5, ["y"]])
    mine = FileNotes()
    mine.add("a", "b")
    assert mine.share([]) == (6, "x")
    assert caplog.messages == ["a", "b", "c", "d"]
    assert mine.share(["w", "z"]) == (8, "w")
    assert caplog.messages == ["a", "b", "c", "d"]


def test_what_is_handed_over_is_bounded(
    rank: Callable[..., None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rank(3)
    notes, sent = FileNotes(), []
    notes.add(*(f"{'x' * 10_000}{number}"[-9_000:] for number in range(1000)))
    monkeypatch.setattr(dist, "gather", lambda own: sent.append(own) or [own])
    notes.share(["y" * 10_000] * 10_000)
    assert len(json.dumps(sent)) < (notes_module.MOST + 2) * (notes_module.LONGEST + 10)
    assert sent[0][0][-1] == "rank 3: 950 more files like these"
    assert sent[0][1] == 10_000
    notes.share([])
    assert sent[1] == [[], 0, []]


def test_an_epoch_has_the_counts_of_all_ranks_and_the_longest_wait(rank: Callable[..., None]) -> None:
    rank(0)
    job = SimpleNamespace(notes=FileNotes(replaced=["a"]))
    state = SimpleNamespace(sums={"time/wait": 2.0, "bad_images": 3})
    answers = iter([[2.0, 7.5, 1.0], [[[], 0, []], [["b"], 4, ["c"]], [[], 1, ["d"]]]])
    state.count = lambda values: state.sums.update({key: state.sums[key] + values[key] for key in values})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "gather", lambda _: next(answers))
        share_records(job, state)
    assert state.sums == {"time/wait": 7.5, "bad_images": 8}
    assert job.notes.replaced == []
