"""All pieces in one call of the variable-length kernel: a slow one in its place, wrong ones, and the real one."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.nn.attention import varlen as torch_varlen
from torch.utils.checkpoint import checkpoint

from seaalign.backbones import varlen
from seaalign.backbones.packing import Packing, attend

# the tests of packing and of losses once more, with the slow kernel in its place: same numbers, same tolerances
from tests.backbones.test_packing import (  # noqa: F401
    answers,
    causal,
    graded,
    own,
    prompts_of,
    test_a_body_of_one_s_own_that_takes_packing,
    test_attention_agrees_with_its_definition_in_value_and_gradient,
    test_autocast_packs_too_and_leaves_the_exact_path_as_it_was,
    test_dropout_of_attention_is_at_work_in_training_alone,
    test_every_adapter_that_is_packed_has_the_numbers_of_padded_rows,
    test_hugging_face_families,
    test_one_that_takes_packing_and_does_not_heed_it_is_found_out,
    test_reentrant_checkpointing_recomputes_the_packed_pass,
    test_the_head_in_parts_is_the_head,
)
from tests.backbones.varlen_standin import in_its_place, slow_kernel
from tests.modules.test_plain_path import (  # noqa: F401
    test_losses_and_gradients_are_those_of_rows_scored_one_by_one,
)

REAL, REAL_TAKES = torch_varlen.varlen_attn, varlen._takes
PACKING = Packing((3, 4, 0, 2, 5, 1), (0, 0, 0, 0, 4, 4))


@pytest.fixture(autouse=True, scope="module")
def kernel():
    with in_its_place() as calls:
        yield calls


def made(dtype=torch.float32, heads=(4, 2), size=15, width=8):
    g = torch.Generator().manual_seed(5)
    parts = [torch.randn(1, n, size, width, generator=g).to(dtype) for n in (heads[0], heads[1], heads[1])]
    return [part.requires_grad_() for part in parts]


def numbers(parts, packing=PACKING):
    """Attention, and gradients of a weighted sum of it."""
    out = attend(*parts, packing)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(6)).to(out)
    return [out.detach(), *torch.autograd.grad(out, parts, weights)]


def piece_by_piece(parts, packing=PACKING):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen, "_takes", lambda x: False)
        return numbers(parts, packing)


def same(ours, theirs, **tolerance):
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def test_what_the_kernel_reads_by_hand():
    """Prompt of 2, answers of 1, 0 and 2, a prompt of 1 alone: an answer's keys are 0, 1 and its own."""
    layout = varlen.Layout.of((2, 1, 0, 2, 1), (0, 0, 0, 0, 4), torch.device("cpu"))
    assert layout.places.tolist() == [0, 1, 0, 1, 2, 0, 1, 3, 4, 5]
    assert layout.uses.tolist() == [0, 2, 5, 1, 3, 6, 4, 7, 8, 9] and layout.first.tolist() == [0, 3, 6, 7, 8, 9]
    assert layout.queries.tolist() == [0, 2, 3, 5, 6] and layout.keys.tolist() == [0, 2, 5, 9, 10]
    assert layout.longest == (2, 4)


def test_a_layer_is_one_call_and_a_packing_is_laid_out_once(kernel, monkeypatch):
    parts = made()
    want = piece_by_piece(parts)
    numbers(parts)  # whatever is tried first
    laid, before, of = [], len(kernel), varlen.Layout.of
    monkeypatch.setattr(varlen.Layout, "of", lambda *args: laid.append(args) or of(*args))
    packing = Packing(PACKING.sizes, PACKING.prompts)
    for _layer in range(3):
        same(numbers(parts, packing), want, rtol=1e-5, atol=1e-5)
    assert kernel[before:] == [5, 5, 5] and len(laid) == 1


@pytest.mark.parametrize("make", [own, pytest.param(lambda: causal("Llama"), marks=pytest.mark.audio)])
def test_scores_of_a_backbone_are_one_call_a_layer(kernel, make):
    backbone, asked = make(), (prompts_of([5, 3]), answers(9, 9, 4, 0, 7, owners=[1, 0, 1, 0]))
    layers = getattr(backbone.model, "layers", None) or backbone.model.model.layers
    backbone(*asked)  # whatever is tried first
    before = len(kernel)
    backbone(*asked)
    assert kernel[before:] == [5] * len(layers)  # two prompts, four answers, one of them of nothing


def test_a_row_of_nothing():
    assert attend(*made(size=0), Packing((0, 0), (0, 0))).shape == (1, 4, 0, 8)


