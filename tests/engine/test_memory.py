"""What fits is found by trial and by a straight line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from engine import memory
from engine.memory import Fit, largest_fit

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
