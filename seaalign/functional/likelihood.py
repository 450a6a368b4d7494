"""From token log-probabilities to sequence log-probabilities.

Half and bfloat16 inputs are upcast to fp32 before the first addition: a sum over a few hundred tokens is a number near
-1000, where bfloat16 moves in steps of 4 and can no longer tell a margin of 1 from 0.

**Sum or mean.** ``log pi(y|x)`` is the *sum* over tokens, and beta = 0.1 of the papers belongs to it. The mean over
tokens is about L times smaller (L tokens per completion), so to get the same gradient per pair beta has to grow by L:
``beta_mean = beta_sum * L`` (0.1 on sums of 40 tokens is 4 on means). The two agree exactly where chosen and rejected
have the same length; elsewhere the sum rewards length differences and the mean does not. For :func:`ipo_loss` the same
scaling holds (``beta_mean = beta_sum * L``), and its value shrinks by ``L**2``.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from seaalign.functional.products import add_product, product


def sequence_logp(
    token_logps: Tensor, scored: Tensor | None = None, reduction: Literal["sum", "mean"] = "sum"
) -> Tensor:
    """Sequence log-probabilities from token log-probabilities, nats.

    Args:
        token_logps: (B, T+1) log p of each token; what ``Backbone.forward`` returns.
        scored: which columns count. (B,) integers: the first so many columns, ``lengths + ended`` for a ``Speech``
            (the end token is scored only where sampling ended); or a (B, T+1) boolean mask, which may leave out any
            column. ``None``: every column, right for sums because unscored columns are zero by contract.
        reduction: ``"sum"`` is log pi(y|x); ``"mean"`` divides by the number of scored columns (needs ``scored``).
            The module's docstring says how beta has to change with it.

    Returns:
        (B,) log-probabilities, fp32 or wider.

    Raises:
        ValueError: for a count that leaves a non-zero log-prob out (off by one: the end token forgotten), a row of
            which nothing is scored under ``"mean"``, or shapes that do not fit.

    >>> logps = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -2.0, 0.0]])
    >>> sequence_logp(logps).tolist()
    [-6.0, -6.0]
    >>> sequence_logp(logps, torch.tensor([3, 2]), reduction="mean").tolist()
    [-2.0, -3.0]
    """
    logps = upcast(token_logps)
    if logps.dim() != 2:
        raise ValueError(f"token_logps must be (B, T+1), got {tuple(logps.shape)}.")
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}.")
    if scored is None:
        if reduction == "mean":
            raise ValueError("reduction='mean' needs `scored`: padding would count as tokens of probability one.")
        return logps.sum(-1)
    mask = _scored_mask(logps, scored)
    # where, not a product: a masked -inf or NaN times zero is NaN.
    total = logps.where(mask, logps.new_zeros(())).sum(-1)
    if reduction == "sum":
        return total
    counts = mask.sum(-1)
    if bool((counts == 0).any()):
        rows = (counts == 0).nonzero().flatten().tolist()
        raise ValueError(f"rows {rows} have no scored token, so their mean log-prob is undefined: drop these rows.")
    return total / counts


def sft_anchor(chosen_token_logps: Tensor, scored: Tensor) -> Tensor:
    """Mean negative log-prob per chosen token: add it to a preference loss so that the chosen log-prob cannot fall.

    Args:
        chosen_token_logps: (B, T+1) policy log p of each token of the chosen completions.
        scored: (B,) counts or (B, T+1) mask, as in :func:`sequence_logp`.

    Returns:
        () nats per token, averaged over all scored tokens of the batch, as in SFT (so long rows weigh more).

    Raises:
        ValueError: where nothing is scored, a scored value is not finite, or shapes do not fit.

    Source: Pang et al. 2024, "Iterative Reasoning Preference Optimization", eq. 1 (the NLL term; it
    normalises per completion, this one per token of the batch as SFT does).

    >>> sft_anchor(torch.tensor([[-1.0, -2.0, -3.0], [-4.0, 0.0, 0.0]]), torch.tensor([3, 1])).item()  # 10 / 4
    2.5
    """
    mask = _scored_mask(chosen_token_logps, scored)
    total = sequence_logp(chosen_token_logps, mask)
    if not bool(torch.isfinite(total.detach()).all()):
        raise ValueError(f"log-probs are not finite in rows {(~torch.isfinite(total)).nonzero().flatten().tolist()}.")
    count = mask.sum()
    if int(count) == 0:
        raise ValueError("no token is scored, so the SFT anchor is undefined: check `scored`.")
    return -total.sum() / count


def upcast(values: Tensor) -> Tensor:
    """Log-probs in fp32, or in fp64 where they came so."""
    return values if values.dtype == torch.float64 else values.float()


def _scored_mask(logps: Tensor, scored: Tensor) -> Tensor:
    if scored.dtype == torch.bool and scored.shape == logps.shape:
        return scored
    if scored.dtype == torch.bool or scored.is_floating_point() or scored.shape != logps.shape[:1]:
        raise ValueError(
            f"scored must be (B,) integer counts or a (B, T+1) boolean mask for token_logps {tuple(logps.shape)}, "
            f"got {scored.dtype} {tuple(scored.shape)}."
        )
    mask = torch.arange(logps.shape[1], device=logps.device) < scored[:, None]
    left_out = (~mask & (logps.detach() != 0)).any(-1) | (scored > logps.shape[1]) | (scored < 0)
    if bool(left_out.any()):
        raise ValueError(
            f"rows {left_out.nonzero().flatten().tolist()}: counts {scored[left_out].tolist()} do not cover the scored "
            f"columns of {logps.shape[1]}; pass `lengths + ended`, or a boolean mask to leave columns out on purpose."
        )
    return mask


def chosen_logp(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of one id per row: ``logits.log_softmax(-1)[ids]``, nats, without making the rest.

    Nothing of size (N, V) is kept for the backward pass beside the logits themselves, and under half precision no copy
    of them in fp32.

    Args:
        logits: (N, V), any floating type.
        ids: (N,) integers.

    Returns:
        (N,) fp32, or fp64 for logits of that type.

    >>> chosen_logp(torch.tensor([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([2]))  # -log 4
    tensor([-1.3863])
    """
    chosen: Tensor = _ChosenLogp.apply(logits, ids)
    return chosen


