"""A training step waits for its device once: shown on torch's meta device, whose tensors have no values to wait for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.state import TrainState
from engine.step import StepClock, Stepper, train_step
from models.build import build_criterion, build_model
from models.config import load_model_config
from models.regularization import regularize_
from tests.engine.steps import make, make_batch
from utils.recipe import RecipeConfig, load_recipe
from utils.structures import Batch, Targets

META = torch.device("meta")
NEW_TENSOR = torch.Tensor.new_tensor
MOST = 3
"""Waits a step, whatever is in its batches."""

SMALL = ["backbone.channels=[8, 16, 24, 32]", "backbone.depths=[0, 1, 1, 1]", "neck.channels=[8, 16, 24]"]
SMALL.append("neck.out_channels=[8, 8, 8]")
DETECT = ("coco", "default", "shapes")
DARKNET = ("paper", "paper-optimal")
CLASSIFY = ("imagenet", "imagenet-gamma", "imagenet-small")


class Waits(TorchDispatchMode):
    """Notes what would make the host wait for a device; whatever needs values in another way raises on meta.

    Values that are read are 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.doubles: list[str] = []
        """What gives float64 on the device; Apple's GPUs have none, and raise a TypeError."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = [tensor for tensor in tensors if tensor.is_meta]
        if name in ("_local_scalar_dense", "is_nonzero", "equal") and on_device:
            self.found.append(name)
            return 1
        if name in ("_to_copy", "copy_") and self._is_from_device(name, args, kwargs):
            self.found.append("copy to the host")
            return torch.ones_like(args[0], device="cpu") if name == "_to_copy" else args[0].fill_(1)
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.doubles += [name for leaf in made if leaf.is_meta and leaf.dtype == torch.float64]
        if name in ("index", "index_put", "index_put_", "_index_put_impl_") and on_device:
            self.found += [name for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
        if name in ("_to_copy", "copy_", "lift_fresh") and result.is_meta and self._keeps_host(name, args, kwargs):
            self.found.append(f"{name} to the device")
        return result

    @staticmethod
    def _is_from_device(name: str, args: Any, kwargs: Any) -> bool:
        if name == "copy_":
            return args[1].is_meta and not args[0].is_meta
        return args[0].is_meta and torch.device(kwargs.get("device") or META).type == "cpu"

    @staticmethod
    def _keeps_host(name: str, args: Any, kwargs: Any) -> bool:
        """Whether a copy to the device holds up the host: `tensor.to(device)`, and `torch.tensor(..., device=...)`."""
        if name == "lift_fresh":
            return True
        source = args[1] if name == "copy_" else args[0]
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        return blocking and not source.is_meta and not (name == "copy_" and source.ndim == 0)


@pytest.fixture(autouse=True)
def the_meta_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast does not know it, and `new_tensor` makes tensors on it without a copy that could be seen."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch.Tensor, "new_tensor", refuse)


def refuse(like: Tensor, numbers: Any, **options: Any) -> Tensor:
    assert not like.is_meta, f"new_tensor({numbers}): the host waits for the copy to the device; see on_device"
    return NEW_TENSOR(like, numbers, **options)


def stepper_of(name: str, recipe: RecipeConfig, overrides: list[str]) -> tuple[Stepper, TrainState]:
    model = build_model(load_model_config(name, overrides), 5)
    regularize_(model, recipe)
    model = model.train().to(META)
    criterion = build_criterion(model, recipe.loss, where="loss", class_counts=[1, 2, 3, 4, 5])
    recipe = replace(recipe, epochs=10)
    stepper = Stepper(model, criterion.to(META), recipe, 100, 0, META, StepClock(META))
    state = TrainState.create(model, recipe, META)
    state.step = 50
    return stepper, state


def detections(seed: int, *, side: int = 64, most: int = 9, crowd: float = 0.0) -> Batch:
    """Three images with up to `most` objects each; the first image has none."""
    rng = np.random.default_rng(seed)
    index = np.repeat(np.arange(3), [0, *rng.integers(0, most + 1, 2)])
    low = rng.uniform(0, side - 8, (len(index), 2))
    boxes = np.concatenate((low, low + rng.uniform(2, 8, (len(index), 2))), axis=1)
    labels, flags = rng.integers(0, 5, len(index)), rng.random(len(index)) < crowd
    targets = Targets(*map(torch.from_numpy, (boxes.astype(np.float32), labels, index, flags)))
    return Batch(torch.zeros(3, 3, side, side, dtype=torch.uint8), targets, (1, 2, 3), ("a", "b", "c"))


EVERYTHING = [detections(3, crowd=0.3), detections(4, side=96, most=30), detections(5, most=0)]


def batches_of_every_kind() -> Iterator[list[Batch]]:
    """Batches of a step: plain, without objects, with crowd regions alone, in three parts of different sizes."""
    yield [detections(1)]
    yield [detections(1, most=0)]
    yield [detections(2, crowd=1.0)]
    yield EVERYTHING


def assert_rarely_waits(stepper: Stepper, state: TrainState, batches: list[Batch]) -> None:
    with Waits() as waits:
        terms = train_step(stepper, state, batches)
    assert set(terms.values()) == {1.0}
    assert len(waits.found) <= MOST, waits.found
    assert waits.found == ["copy to the host"], "the losses and the norm, together"
    assert waits.doubles == []


@pytest.mark.parametrize(
    ("name", "recipe"),
    [*(("cspdet-n", recipe) for recipe in DETECT), ("cspdet-n-af", "default"), ("cspdet-n-e2e", "default")],
)
def test_a_step_of_a_detector(name: str, recipe: str) -> None:
    stepper, state = stepper_of(name, replace(load_recipe(recipe), amp="off"), SMALL)
    for batches in batches_of_every_kind() if recipe == "default" else [EVERYTHING]:
        assert_rarely_waits(stepper, state, batches)


@pytest.mark.parametrize("recipe", DARKNET)
def test_a_step_of_the_authors_recipes(recipe: str) -> None:
    stepper, state = stepper_of("yolov3-tiny", replace(load_recipe(recipe), amp="off"), [])
    assert stepper.criterion.ignore_thresh is not None
    assert_rarely_waits(stepper, state, EVERYTHING)


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("cspdet-n", {"box": "giou", "class_counters": "auto", "label_smoothing": 0.1, "ignore_thresh": 0.5}),
        ("cspdet-n", {"box": "diou", "box_gradient": "darknet", "max_delta": 5.0, "normalize": "images"}),
        ("cspdet-n", {"box": "iou", "assigner": {"type": "anchor_iou"}, "objectness_target": "one"}),
        ("cspdet-n-af", {"assigner": {"type": "simota"}, "box": "giou"}),
        ("cspdet-n-e2e", {"assigner": {"type": "simota"}, "box": "iou"}),
        ("cspdet-n-e2e", {"one_to_many": [0.8, 0.1]}),
    ],
)
def test_other_losses(name: str, loss: dict[str, Any]) -> None:
    stepper, state = stepper_of(name, replace(load_recipe("default"), amp="off", loss=loss), SMALL)
    assert_rarely_waits(stepper, state, EVERYTHING)


@pytest.mark.parametrize("changes", [["cross_batch_norm=true"], ["dropblock.probability=0.1"], ["adversarial.lr=1.0"]])
def test_other_things_in_a_step(changes: list[str]) -> None:
    recipe = load_recipe("default", ["amp=off", *changes])
    stepper, state = stepper_of("cspdet-n", recipe, SMALL)
    assert_rarely_waits(stepper, state, EVERYTHING)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_every_optimizer(optimizer: str) -> None:
    stepper, state = stepper_of("cspdet-n", load_recipe("default", ["amp=off", f"optimizer.type={optimizer}"]), SMALL)
    assert_rarely_waits(stepper, state, [detections(1)])


@pytest.mark.parametrize(("recipe", "mixed"), [*((recipe, True) for recipe in CLASSIFY), (CLASSIFY[0], False)])
def test_a_step_of_a_classifier(recipe: str, mixed: bool) -> None:
    stepper, state = stepper_of("peleenet", replace(load_recipe(recipe), amp="off"), [])
    index = torch.tensor([0, 0, 1, 2]) if mixed else torch.arange(3)
    weights = torch.tensor([0.3, 0.7, 1.0, 1.0]) if mixed else None
    targets = Targets(torch.zeros(len(index), 4), index % 5, index, torch.zeros(len(index)).bool(), weights)
    batch = replace(detections(1), targets=targets)
    assert_rarely_waits(stepper, state, [batch, batch])


@pytest.mark.parametrize("name", ["cspdet-n", "cspdet-n-af", "cspdet-n-e2e", "yolov3-tiny"])
def test_no_double_reaches_the_device_in_a_prediction(name: str) -> None:
    model = build_model(load_model_config(name, [] if name == "yolov3-tiny" else SMALL), 5).eval().to(META)
    with Waits() as waits, torch.inference_mode():
        boxes, scores = model.predict(torch.zeros(2, 3, 64, 64, device=META))
    assert (boxes.dtype, scores.dtype, waits.doubles) == (torch.float32, torch.float32, [])


def test_the_counter_sees_doubles() -> None:
    with Waits() as waits:
        torch.ones(3, device=META).double()
        torch.from_numpy(np.ones(3)).to(META, non_blocking=True)
        torch.ones(3, dtype=torch.float64)
    assert waits.doubles == ["_to_copy", "_to_copy"]


def test_the_counter_sees_what_waits() -> None:
    """Each kind of waiting that it is there to find."""
    values, mask = torch.ones(4, device=META), torch.ones(4, dtype=torch.bool, device=META)
    with Waits() as waits:
        float(values[0])
        values.tolist()
        values.cpu()
        values[mask] = values[0]
        torch.ones(3).to(META)
        values.copy_(torch.ones(4))
        torch.ones(4).copy_(values)
    kinds = {"_local_scalar_dense", "copy to the host", "index_put_", "_to_copy to the device", "copy_ to the device"}
    assert kinds <= set(waits.found), waits.found
    assert len(waits.found) == 7
    with Waits() as waits:
        torch.ones(3).to(META, non_blocking=True)
        torch.where(mask, values, 0)
    assert waits.found == []
    for ask in (lambda: values[mask], mask.nonzero, values.unique, lambda: torch.where(mask)):
        with pytest.raises((NotImplementedError, RuntimeError)), Waits():
            ask()


def test_the_scaler_of_fp16_asks_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, where values are read one by one or, like the losses, all together (`tolist`, which is not seen)."""
    asked: list[str] = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.overloadpacket.__name__ == "_local_scalar_dense":
                asked.append("read")
            return func(*args, **kwargs or {})

    stepper, state = make(amp="off", clip_norm=1.0)
    state.scaler = torch.amp.GradScaler("cpu", enabled=True)
    with Reads():
        train_step(stepper, state, [make_batch()])
    assert len(asked) < MOST, asked
