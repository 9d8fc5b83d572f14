"""TrainState saves and loads whole; amp_dtype says what mixed precision is."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.state import TrainState, amp_dtype, check_precision
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import ConfigError
from utils.launch import graceful_stop
from utils.recipe import OptimizerConfig, RecipeConfig

CPU = torch.device("cpu")


def make(kind: str = "adamw") -> TrainState:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 1, 1))
    return TrainState.create(model, RecipeConfig(optimizer=OptimizerConfig(type=kind), amp="off"), CPU)


def step(state: TrainState) -> float:
    loss = state.model(torch.randn(2, 3, 6, 6)).square().mean()
    state.scaler.scale(loss).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    state.ema.update_parameters(state.model)
    state.step += 1
    return loss.item()


def equal(one: object, two: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(equal, one, two))
    return one == two


def test_the_state_before_the_first_step_goes_to_disk_and_back(tmp_path: Path) -> None:
    state = make()
    save_checkpoint(tmp_path / "last.pt", state.state_dict())
    other = make()
    other.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
    assert equal(other.state_dict(), state.state_dict())


@pytest.mark.parametrize("kind", ["sgd", "adamw", "muon"])
def test_a_state_that_went_through_a_file_goes_on_exactly(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(1)
    state = make(kind)
    for _ in range(3):
        step(state)
    state.epoch, state.batch, state.best, state.best_epoch, state.sums = 2, 5, 0.5, 1, {"box": 0.1}
    save_checkpoint(tmp_path / "last.pt", state.state_dict())
    expected = [step(state) for _ in range(4)]
    torch.manual_seed(77)
    other = make(kind)
    other.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
    assert (other.step, other.epoch, other.batch, other.best, other.best_epoch) == (3, 2, 5, 0.5, 1)
    assert [step(other) for _ in range(4)] == expected, "weights, optimizer, and dropout's random numbers"
    assert equal(other.state_dict(), state.state_dict())


@pytest.mark.parametrize(("accumulate", "expected"), [(1, 2), (2, 5), (9, 7)])
def test_an_epoch_begun_again_takes_its_steps_back(accumulate: int, expected: int) -> None:
    state = make()
    state.step, state.epoch, state.batch, state.sums = 7, 3, 5, {"steps": 5.0}
    state.begin_epoch_again(accumulate=accumulate)
    assert (state.step, state.epoch, state.batch, state.sums) == (expected, 3, 0, {})


def test_the_average_is_apart_from_the_weights() -> None:
    state = make()
    for _ in range(3):
        step(state)
    saved = state.state_dict()
    assert saved["weights"].keys() == saved["ema"].keys()
    assert saved["ema_updates"] == 3
    assert not torch.equal(saved["weights"]["0.weight"], saved["ema"]["0.weight"])


def test_mixed_precision_is_what_the_recipe_says() -> None:
    for amp, expected in (("off", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        assert amp_dtype(RecipeConfig(amp=amp), CPU) is expected
    assert amp_dtype(RecipeConfig(amp="auto"), CPU) in (None, torch.bfloat16)
    assert amp_dtype(RecipeConfig(amp="auto"), torch.device("mps")) is None


def test_only_fp16_scales_its_gradients() -> None:
    for amp, scaled in (("off", False), ("bf16", False), ("fp16", True)):
        state = TrainState.create(nn.Linear(2, 2), RecipeConfig(amp=amp), CPU)
        assert state.scaler.is_enabled() is scaled


def test_a_run_that_goes_on_elsewhere_needs_no_scale_and_may_begin_one() -> None:
    plain, scaled = (TrainState.create(nn.Linear(2, 2), RecipeConfig(amp=amp), CPU) for amp in ("off", "fp16"))
    before = scaled.scaler.get_scale()
    scaled.load_state_dict(plain.state_dict())
    assert scaled.scaler.get_scale() == before
    plain.load_state_dict(scaled.state_dict())


def test_a_checkpoint_that_does_not_fit_the_configuration_is_refused() -> None:
    saved = TrainState.create(nn.Linear(2, 2), RecipeConfig(), CPU).state_dict()
    others = [(nn.Linear(3, 2), "muon"), (nn.Conv2d(2, 2, 1), "muon")]
    others += [(nn.Linear(2, 2), "sgd"), (nn.Linear(2, 2), "adamw")]
    for model, kind in others:
        state = TrainState.create(model, RecipeConfig(optimizer=OptimizerConfig(type=kind)), CPU)
        with pytest.raises(ConfigError, match=r"last.pt: does not fit the config.yaml of its run \(.+\)"):
            state.resume(saved, where="last.pt")
    state = TrainState.create(nn.Linear(2, 2), RecipeConfig(), CPU)
    state.resume(saved, where="last.pt")
    assert torch.equal(state.model.weight, saved["weights"]["weight"])


@pytest.mark.parametrize(
    ("figures", "best", "ends_after"),
    [
        ([0.2, 0.2, 0.2], 3, None),
        ([None, None, None, None], 4, None),
        ([0.0, 0.0, 0.0, 0.0], 4, None),
        ([0.0, 0.0, 0.0, 0.1, 0.05, 0.1, 0.1], 7, 7),
        ([0.3, 0.2, 0.1, 0.0], 1, 4),
    ],
)
def test_of_equal_results_the_later_is_the_best_and_patience_begins_above_zero(
    figures: list[float | None], best: int, ends_after: int | None
) -> None:
    recipe = RecipeConfig(patience=3)
    state = TrainState.create(nn.Linear(2, 2), recipe, CPU)
    ended = None
    for figure in figures:
        state.epoch += 1
        assert state.note_result(figure) == (state.best_epoch == state.epoch)
        if state.is_out_of_patience(recipe):
            ended = state.epoch
    assert (state.best_epoch, ended) == (best, ends_after)
    older = state.state_dict()
    del older["better_epoch"]
    older["best"] = -1.0 if figures[0] is None else older["best"]
    state.load_state_dict(older)
    state.epoch += 1
    assert state.note_result(None if figures[0] is None else 1.0), "goes on from a checkpoint of an older release"


def test_a_stop_with_nothing_to_save_ends_at_once() -> None:
    with graceful_stop() as stop:
        stop.at_once = True
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_a_stop_is_noted_once_and_insisted_on_twice() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with graceful_stop() as stop:
        assert not stop.requested(CPU)
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested(CPU)
        assert stop.signal == signal.SIGTERM
        signal.raise_signal(signal.SIGTERM)  # torchrun passes on what the process was already told
        stop.since -= 3
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("key", ["weights", "ema", "ema_updates", "optimizer", "scaler", "rng", "step", "best", "sums"])
def test_a_checkpoint_that_lacks_something_is_refused_with_its_name(key: str) -> None:
    state = make()
    step(state)
    saved = {name: value for name, value in state.state_dict().items() if name != key}
    with pytest.raises(ConfigError, match=rf"last\.pt: '{key}' is missing in it, so no training can go on from it"):
        make().resume(saved, where="last.pt")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer", []),
        ("optimizer", {"state": {}, "param_groups": []}),
        ("rng", {}),
        ("rng", {"cpu": torch.zeros(3)}),
        ("scaler", None),
        ("step", "3"),
        ("epoch", -1),
        ("batch", 1.5),
        ("ema_updates", True),
        ("best", "high"),
        ("best", float("nan")),
        ("sums", 3),
        ("fingerprint", 7),
    ],
)
def test_values_of_a_wrong_kind_are_refused_where_the_file_is_opened(key: str, value: object, tmp_path: Path) -> None:
    state = make()
    step(state)
    save_checkpoint(tmp_path / "last.pt", {**state.state_dict(), key: value})
    with pytest.raises(ConfigError, match=rf"last\.pt: {key}: expected "):
        load_checkpoint(tmp_path / "last.pt")


def test_what_the_check_cannot_see_ends_in_the_same_message() -> None:
    state = make()
    step(state)
    saved = state.state_dict()
    for optimizer in (
        {"state": {}, "param_groups": [{}]},
        {"state": {0: 3}, "param_groups": [{"betas": 1, "params": 7}]},
    ):
        with pytest.raises(ConfigError, match=r"last\.pt: (does not fit the config.yaml|.* is missing)"):
            make().resume({**saved, "optimizer": optimizer}, where="last.pt")
    with pytest.raises(ConfigError, match=r"last\.pt: does not fit"):
        make().resume({**saved, "rng": {"cpu": torch.zeros(3, dtype=torch.uint8)}}, where="last.pt")


@pytest.mark.parametrize(("kind", "key"), [("adamw", "fused"), ("sgd", "foreach")])
def test_an_older_checkpoint_goes_on_with_the_kernels_of_now(kind: str, key: str) -> None:
    """PyTorch takes over which kernels a saved optimizer had; others know nothing of fp16's scaler."""
    state, older = make(kind), make(kind)
    step(older)
    saved = older.state_dict()
    for group in saved["optimizer"]["param_groups"]:
        group[key] = None
    state.load_state_dict(saved)
    assert all(group[key] is True for group in state.optimizer.param_groups)
    assert saved["optimizer"]["param_groups"][0][key] is None
    assert equal(state.optimizer.state_dict()["state"], saved["optimizer"]["state"])


@pytest.mark.parametrize(
    ("version", "amp", "kind", "refused"),
    [
        ("2.7.1", "fp16", "mps", True),
        ("2.6.0+cpu", "fp16", "mps", True),
        ("2.8.0", "fp16", "mps", False),
        ("2.10.0", "fp16", "mps", False),
        ("2.7.1", "auto", "mps", False),
        ("2.7.1", "off", "mps", False),
        ("2.7.1", "fp16", "cpu", False),
    ],
)
def test_fp16_on_apples_gpus_wants_a_newer_torch(
    monkeypatch: pytest.MonkeyPatch, version: str, amp: str, kind: str, refused: bool
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(ConfigError, match="amp: fp16: PyTorch 2") if refused else nullcontext():
        check_precision(RecipeConfig(amp=amp), torch.device(kind))
