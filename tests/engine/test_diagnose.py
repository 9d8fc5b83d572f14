"""Each cause of a number that is not finite is told from the others, and nothing of the run is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from engine import diagnose
from engine.diagnose import data_problems, describe_failure, examine
from engine.state import TrainState
from engine.step import Stepper, TrainingDiverged, train_step
from tests.engine.steps import make, make_batch, same, whole_state
from utils.structures import Batch, Targets

INFINITE = float("inf")


def failed(stepper: Stepper, state: TrainState, batches: list[Batch]) -> str:
    """What the user is told of a step that fails."""
    with pytest.raises(TrainingDiverged) as caught:
        train_step(stepper, state, batches)
    stepper.before.restore_(state.model)
    before = whole_state(state)
    evidence = examine(stepper, state, batches)
    assert same(whole_state(state), before), "the run is as it was"
    assert all(parameter.grad is None for parameter in state.model.parameters())
    assert not any(module._forward_hooks for module in state.model.modules())
    return describe_failure(caught.value, evidence, lr=0.01)


def test_a_batch_without_objects_has_no_problem() -> None:
    images = torch.zeros(1, 3, 8, 8)
    assert list(data_problems(Batch(images, Targets.empty(), (1,), ("a.jpg",)))) == []


def test_a_step_that_is_finite_is_said_to_be() -> None:
    stepper, state = make()
    train_step(stepper, state, [make_batch()])
    evidence = examine(stepper, state, [make_batch()])
    assert not evidence.is_at_fault
    assert evidence.failure is None
    text = describe_failure(TrainingDiverged("loss", state, {"box": INFINITE}, 0), evidence, lr=0.01)
    assert "likely cause: none that can be repeated: done again, the same step is finite" in text


def test_weights_that_were_not_finite_before() -> None:
    stepper, state = make()
    state.model[0].weight.data[0, 0, 0, 0] = INFINITE
    text = failed(stepper, state, [make_batch()])
    assert "likely cause: weights that were not finite before the step: 0.weight" in text
    assert "remedy: start from another --weights file" in text
    assert "first seen: output of 0 (Conv2d), " in text


def test_records_of_the_optimizer_that_are_not_finite() -> None:
    stepper, state = make()
    train_step(stepper, state, [make_batch()])
    state.optimizer.state[state.model[0].weight]["momentum"][0] = INFINITE
    evidence = examine(stepper, state, [make_batch()])
    assert evidence.weights == ["momentum of 0.weight in the optimizer"]


def test_a_box_that_is_none_names_its_file() -> None:
    stepper, state = make()
    bad, boxes = make_batch(number=1), make_batch().targets.boxes.clone()
    boxes[2, 2] = boxes[2, 0]
    bad = replace(bad, targets=replace(bad.targets, boxes=boxes))
    text = failed(stepper, state, [make_batch(), bad])
    assert "1-2.jpg: a box without width or height, or not finite: [1, 1, 1, 6], label 0" in text
    assert "images: 1-0.jpg, 1-1.jpg, 1-2.jpg, 1-3.jpg\n" in text, "of the second batch alone"
    assert text.startswith("the loss of step 1 (epoch 1) is not a finite number: box inf, class ")


def test_pixels_that_are_not_finite_name_their_file() -> None:
    stepper, state = make()
    images = make_batch().images / 255
    images[3, 0, 0, 0] = float("nan")
    text = failed(stepper, state, [replace(make_batch(), images=images)])
    assert "likely cause: the data: 0-3.jpg: pixels that are not finite" in text
    assert "images: 0-3.jpg\n" in text, "the only row of the first output that is not finite"


def test_half_precision_that_overflows() -> None:
    stepper, state = make(amp="fp16")
    state.model[2].factor = 1e6
    text = failed(stepper, state, [make_batch()])
    assert "first seen: output of 2 (Scale), " in text
    assert "(float16)" in text
    assert "likely cause: mixed precision: in full precision the same step is finite (float16 ends at 6.55e+04)" in text
    assert "--set amp=bf16" in text


def test_too_little_memory_for_full_precision_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    real = diagnose.try_step

    def too_large(again: Stepper, *arguments: object, **options: object) -> TrainingDiverged | None:
        if again.recipe.amp == "off":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(again, *arguments, **options)

    monkeypatch.setattr(diagnose, "try_step", too_large)
    stepper, state = make(amp="bf16")
    state.model[2].factor = INFINITE
    assert "likely cause: what 2 (Scale) computes from finite numbers" in failed(stepper, state, [make_batch()])


def test_a_training_that_has_blown_up() -> None:
    stepper, state = make()
    state.model[5].weight.data *= 1e30
    text = failed(stepper, state, [make_batch()])
    assert "likely cause: the training has blown up (values up to " in text
    assert "learning rate 0.01)" in text
    assert "remedy: a lower optimizer.lr" in text


def test_a_loss_that_is_infinite_on_finite_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, state = make()
    stepper = replace(stepper, criterion=lambda raw, _: {"box": raw.mean(), "class": (raw.mean() * 0).log()})
    text = failed(stepper, state, [make_batch()])
    assert "first seen: the loss itself" in text
    assert "likely cause: the loss term class: every output of the network is finite" in text


class Burst(nn.Module):
    """The identity with an infinite gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0 * (x - x.detach()).abs().sqrt()


