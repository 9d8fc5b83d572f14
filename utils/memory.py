"""Memory of the machine and its GPUs: free, in use, and the peak."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path

import torch


class PeakMemory:
    """The peak memory of a block of code, as `bytes`; None if the system does not say.

    On a CUDA GPU this is the peak of the memory that torch reserved. Elsewhere `bytes_in_use` is read every 2 ms.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        reset_gpu_peak(self.device)
        if self.device.type != "cuda":
            self.bytes = bytes_in_use(self.device)
            self._done = threading.Event()
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_reserved(self.device)
            return
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while self.bytes is not None and not self._done.wait(0.002):
            self.bytes = max(self.bytes, bytes_in_use(self.device) or 0)


def use_huge_pages() -> None:
    """Ask torch for memory in pages of 2 MB where Linux has them; call this before the first tensor.

    What the layers of a step allocate and give back costs 5% of the step on a CPU in pages of 4 KB, and 1% in these.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def reset_gpu_peak(device: torch.device) -> None:
    """Restart the measurement of a GPU's peak memory; does nothing for other devices."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def bytes_in_use(device: torch.device) -> int | None:
    """Bytes in use now: what torch holds of a GPU, else what the process has; None if the system does not say."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    return torch.mps.driver_allocated_memory() if device.type == "mps" else resident_bytes()


def resident_bytes() -> int | None:
    """Bytes of main memory that this process has now; None if the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return peak_resident_bytes()


def peak_resident_bytes() -> int | None:
    """Peak of the main memory of this process, in bytes; None if the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def children_bytes() -> int:
    """Bytes of main memory that the child processes have now, shared pages divided among them; 0 if unknown."""
    total = 0
    for listed in Path("/proc/self/task").glob("*/children"):
        try:
            for child in listed.read_text().split():
                rollup = Path(f"/proc/{child}/smaps_rollup").read_text()
                total += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
        except (OSError, ValueError):  # it has ended meanwhile
            continue
    return total


def free_memory(device: torch.device) -> int | None:
    """Bytes that the process can still allocate; None if the system does not say.

    On a CUDA GPU it is what the driver has, after torch has given back all that it can; what torch still holds is in
    use, or in fragments between. Apple's GPUs share the main memory, of which the system recommends them a part. On a
    CPU the limit of a container counts too.
    """
    release_unused(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    rooms = [room for room in (_available(), _container_room()) if room is not None]
    if device.type == "mps":
        rooms.append(max(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory(), 0))
    return min(rooms, default=None)


def release_unused(device: torch.device) -> None:
    """Free memory that nothing refers to any more, such as tensors in the tracebacks of errors."""
    gc.collect()
    empty_cache(device)


def empty_cache(device: torch.device) -> None:
    """Return the GPU memory that torch keeps for later allocations."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def gigabytes(count: int) -> str:
    """A number of bytes as text, in MB or GB."""
    if count < 1e9:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e9:.1f} GB" if count < 1e10 else f"{count / 1e9:.0f} GB"


def _available() -> int | None:
    """Bytes of main memory that the machine has available."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return None


def _container_room() -> int | None:
    """Memory left under the limit of a container (control groups 2, then 1); None without one."""
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            left = int(Path(folder, limit).read_text()) - int(Path(folder, used).read_text())
            rows = (line.split() for line in Path(folder, "memory.stat").read_text().splitlines())
            return max(left + sum(int(row[1]) for row in rows if row[0] == "inactive_file"), 0)  # files give way
        except (OSError, ValueError):  # no such file, or 'max'
            continue
    return None
