"""A step that fails stops the run or is left out, with nothing changed; memory that ran out is told with what fits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine import diagnose, failure, step
from engine import memory as batch_size
from engine.failure import SKIPS_IN_A_ROW, Guard, RunFailed, StepFailed, saying_what_is_left
from engine.memory import find_batch_size
from engine.replay import load_replay
from engine.step import Stepper, train_step
from engine.trial_step import scratch_of, try_step, with_images
from tests.engine.steps import make, make_batch, same, whole_state
from utils.recipe import RecipeConfig
from utils.structures import Batch
from utils.train_config import TrainConfig

INFINITE = float("inf")


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    config = TrainConfig({}, RecipeConfig(), "shapes", (8, 8), None, 3, 0)
    about = {"config": config, "names": ["a"], "category_ids": [1], "task": "detect", "class_counts": [4]}
    return Guard(tmp_path, about)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """small_memory(n): from now on a step of more than n images finds no memory."""

    def install(images: int) -> None:
        real = step.loss_terms

        def limited(stepper: Stepper, batch: Batch) -> dict[str, torch.Tensor]:
            if len(batch) > images:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.\nGPU 0 has 7.79 GiB")
            return real(stepper, batch)

        monkeypatch.setattr(step, "loss_terms", limited)

    return install


# A batch that is changed


def test_a_batch_is_cut_or_repeated() -> None:
    batch = make_batch(3)
    assert len(with_images(batch, 1)) == 1
    seven = with_images(batch, 7)
    assert torch.equal(seven.images, batch.images[[0, 1, 2, 0, 1, 2, 0]])
    assert seven.targets.image_index.tolist() == list(range(7))
    assert seven.paths[3:5] == ("0-0.jpg", "0-1.jpg")
    crowded = replace(batch, targets=batch.targets.select(torch.tensor([False, True, False])))
    assert with_images(crowded, 5).targets.image_index.tolist() == [1, 4]
    assert len(with_images(crowded, 1).targets) == 0


def test_a_trial_leaves_no_trace() -> None:
    stepper, state = make()
    train_step(stepper, state, [make_batch()])
    before, lr = whole_state(state), state.optimizer.param_groups[0]["lr"]
    again, scratch = scratch_of(stepper, state)
    assert try_step(again, scratch, [make_batch(2)]) is None
    assert same(whole_state(state), before)
    assert (state.step, state.sums, state.optimizer.param_groups[0]["lr"]) == (1, {}, lr)


# Numbers that are not finite


def test_a_step_that_goes_well_is_the_step_itself(guard: Guard) -> None:
    one, two = make(), make()
    two[1].load_state_dict(one[1].state_dict())
    torch.manual_seed(5)
    expected = train_step(*one, [make_batch()])
    torch.manual_seed(5)
    assert guard.step(*two, [make_batch()]) == expected
    assert same(whole_state(one[1]), whole_state(two[1]))


def test_the_run_stops_before_anything_has_changed(guard: Guard, tmp_path: Path) -> None:
    stepper, state = make(norm_momentum=0.5)
    guard.step(stepper, state, [make_batch()])
    state.model[2].factor = INFINITE
    before = whole_state(state)
    with pytest.raises(StepFailed) as caught:
        guard.step(stepper, state, [make_batch(number=1), make_batch(number=2)])
    assert same(whole_state(state), before), "statistics of batch normalisation and random numbers too"
    path = tmp_path / "replay_step2.pt"
    assert str(caught.value).startswith("the loss of step 2 (epoch 1) is not a finite number: ")
    assert f"python train.py --replay {path}" in str(caught.value)
    replay = load_replay(path)
    assert [batch.paths for batch in replay.batches] == [make_batch(number=n).paths for n in (1, 2)]
    assert all(torch.equal(batch.images, make_batch(number=n).images) for n, batch in enumerate(replay.batches, 1))
    assert replay.state["step"] == 1
    assert torch.equal(replay.state["weights"]["1.running_mean"], before["weights.1.running_mean"])
    assert torch.equal(replay.state["rng"]["cpu"], before["rng"])
    assert (replay.failure["what"], replay.failure["step"], replay.rank) == ("loss", 2, 0)
    assert str(caught.value).startswith(replay.failure["message"])


def test_a_folder_that_cannot_be_written_does_not_hide_the_cause(guard: Guard, tmp_path: Path) -> None:
    stepper, state = make()
    state.model[2].factor = INFINITE
    guard.folder = tmp_path / "gone"
    with pytest.raises(StepFailed, match=r"first seen: output of 2 \(Scale\)[^$]*No replay file could be written: "):
        guard.step(stepper, state, [make_batch()])


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_bad_step_can_be_skipped(guard: Guard, caplog: pytest.LogCaptureFixture, amp: str) -> None:
    stepper, state = make(non_finite="skip", amp=amp)
    guard.step(stepper, state, [make_batch()])
    state.model[2].factor = INFINITE
    before = whole_state(state)
    with caplog.at_level(logging.WARNING):
        assert guard.step(stepper, state, [make_batch(number=1)]) == {}
    assert same(whole_state(state), before)
    assert (state.step, state.sums["skipped"]) == (2, 1)
    assert "Step skipped: the loss of step 2" in caplog.text
    state.model[2].factor = 1.0
    assert guard.step(stepper, state, [make_batch()])
    assert (state.step, guard.in_a_row) == (3, 0)


@pytest.mark.parametrize("missing", ["scratch_of", "try_step"])
def test_a_full_device_does_not_turn_a_bad_step_into_another_failure(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    """The copy of the model, or the step on it, finds no memory: it is skipped all the same, with its replay file."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(diagnose, missing, full)
    stepper, state = make(non_finite="skip")
    state.model[2].factor = INFINITE
    before = whole_state(state)
    assert guard.step(stepper, state, [make_batch()]) == {}
    assert same(whole_state(state), before)
    assert state.sums["skipped"] == 1
    assert "Step skipped: the loss of step 1 (epoch 1) is not a finite number" in caplog.text
    assert load_replay(guard.folder / "replay_step1.pt").failure["what"] == "loss"
    assert guard.step(*make(), [make_batch()])