def test_a_gradient_is_traced_back_to_where_it_starts() -> None:
    stepper, state = make()
    state.model[2] = Burst()
    state.optimizer.param_groups[0]["params"] = list(state.model.parameters())
    text = failed(stepper, state, [make_batch()])
    assert text.startswith("the gradient of step 1 (epoch 1) is not a finite number: box ")
    assert "first seen: gradient, from the loss backwards, of the output of 1 (BatchNorm2d)" in text


def test_of_several_batches_the_one_whose_gradient_is_bad_is_named() -> None:
    stepper, state = make()

    def some(raw: torch.Tensor, targets: Targets) -> dict[str, torch.Tensor]:
        burst = raw.mean() * 0 if len(targets) == 3 else raw.mean() ** 2 + 1
        return {"box": burst.abs().sqrt()}

    stepper = replace(stepper, criterion=some)
    text = failed(stepper, state, [make_batch(number=0), make_batch(3, number=1), make_batch(number=2)])
    assert "images: 1-0.jpg, 1-1.jpg, 1-2.jpg\n" in text


def test_many_images_are_counted() -> None:
    stepper, state = make()
    state.model[2].factor = INFINITE
    text = failed(stepper, state, [make_batch(9)])
    assert "images: 0-0.jpg, 0-1.jpg, 0-2.jpg, 0-3.jpg and 5 more\n" in text


def full_from(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """From now on these functions of engine/diagnose.py find no memory."""

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    for name in names:
        monkeypatch.setattr(diagnose, name, full)


def test_with_too_little_memory_for_gradients_the_forward_pass_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, state = make(amp="bf16")
    state.model[2].factor = INFINITE
    expected = failed(stepper, state, [make_batch(number=1), make_batch(number=2)])
    full_from(monkeypatch, "try_step")
    text = failed(stepper, state, [make_batch(number=1), make_batch(number=2)])
    assert text == expected
    assert "first seen: output of 2 (Scale), " in text


def test_what_the_forward_pass_alone_does_not_show_is_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    stepper, state = make()
    state.model[2] = Burst()
    full_from(monkeypatch, "try_step")
    text = failed(stepper, state, [make_batch()])
    assert "first seen: nowhere in the forward pass; there is too little memory to do the backward pass again" in text
    assert "likely cause: not found, for want of memory to do the step again beside the run" in text
    assert "remedy: do it again with --replay" in text


def test_without_memory_for_a_copy_weights_and_data_are_still_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    full_from(monkeypatch, "scratch_of")
    stepper, state = make()
    state.model[2].factor = INFINITE
    text = failed(stepper, state, [make_batch()])
    assert "first seen: not looked for: there is too little memory to do the step again" in text
    assert "images: 0-0.jpg, 0-1.jpg, 0-2.jpg, 0-3.jpg" in text
    state.model[0].weight.data[0, 0, 0, 0] = INFINITE
    text = failed(stepper, state, [make_batch()])
    assert "likely cause: weights that were not finite before the step: 0.weight" in text
    assert "1.running_mean" not in text, "which the failed step has spoiled"
    stepper, state = make()
    boxes = make_batch().targets.boxes.clone()
    boxes[2, 2] = boxes[2, 0]
    bad = replace(make_batch(), targets=replace(make_batch().targets, boxes=boxes))
    assert "0-2.jpg: a box without width or height" in failed(stepper, state, [bad])


def test_another_error_while_looking_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(diagnose, "scratch_of", wrong)
    with pytest.raises(RuntimeError, match="shapes"):
        examine(*make(), [make_batch()])
