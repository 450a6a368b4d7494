"""The torchmetrics twins: same values as the functions, over batches and over processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from seaalign.functional import error_rate, repetition_rate, token_entropy, tokens_per_unit
from seaalign.metrics import ErrorRate, RepetitionRate, TokenEntropy, TokensPerUnit

UTTERANCES = [[3, 3, 3, 3, 3, 3, 1], [0, 1, 2, 3, 4], [2, 2], [4, 4, 4, 4, 4, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0]]
HYPOTHESES = [["a", "b"], [], ["c"], ["a", "a", "a"], ["b", "c"], ["c"]]
REFERENCES = [["a", "c"], ["b"], ["c"], ["a", "a"], ["b", "c", "d"], ["c"]]
CORPUS = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=12), min_size=1, max_size=6)


def tensors(utterances: list[list[int]]) -> list[torch.Tensor]:
    return [torch.tensor(row) for row in utterances]


def computed(rows: slice) -> dict[str, float]:
    """All metrics over some of the utterances, one update per utterance."""
    metrics = {
        "entropy": TokenEntropy(5),
        "corrected": TokenEntropy(5, correction="chao-wang-jost"),
        "repetition": RepetitionRate(),
        "pooled": RepetitionRate(k=2, pooled=True),
        "per_word": TokensPerUnit(),
        "error_rate": ErrorRate(),
    }
    for tokens, hypothesis, reference in zip(UTTERANCES[rows], HYPOTHESES[rows], REFERENCES[rows], strict=True):
        for name in ("entropy", "corrected", "repetition", "pooled"):
            metrics[name].update(torch.tensor([tokens]), torch.tensor([len(tokens)]))
        metrics["per_word"].update(torch.tensor([len(tokens)]), torch.tensor([len(reference)]))
        metrics["error_rate"].update([hypothesis], [reference])
    return {name: metric.compute().item() for name, metric in metrics.items()}


def one_process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    try:
        # unequal shares: an average of the two processes' values would be wrong
        torch.save(computed(slice(0, 4) if rank == 0 else slice(4, None)), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_value_of_one(tmp_path: Path):
    torch.multiprocessing.spawn(one_process, args=(str(tmp_path),), nprocs=2)
    alone = computed(slice(None))
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == pytest.approx(alone, rel=1e-6)
    # the split matters: each half alone gives something else, so the values did travel
    for name, value in computed(slice(0, 4)).items():
        assert value != pytest.approx(alone[name], rel=1e-3), name


def test_values_golden():
    values = computed(slice(None))
    # positions N - 4: 3, 1, (0), 6, 1, (0); runs of five at 2 of 3, 0 of 1, 2 of 6, 1 of 1;
    # mean (2/3 + 0 + 1/3 + 1) / 4
    assert values["repetition"] == pytest.approx(0.5)
    # k = 2: positions 5, 3, 0, 8, 3, 0; runs of three at 4, 0, 0, 3 + 3, 3, 0: 13 of 19
    assert values["pooled"] == pytest.approx(13 / 19)
    assert values["per_word"] == pytest.approx(30 / 10)  # 7 + 5 + 2 + 10 + 5 + 1 tokens, 2 + 1 + 1 + 2 + 3 + 1 words
    assert values["error_rate"] == pytest.approx(4 / 10)  # 1 + 1 + 0 + 1 + 1 + 0


@given(corpus=CORPUS, k=st.integers(1, 5), split=st.integers(0, 6))
def test_metrics_equal_functions_however_the_batches_fall(corpus, k, split):
    entropy, repetition, pooled = TokenEntropy(5), RepetitionRate(k), RepetitionRate(k, pooled=True)
    for part in (corpus[:split], corpus[split:]):
        for metric in (entropy, repetition, pooled):
            metric.update(tensors(part))
    assert entropy.compute().item() == pytest.approx(token_entropy(tensors(corpus), vocab_size=5).item(), abs=1e-6)
    rate = repetition_rate(tensors(corpus), k=k)
    if rate.defined.any():
        assert repetition.compute().item() == pytest.approx(rate.rate.item(), abs=1e-6)
        assert pooled.compute().item() == pytest.approx(rate.pooled.item(), abs=1e-6)
    else:
        assert repetition.compute().isnan() and pooled.compute().isnan()


def test_forward_returns_the_batch_value_and_keeps_the_total():
    metric = RepetitionRate(k=1)
    assert metric(torch.tensor([1, 1])).item() == 1.0
    assert metric(torch.tensor([1, 2])).item() == 0.0
    assert metric.compute().item() == 0.5
    metric.reset()
    assert metric(torch.tensor([1, 2])).item() == metric.compute().item() == 0.0
    lengths, units = torch.tensor([20, 30]), torch.tensor([2, 8])
    assert TokensPerUnit()(lengths, units).item() == tokens_per_unit(lengths, units).item() == 5.0
    assert ErrorRate()(["abc"], ["abd"]).item() == error_rate(["abc"], ["abd"]).item() == pytest.approx(1 / 3)


def test_corrected_entropy_equals_function():
    tokens = torch.tensor([0, 0, 1])
    value = TokenEntropy(4, correction="chao-wang-jost")(tokens).item()
    assert value == pytest.approx(token_entropy(tokens, vocab_size=4, correction="chao-wang-jost").item())
    assert value == pytest.approx(4 / 3)


def test_an_empty_transcript_is_all_wrong():
    assert ErrorRate()([[], ""], [["a", "b"], "abc"]).item() == 1.0


def test_short_utterances_are_left_out_and_counted():
    metric = RepetitionRate()
    assert metric(torch.tensor([1, 1, 1, 1])).isnan()  # 0 would be the best rate there is
    assert metric.utterances.item() == 0
    metric.update(torch.tensor([1, 1, 1, 1, 1]))
    assert metric.compute().item() == 1.0


@pytest.mark.parametrize("metric", [TokenEntropy(5), TokensPerUnit(), ErrorRate()], ids=lambda m: type(m).__name__)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_to_measure_is_an_error_not_a_number(metric):
    with pytest.raises(ValueError, match="undefined"):
        metric.compute()


@pytest.mark.parametrize(
    "given",
    [[3, 3, 3, 3, 3, 0], [[3, 3, 3, 3, 3, 0], []], np.array([3, 3, 3, 3, 3, 0]), [np.array([3, 3, 3, 3, 3, 0])]],
)
def test_lists_and_arrays_are_taken(given):
    entropy, repetition = TokenEntropy(5), RepetitionRate()
    entropy.update(given)
    repetition.update(given)
    assert entropy.counts.tolist() == [1, 0, 0, 5, 0] and repetition.compute().item() == 0.5
    entropy.update([[1, 4], [2, 4]], None)
    entropy.update(np.array([[1, 4], [2, 4]]), [1, 1])
    assert entropy.counts.tolist() == [1, 2, 2, 5, 2]
    assert TokensPerUnit()([20, 30], [2, 3]).item() == 10.0
    with pytest.raises(TypeError, match=r"tokens\[1\] must be a tensor, an array or a list of numbers, got str"):
        entropy.update([[1], "two"])


def test_bad_updates_leave_the_state_alone():
    metric = TokenEntropy(5)
    metric.update(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="token 5 is outside"):
        metric.update(torch.tensor([1, 5]))
    assert metric.compute().item() == 1.0


def test_directions():
    directions = [m.higher_is_better for m in (TokenEntropy(5), RepetitionRate(), TokensPerUnit(), ErrorRate())]
    assert directions == [True, False, None, False]
    assert not any(m.is_differentiable for m in (TokenEntropy(5), RepetitionRate(), TokensPerUnit(), ErrorRate()))