class _ChosenLogp(torch.autograd.Function):
    """d/dx of x[i] - logsumexp(x) is onehot(i) - softmax(x)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(logits, ids)
        return _picked(logits, ids)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, ids = ctx.saved_tensors
        return _pull(logits, ids, grad).to(logits.dtype), None


def _picked(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.log_softmax(-1, dtype=upcast(logits[:0]).dtype).gather(-1, ids[:, None]).squeeze(-1)


def _pull(logits: Tensor, ids: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the picked log-probs (N,) at the logits (N, V), fp32 or wider."""
    share = logits.softmax(-1, dtype=grad.dtype).mul_(-grad[:, None])
    return share.scatter_add_(-1, ids[:, None], grad[:, None])


def head_logp(features: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, chunk: int = 512) -> Tensor:
    """Log-probability of one id per row under a linear head: `chosen_logp(F.linear(features, weight, bias), ids)`.

    No logits (N, V) exist: they are made `chunk` rows at a time, and made again in the backward pass, where the
    gradient of the head is summed in place. Products run in the type that autocast asks for.

    Args:
        features: (N, D), any floating type.
        weight: (V, D).
        bias: (V,) or None.
        ids: (N,) integers.
        chunk: rows of logits at once.

    Returns:
        (N,) fp32, or fp64 for features of that type.

    >>> head_logp(torch.zeros(3, 2), torch.ones(4, 2), None, torch.tensor([0, 1, 3]), chunk=2)  # -log 4
    tensor([-1.3863, -1.3863, -1.3863])
    """
    kind = features.device.type
    if torch.is_autocast_enabled(kind) and features.dtype != torch.float64:  # as autocast has it
        features, weight = (x.to(torch.get_autocast_dtype(kind)) for x in (features, weight))
        bias = None if bias is None else bias.to(weight.dtype)
    with torch.autocast(kind, enabled=False):
        logp: Tensor = _HeadLogp.apply(features, weight, bias, ids, chunk)
    return logp


class _HeadLogp(torch.autograd.Function):
    """As `_ChosenLogp`, and on from there to the features and the head."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, ids: Tensor, chunk: int) -> Tensor:
        ctx.save_for_backward(features, weight, bias, ids)
        ctx.chunk = chunk
        parts = zip(features.split(chunk), ids.split(chunk), strict=True)
        return torch.cat([_picked(product(part, weight, bias), some) for part, some in parts])

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, ids = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        # sums over many parts: fp32 also where the products are bf16
        d_weight = torch.zeros_like(weight, dtype=grad.dtype) if wanted[1] else None
        d_bias = grad.new_zeros(len(weight)) if wanted[2] else None
        d_features: list[Tensor] = []
        for part, some, g in zip(*(x.split(ctx.chunk) for x in (features, ids, grad)), strict=True):
            pull = _pull(product(part, weight, bias), some, g)
            if d_bias is not None:
                d_bias += pull.sum(0)
            pull = pull.to(weight.dtype)
            if wanted[0]:
                d_features.append(product(pull, weight.t()))
            if d_weight is not None:
                add_product(d_weight, pull.t(), part)
        d_weight, d_bias = (None if d is None else d.to(weight.dtype) for d in (d_weight, d_bias))
        return torch.cat(d_features) if wanted[0] else None, d_weight, d_bias, None, None
