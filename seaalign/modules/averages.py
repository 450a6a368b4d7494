"""Means over what all processes hold together."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def global_mean(total: Tensor, count: int | Tensor) -> Tensor:
    """A loss whose gradient, averaged over the processes as DDP and FSDP do, is that of sum(totals) / sum(counts).

    Batches by frames hold different numbers of rows, so a mean per process would weigh the rows of small batches more,
    and two processes would train something else than one.

    Args:
        total: sum of the losses of this process ().
        count: how many losses that is; may be 0.

    Returns:
        total / count in a single process; total x processes / (sum of the counts) in several.

    Example:
        >>> global_mean(torch.tensor(6.0), 4).item()
        1.5
    """
    if not (dist.is_available() and dist.is_initialized()):
        return total / count
    counts = torch.as_tensor(count, device=total.device, dtype=torch.float32).clone()
    dist.all_reduce(counts)
    return total * (dist.get_world_size() / counts)