def test_the_gradient_of_what_many_answers_share_is_rounded_once():
    """In 16 bits: to the last bit what a sum in double rounds to. One after the other, each sum is rounded."""
    packing = Packing((6,) + (2,) * 40, (0,) * 41)
    layout = packing.layout(torch.device("cpu"))
    x = torch.randn(86, 2, 8).bfloat16().requires_grad_()
    grads = torch.randn(len(layout.places), 2, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    (ours,) = torch.autograd.grad(varlen._Again.apply(x, layout), x, grads)
    exact = torch.zeros(86, 2, 8, dtype=torch.double).index_add_(0, layout.places, grads.double())
    assert torch.equal(ours, exact.bfloat16())
    one_by_one = torch.zeros(86, 2, 8).bfloat16()
    for place, grad in zip(layout.places, grads, strict=True):
        one_by_one[place] += grad
    assert float((one_by_one - exact)[:6].norm()) > 3 * float((ours - exact)[:6].norm())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_it_is_nearer_to_the_truth_than_one_by_one(dtype):
    packing = Packing((9,) + (6,) * 12, (0,) * 13)
    parts = made(dtype, size=81)
    exact = [part.detach().double().requires_grad_() for part in parts]
    truth = piece_by_piece(exact, packing)
    ours, theirs = numbers(parts, packing), piece_by_piece(parts, packing)
    for one, other, right in zip(ours, theirs, truth, strict=True):
        far = float((one - right).norm())
        assert far < 0.01 * float(right.norm()) and far < 1.2 * float((other - right).norm())


# -- what is wrong with a kernel is found out --------------------------------------------------------------------------


def top_left(query, key, value, cu_seq_q, cu_seq_k, *rest, **named):
    """A causal mask that begins at the first key: an answer sees its prompt's first keys, and not itself."""
    queries = query.split(cu_seq_q.diff().tolist())
    keys, values = (x.split(cu_seq_k.diff().tolist()) for x in (key, value))
    out = []
    for q, k, v in zip(queries, keys, values, strict=True):
        n, ends = len(q), torch.tensor([0, len(q)], dtype=torch.int32)
        out.append(slow_kernel(q, k[:n].contiguous(), v[:n].contiguous(), ends, ends, n, n, **named))
    return torch.cat(out)


def failing(*args, **named):
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")


def of_pytorch_2_11(*args, scale=None, window_size=(-1, -1)):
    """Grouped heads are as good as any."""
    return slow_kernel(*args, scale=scale, window_size=window_size, enable_gqa=args[0].shape[1] != args[1].shape[1])


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
@pytest.mark.parametrize("kernel_", [slow_kernel, of_pytorch_2_11])
def test_kernels_that_are_told_of_grouped_heads_and_that_are_not(kernel_, heads):
    parts = made(heads=heads)
    with in_its_place(kernel_, signed=kernel_) as calls:
        same(numbers(parts), piece_by_piece(parts), rtol=1e-5, atol=1e-5)
    assert len(calls) == 2


def of_another_version(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
    raise AssertionError("never called")


def nan(query, *args, **named):
    return slow_kernel(query, *args, **named) * torch.nan


class Wrong(torch.autograd.Function):
    """The gradient is what `how` makes of it."""

    @staticmethod
    def forward(ctx, x, how):
        ctx.how = how
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return ctx.how(grad.clone()), None


def wrong_gradient(which, how):
    def kernel(*args, **named):
        args = list(args)
        args[which] = Wrong.apply(args[which], how)
        return slow_kernel(*args, **named)

    return kernel


def without_last_row(grad):
    grad[-1] = 0
    return grad


def beyond_a_block(query, key, *args, **named):
    """Right where sequences are short: queries beyond the 128th of a sequence are those before it."""
    ends, place = args[1].tolist(), torch.arange(len(query))
    for begin, end in zip(ends, ends[1:], strict=False):
        place[begin:end] = begin + torch.arange(end - begin).clamp_max(127)
    return slow_kernel(query[place], key, *args, **named)


@pytest.mark.parametrize(
    ("kernel_", "reason"),
    [
        (top_left, "its values are not those of plain attention"),
        (nan, "its values are not"),
        (beyond_a_block, "its values are not"),
        (failing, "RuntimeError: FlashAttention only supports Ampere GPUs or newer"),
        (of_another_version, "TypeError: .* unexpected keyword argument"),
        (wrong_gradient(0, lambda grad: 1.1 * grad), "its gradients of queries are not"),
        (wrong_gradient(1, without_last_row), "its gradients of keys are not"),
        (wrong_gradient(2, lambda grad: grad.roll(1, 1)), "its gradients of values are not"),
        (wrong_gradient(2, lambda grad: grad * torch.inf), "its gradients of values are not"),
    ],
)
def test_a_wrong_kernel_is_found_out_once_and_the_numbers_are_right(kernel_, reason):
    parts = made()
    want = piece_by_piece(parts)
    with in_its_place(kernel_) as calls:
        with pytest.warns(UserWarning, match=f"one call per piece, not one of varlen_attn: {reason}"):
            same(numbers(parts), want, rtol=0, atol=0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            same(numbers(parts), want, rtol=0, atol=0)
    assert len(calls) == 1


def test_scores_of_a_backbone_whose_kernel_is_wrong_stay_packed_and_right():
    speech = answers(9, 9, 4, 0, 7, owners=[1, 0, 1, 0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen, "_takes", lambda x: False)
        want, expected = graded(own(), prompts_of([5, 3]), speech)
    backbone = own()
    with in_its_place(top_left), pytest.warns(UserWarning, match="one call per piece") as told:
        scores, grads = graded(backbone, prompts_of([5, 3]), speech)
        assert backbone.packs(prompts_of([5, 3])) and len(told) == 1
    assert torch.equal(scores, want) and all(torch.equal(grads[name], expected[name]) for name in expected)


def test_memory_that_runs_out_while_it_is_tried_says_nothing_of_the_kernel():
    room = [0, 1]

    def sometimes(*args, **named):
        if not room.pop(0):
            raise torch.OutOfMemoryError("out of memory")
        room.append(1)
        return slow_kernel(*args, **named)

    parts = made()
    with in_its_place(sometimes) as calls:
        with pytest.raises(torch.OutOfMemoryError):
            attend(*parts, PACKING)
        same(numbers(parts), piece_by_piece(parts), rtol=1e-5, atol=1e-5)
    assert len(calls) == 3  # tried, tried again, used


# -- the trial leaves no trace ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", ["inference", "no_grad", "autocast", "checkpoint"])
def test_it_is_tried_wherever_the_first_call_is(around):
    """Not even checkpointing, which counts what is saved, notices; nor do random numbers or gradients."""
    parts = made(torch.bfloat16 if around == "autocast" else torch.float32)
    want = piece_by_piece(parts)
    state, cast = torch.get_rng_state(), []

    def noting(*args, **named):
        cast.append(torch.is_autocast_enabled("cpu"))
        return slow_kernel(*args, **named)

    with in_its_place(noting) as calls, warnings.catch_warnings():
        warnings.simplefilter("error")
        if around == "checkpoint":
            out = checkpoint(lambda *x: attend(*(2 * part for part in x), PACKING) / 2, *parts, use_reentrant=False)
            out.sum().backward()
            assert len(calls) == 3 and all(float(part.grad.norm()) > 0 for part in parts)
        else:
            with {
                "inference": torch.inference_mode(),
                "no_grad": torch.no_grad(),
                "autocast": torch.autocast("cpu", torch.bfloat16),
            }[around]:
                out = attend(*parts, PACKING)
            torch.testing.assert_close(out.detach(), want[0], rtol=0.02, atol=0.02)
            assert len(calls) == 2 and all(part.grad is None for part in parts)
            assert cast == [False, around == "autocast"]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_kind_of_heads_is_tried_once():
    with in_its_place() as calls:
        for heads, count in (((6, 2), 2), ((6, 2), 3), ((6, 6), 5), ((6, 2), 6)):
            attend(*made(heads=heads), PACKING)
            assert len(calls) == count


def test_while_attention_is_compiled_it_is_one_call_per_piece(kernel, monkeypatch):
    parts = made()
    before = len(kernel)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    same(numbers(parts), piece_by_piece(parts), rtol=0, atol=0)
    assert len(kernel) == before


# -- the real one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", [(4, 4), (4, 2)])
def test_the_real_operator_takes_the_call_and_has_a_gradient(monkeypatch, heads):
    """On tensors without numbers, for which it has shapes anywhere: its signature, and what autograd asks of it."""
    monkeypatch.setattr(torch_varlen, "varlen_attn", REAL)
    parts = [part.detach().to("meta", torch.bfloat16).requires_grad_() for part in made(heads=heads)]
    layout = varlen.Layout.of(PACKING.sizes, PACKING.prompts, torch.device("meta"))
    out = varlen.attend_at_once(*parts, layout)
    assert out.shape == parts[0].shape and out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out.sum(), parts)
    assert [grad.shape for grad in grads] == [part.shape for part in parts]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "width"), [((14, 2), 64), ((4, 4), 128), ((2, 1), 256)])
def test_the_real_kernel(monkeypatch, dtype, heads, width):
    monkeypatch.setattr(torch_varlen, "varlen_attn", REAL)
    monkeypatch.setattr(varlen, "_takes", REAL_TAKES)
    varlen._agrees.cache_clear()
    packing = Packing((90, 200, 0, 33, 1, 300, 5), (0, 0, 0, 0, 4, 4, 4))
    parts = [part.detach().to("cuda").requires_grad_() for part in made(dtype, heads, sum(packing.sizes), width)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert varlen.at_once(*parts)
    exact = [part.detach().float().requires_grad_() for part in parts]
    for one, right in zip(numbers(parts, packing), numbers(exact, packing), strict=True):
        assert float((one - right).norm()) < 0.02 * float(right.norm())


def test_which_tensors_the_kernel_is_asked_for():
    def fits(dtype=torch.bfloat16, width=64, device="cuda"):
        like = type("Like", (), {"is_cuda": device == "cuda", "dtype": dtype, "shape": (1, 2, 9, width)})()
        return REAL_TAKES(like)

    assert fits() and fits(torch.float16) and fits(width=256) and fits(width=8)
    assert not any([fits(torch.float32), fits(width=12), fits(width=264), fits(device="cpu")])
    torch.backends.cuda.enable_flash_sdp(False)
    try:
        assert not fits()
    finally:
        torch.backends.cuda.enable_flash_sdp(True)
