"""What fits is found by trial and by a straight line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from engine import memory
from engine.memory import Fit, largest_fit
from tests.engine.steps import make, make_batch

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def needs(each: int, *, fails_above: int = 10**9, tried: list[int] | None = None) -> Callable[[int], None]:
    def trial(size: int) -> None:
        if tried is not None:
            tried.append(size)
        if size > fails_above:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        used[0] = each * size

    return trial


used = [0]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose memory is what a trial says."""

    class Peak:
        def __init__(self, _: torch.device) -> None:
            self.bytes = 0

        def __enter__(self) -> Peak:
            used[0] = 0
            return self

        def __exit__(self, *_: object) -> None:
            self.bytes = 1000 + used[0]

    monkeypatch.setattr(memory, "PeakMemory", Peak)
    monkeypatch.setattr(memory, "bytes_in_use", lambda _: 1000)
    monkeypatch.setattr(memory, "release_unused", lambda _: None)


@pytest.mark.usefixtures("fake")
def test_not_even_one_fits() -> None:
    assert largest_fit(needs(100), at_most=8, device=GPU, room=50) is None
    assert largest_fit(needs(100, fails_above=0), at_most=8, device=GPU, room=10**6) is None


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("room", "at_most", "expected"),
    [
        (10**6, 1, Fit(1, 100, "most")),
        (10**6, 40, Fit(32, 3200, "most")),
        (1000, 64, Fit(8, 800, "memory")),  # 16 take more than the room
        (1800, 64, Fit(8, 800, "memory")),  # 16 would take 1,600 of 1,800: more than the share that is safe
        (1900, 64, Fit(16, 1600, "memory")),
    ],
)
def test_the_largest_power_of_two_within_the_share(room: int, at_most: int, expected: Fit) -> None:
    assert largest_fit(needs(100), at_most=at_most, device=GPU, room=room) == expected


@pytest.mark.usefixtures("fake")
def test_a_gpu_is_tried_and_a_line_saves_it_the_last_failure() -> None:
    tried: list[int] = []
    assert largest_fit(needs(100, tried=tried), at_most=64, device=GPU, room=1000).size == 8
    assert tried == [1, 2, 4, 8], "16 is known to be too much"
    tried.clear()
    found = largest_fit(needs(100, fails_above=8, tried=tried), at_most=64, device=GPU, room=10**6)
    assert found == Fit(8, 800, "memory")
    assert tried == [1, 2, 4, 8, 16]


@pytest.mark.usefixtures("fake")
def test_a_cpu_is_measured_with_few_images_and_extrapolated() -> None:
    tried: list[int] = []
    assert largest_fit(needs(100, tried=tried), at_most=32, device=CPU, room=10**6) == Fit(32, 3200, "most")
    assert tried == [1, 2, 4, 8]
    assert largest_fit(needs(100), at_most=32, device=CPU, room=2000) == Fit(16, 1600, "memory")


@pytest.mark.usefixtures("fake")
def test_another_error_is_not_hidden() -> None:
    def wrong(_: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        largest_fit(wrong, at_most=8, device=GPU, room=10**6)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """gpu(free, reserve, step, evaluation=...): the batch size that is found on a GPU with so many bytes free.

    Its weights' records will take `reserve` bytes; an image takes `step` bytes in a step, and `evaluation` in one.
    """

    def found(free: int, reserve: int, step: int, *, evaluation: int = 0) -> int:
        taken, peak = [0], [0]

        def ones(count: int, **_: object) -> object:
            if taken[0] + count > free:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            taken[0] += count
            return object()

        def takes(each: int) -> Callable[..., None]:
            def do(*arguments: object) -> None:
                most = taken[0] + each * len(arguments[1] if each == evaluation else arguments[2][0])
                peak[0] = max(peak[0], most)
                if most > free:
                    raise torch.OutOfMemoryError("CUDA out of memory.")

            return do

        class Peak:
            def __init__(self, _: torch.device) -> None:
                self.bytes = 0

            def __enter__(self) -> Peak:
                peak[0] = taken[0]
                return self

            def __exit__(self, *_: object) -> None:
                self.bytes = peak[0]

        monkeypatch.setattr(memory, "PeakMemory", Peak)
        monkeypatch.setattr(memory, "bytes_in_use", lambda _: taken[0])
        monkeypatch.setattr(memory, "free_memory", lambda _: free - taken[0])
        monkeypatch.setattr(memory, "_later_bytes", lambda *_: reserve)
        monkeypatch.setattr(memory, "try_step", takes(step))
        monkeypatch.setattr(memory, "try_batch", takes(evaluation))
        run, evaluated = (*make(), make_batch(4)), (None, None) if evaluation else None
        with monkeypatch.context() as patch:
            patch.setattr(torch, "ones", ones)
            return memory.find_batch_size(*run, size=(8, 8), images=1000, evaluation=evaluated)

    return found


@pytest.mark.parametrize(("free", "reserve", "expected"), [(1000, 0, 8), (1000, 100, 4), (1100, 100, 8)])
def test_what_the_optimizer_will_hold_is_no_room_for_images(
    gpu: Callable[..., int], free: int, reserve: int, expected: int
) -> None:
    """85 % of what is left beside it: 8 images of 100 bytes want 941 bytes."""
    assert gpu(free, reserve, 100) == expected


def test_an_evaluation_must_find_room_too(gpu: Callable[..., int]) -> None:
    assert gpu(10_000, 0, 100) == 32
    assert gpu(10_000, 0, 100, evaluation=800) == 8


def test_no_room_for_the_optimizer_is_no_room_at_all(gpu: Callable[..., int]) -> None:
    with pytest.raises(ValueError, match="--batch-size auto: not even one image of 8 x 8 px fits"):
        gpu(100, 200, 1)
