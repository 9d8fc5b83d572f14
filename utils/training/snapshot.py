"""What a step changes before the optimizer moves."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Snapshot:
    """The buffers of a model (statistics of batch normalisation) and the random numbers, as before a step."""

    def __init__(self) -> None:
        self.saved: list[Tensor] = []
        self.rng: dict[str, Tensor] = {}

    def take_(self, model: nn.Module) -> None:
        """Note the state of now; the memory of the last time is used again."""
        self.rng = random_state()
        buffers = list(model.buffers())
        if len(self.saved) != len(buffers):
            self.saved = [buffer.detach().clone() for buffer in buffers]
        else:
            _copy_(self.saved, buffers)

    def restore_(self, model: nn.Module) -> None:
        """Put back what was noted; nothing happens where nothing was."""
        if self.rng:
            set_random_state(self.rng)
        self.restore_buffers_(model)

    def restore_buffers_(self, model: nn.Module) -> None:
        """`restore_` without the random numbers; `model` may be a copy."""
        if self.saved:
            _copy_(list(model.buffers()), self.saved)


def random_state() -> dict[str, Tensor]:
    """Torch's generators; augmentation needs none, its draws are functions of (seed, epoch, index)."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Continue from what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@torch.no_grad()
def _copy_(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into its target, in one go for each type of number, which is what a GPU is fast at."""
    for kind in {target.dtype for target in targets}:
        pairs = [(one, two) for one, two in zip(targets, sources, strict=True) if one.dtype == kind]
        torch._foreach_copy_(*(list(side) for side in zip(*pairs, strict=True)))