def test_a_replay_file_that_finds_no_memory_does_not_hide_the_cause(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(failure, "save_replay", full)
    stepper, state = make()
    state.model[2].factor = INFINITE
    with pytest.raises(StepFailed, match=r"first seen: output of 2 \(Scale\)[^$]*No replay file could be written: "):
        guard.step(stepper, state, [make_batch()])


@pytest.mark.parametrize(
    ("mine", "others", "owner"), [(0, [0, 0], 0), (0, [1, 2], 2), (1, [0, 1], 0), (0, [0, 1], 2), (2, [2, 2], 0)]
)
def test_the_process_that_may_be_at_fault_tells(
    guard: Guard, monkeypatch: pytest.MonkeyPatch, mine: int, others: list[int], owner: int
) -> None:
    """First the one that is; then one that had no memory to look."""
    answers = iter([[mine, *others], [f"told by {rank}" for rank in range(3)]])
    monkeypatch.setattr(failure.dist, "gather", lambda _: next(answers))
    stepper, state = make()
    state.model[2].factor = INFINITE
    with pytest.raises(StepFailed, match=f"told by {owner}"):
        guard.step(stepper, state, [make_batch()])


def test_one_bad_step_after_another_stops_the_run_all_the_same(guard: Guard) -> None:
    stepper, state = make(non_finite="skip")
    state.model[2].factor = INFINITE
    for _ in range(SKIPS_IN_A_ROW):
        assert guard.step(stepper, state, [make_batch()]) == {}
    with pytest.raises(StepFailed, match=f"{SKIPS_IN_A_ROW + 1} steps in a row"):
        guard.step(stepper, state, [make_batch()])
    assert sorted(path.name for path in guard.folder.iterdir()) == [
        "replay_step1.pt",
        f"replay_step{SKIPS_IN_A_ROW + 1}.pt",
    ]


def test_weights_that_are_gone_are_not_skipped_over(guard: Guard) -> None:
    stepper, state = make(non_finite="skip")
    state.model[0].weight.data.fill_(INFINITE)
    with pytest.raises(StepFailed, match="weights that were not finite before the step"):
        guard.step(stepper, state, [make_batch()])


# fp16


def test_fp16_looks_for_its_scale_without_a_word(guard: Guard) -> None:
    stepper, state = make(amp="fp16")
    stepper = replace(stepper, criterion=lambda raw, _: {"box": 100 * raw.float().mean()})
    weight = state.model[0].weight.detach().clone()
    for _ in range(12):
        assert guard.step(stepper, state, [make_batch()])
    assert state.sums["overflows"] >= 1
    assert state.scaler.get_scale() < 2**16
    assert state.step == 12
    assert not torch.equal(state.model[0].weight, weight), "it has found one"


def test_a_scale_that_collapses_stops_the_run(guard: Guard) -> None:
    stepper, state = make(amp="fp16")
    stepper = replace(stepper, criterion=lambda raw, _: {"box": (raw.float().mean() * 0).abs().sqrt()})
    weight = state.model[0].weight.detach().clone()
    for _ in range(16):
        guard.step(stepper, state, [make_batch()])
    with pytest.raises(StepFailed, match=r"the gradient of step 17 \(epoch 1\) is not a finite number: ") as caught:
        guard.step(stepper, state, [make_batch()])
    assert state.scaler.get_scale() == 1
    assert "first seen: gradient, from the loss backwards, of the output of " in str(caught.value)
    assert torch.equal(state.model[0].weight, weight)


# Memory


def test_memory_that_runs_out_is_told_with_what_fits(guard: Guard, small_memory: Callable[[int], None]) -> None:
    stepper, state = make(batch_size=16)
    before = whole_state(state)
    small_memory(5)
    with pytest.raises(StepFailed) as caught:
        guard.step(stepper, state, [make_batch(16)])
    reason = "CUDA out of memory. Tried to allocate 20.00 MiB."
    assert str(caught.value).splitlines() == [
        f"out of memory on cpu in step 1: 16 images of 8 x 8 px do not fit ({reason})",
        "  what fits, by trial: 4 images",
        "  remedy: --batch-size 4 --set nominal_batch_size=16 (steps as large, in parts)",
        "  or --batch-size auto, --set amp=bf16, a smaller --img-size, a smaller model, or closing other programs that "
        "use the device",
    ]
    assert same(whole_state(state), before)
    assert all(parameter.grad is None for parameter in state.model.parameters())


def test_not_one_image_fits(guard: Guard, small_memory: Callable[[int], None]) -> None:
    small_memory(0)
    with pytest.raises(StepFailed, match="what fits, by trial: not even one image\n  remedy: "):
        guard.step(*make(amp="bf16"), [make_batch(1)])


def test_the_processors_own_allocator_is_understood(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object) -> dict[str, float]:
        torch.empty(10**15)
        return {}

    monkeypatch.setattr(failure, "train_step", greedy)
    with pytest.raises(StepFailed, match=r"out of memory on cpu in step 1.*\n.*what fits, by trial: 2 images"):
        guard.step(*make(), [make_batch(4)])


def test_another_error_is_passed_on(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> dict[str, float]:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(failure, "train_step", wrong)
    with pytest.raises(RuntimeError, match="shapes"):
        guard.step(*make(), [make_batch()])


@pytest.mark.parametrize(
    ("fits", "images", "expected"), [(5, 1000, 4), (1000, 1000, 32), (1000, 100, 8), (1000, 8, 4), (1000, 1, 1)]
)
def test_the_batch_size_is_found_by_trial(
    small_memory: Callable[[int], None], fits: int, images: int, expected: int
) -> None:
    stepper, state = make()
    before = whole_state(state)
    small_memory(fits)
    found = find_batch_size(stepper, state, make_batch(3), size=(16, 8), images=images)
    assert found == expected
    assert same(whole_state(state), before)
    assert not state.optimizer.state


def test_no_batch_size_is_found(small_memory: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory(0)
    with pytest.raises(
        ValueError, match="--batch-size auto: not even one image of 8 x 8 px fits into the memory of cpu"
    ):
        find_batch_size(*make(), make_batch(2), size=(8, 8), images=100)
    monkeypatch.setattr(batch_size, "free_memory", lambda _: 1)
    small_memory(100)
    with pytest.raises(ValueError, match="not even one image"):
        find_batch_size(*make(), make_batch(2), size=(8, 8), images=100)


# What is told


def test_each_bad_image_is_told_once_and_counted_each_time(guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    stepper, state = make()
    bad = replace(make_batch(2), problems=("a.jpg: gone\nb.jpg: gone", ""))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            guard.step(stepper, state, [make_batch(), bad])
    assert state.sums["bad_images"] == 6
    assert [record.getMessage() for record in caplog.records] == [
        f"Another image in its place (bad_images: skip): {name}.jpg: gone" for name in "ab"
    ]


def test_what_is_left_of_a_run_is_said(tmp_path: Path) -> None:
    last = tmp_path / "last.pt"
    with saying_what_is_left(last, tmp_path):
        pass
    with pytest.raises(RunFailed, match="no room\n  There was no checkpoint yet"), saying_what_is_left(last, tmp_path):
        raise ValueError("no room")
    last.touch()
    with (
        pytest.raises(RunFailed, match=f"to go on from it: python train.py --resume {tmp_path}"),
        saying_what_is_left(last, tmp_path),
    ):
        raise ValueError("no room")
    with pytest.raises(RunFailed, match=f"with another recipe, --weights {last}"), saying_what_is_left(last, tmp_path):
        raise StepFailed("not finite")
    with pytest.raises(KeyboardInterrupt, match="stopped at once\n  The last checkpoint is whole"):
        interrupted(last, tmp_path)
    last.unlink()
    with pytest.raises(KeyboardInterrupt, match="stopped at once\n  There was no checkpoint yet"):
        interrupted(last, tmp_path)
    with pytest.raises(KeyError), saying_what_is_left(last, tmp_path):
        raise KeyError("a mistake of the program")


def test_a_run_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    expected = f"no room\n  {moved} is gone; put it back, and go on with: python train.py --resume {moved}"
    with pytest.raises(RunFailed, match=expected), saying_what_is_left(moved / "weights" / "last.pt", moved):
        raise ValueError("no room")


def interrupted(last: Path, folder: Path) -> None:
    """What a second Ctrl-C does."""
    with saying_what_is_left(last, folder):
        raise KeyboardInterrupt
