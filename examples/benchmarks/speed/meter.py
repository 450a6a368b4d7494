"""Time and memory of a stretch of work, measured by the process that does it."""

from __future__ import annotations

import ctypes
import gc
import time

import torch


class Meter:
    """Call `mark` when the model is loaded, `start` after a warm-up, and `stop` at the end.

    On a GPU the memory is what torch has allocated there. On the CPU it is the anonymous resident memory of the
    process: pages of libraries and mapped files are left out, since who touches them first is chance.

    Args:
        device: "cpu" or "cuda".
    """

    def __init__(self, device: str) -> None:
        self.device = device

    def mark(self) -> None:
        """What is there now is the loaded model."""
        self.model = self._now()

    def start(self) -> None:
        """Begin; the peak is counted from here."""
        gc.collect()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            _give_back()
            with open("/proc/self/clear_refs", "w") as file:
                file.write("5")  # resets VmHWM
        self.before = self._now()
        self.wall, self.cpu = self._clocks()

    def stop(self) -> dict[str, float]:
        """Seconds since `start`, and peak memory (bytes) over the loaded model and over what was there at `start`."""
        wall, cpu = self._clocks()
        peak = torch.cuda.max_memory_allocated() if self.device == "cuda" else self._highest()
        return {
            "wall_s": wall - self.wall,
            "cpu_s": cpu - self.cpu,
            "model_bytes": self.model,
            "peak_over_model": peak - self.model,
            "peak_over_start": peak - self.before,
        }

    def _clocks(self) -> tuple[float, float]:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def _now(self) -> int:
        return int(torch.cuda.memory_allocated()) if self.device == "cuda" else _status("RssAnon")

    def _highest(self) -> int:
        # VmHWM counts pages of files too, and those only become more
        return _status("VmHWM") - _status("RssFile") - _status("RssShmem")


def _give_back() -> None:
    """What the warm-up has freed goes back to the system, by the allocator that is loaded."""
    here = ctypes.CDLL(None)
    here.malloc_trim(0)
    if hasattr(here, "MallocExtension_ReleaseFreeMemory"):  # tcmalloc
        here.MallocExtension_ReleaseFreeMemory()
    if hasattr(here, "mallctl"):  # jemalloc, all arenas
        here.mallctl(b"arena.4096.purge", None, None, None, ctypes.c_size_t(0))


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":"))
