"""Nucleus sampling and the counter-based uniforms: numbers to redo by hand, slow twins, statistics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch.nn import functional as F

from seaalign.functional.sampling import content_key, draw, nucleus, uniforms

# p = 0.3, 0.2, 0.5 at ids 0, 1, 2
LOGITS = torch.tensor([0.3, 0.2, 0.5]).log()


def at(uniform, top_p=1.0, temperature=1.0, logits=LOGITS):
    return int(nucleus(logits[None], torch.tensor([temperature]), top_p, torch.tensor([uniform], dtype=torch.double)))


@pytest.mark.parametrize(
    ("uniform", "top_p", "expected"),
    [
        (0.00, 1.0, 0),
        (0.29, 1.0, 0),
        (0.31, 1.0, 1),
        (0.49, 1.0, 1),
        (0.51, 1.0, 2),
        (0.999999, 1.0, 2),
        (0.29, 0.7, 0),  # 0.5 + 0.3 >= 0.7: ids 2 and 0 are the set
        (0.31, 0.7, 2),  # id 1 is outside; the next uniform, a hash, is 0.785
        (0.999999, 0.7, 2),
        (0.00, 0.5, 2),  # the likeliest id alone has the mass
        (0.00, 0.01, 2),  # the likeliest id always stays
        (0.49, 0.81, 1),
    ],
)
def test_golden_draws(uniform, top_p, expected):
    assert at(uniform, top_p) == expected


def test_golden_temperature():
    # T = 0.5 squares: 0.09, 0.04, 0.25 over 0.38 = 0.237, 0.105, 0.658
    assert [at(u, temperature=0.5) for u in (0.23, 0.24, 0.34, 0.35)] == [0, 1, 1, 2]
    # T = 2 takes roots: 0.5477, 0.4472, 0.7071 over 1.7020 = 0.3218, 0.2628, 0.4155
    assert [at(u, temperature=2.0) for u in (0.32, 0.33, 0.58, 0.59)] == [0, 1, 1, 2]


def test_temperature_zero_is_greedy_whatever_the_uniform():
    assert {at(u, temperature=0.0, top_p=p) for u in (0.0, 0.5, 1 - 2**-53) for p in (0.1, 1.0)} == {2}
    tied = torch.zeros(4)
    assert {at(u, temperature=0.0, logits=tied) for u in (0.0, 0.3, 0.99)} == {0}, "ties go to the lowest id"
    assert at(0.9, temperature=0.0, logits=torch.tensor([-math.inf, 1e4, -1e4])) == 1


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.01])
def test_top_p_outside_its_range(top_p):
    with pytest.raises(ValueError, match=rf"top_p must lie in \(0, 1\], got {top_p}"):
        at(0.5, top_p)


def slow_nucleus(logits, temperature, top_p):
    """By the definition, in Python floats: the ids kept and their shares, in the order of ids."""
    if temperature == 0:
        return [(max(range(len(logits)), key=lambda i: (logits[i], -i)), 1.0)]
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    ranked = sorted(((w / sum(weights), i) for i, w in enumerate(weights)), key=lambda pair: (-pair[0], pair[1]))
    kept, mass = [], 0.0
    for share, i in ranked:
        if mass >= top_p:
            break
        kept.append((i, share))
        mass += share
    return sorted(kept)


def walk(shares, uniform):
    """Spend the uniform along the shares."""
    left = uniform * sum(shares)
    for i, share in enumerate(shares):
        if left < share:
            return i
        left -= share
    return len(shares) - 1


def slow_draw(logits, temperature, top_p, uniform):
    """Draw from all ids until one is kept, each time with the next hash of the uniform."""
    kept = dict(slow_nucleus(logits, temperature, top_p))
    if temperature == 0:
        return next(iter(kept))
    everything = [share for _, share in slow_nucleus(logits, temperature, 1.0)]
    for turn in range(1000):
        drawn = walk(everything, slow_uniform(int(uniform * 2**53), turn) if turn else uniform)
        if drawn in kept:
            return drawn
    return None


@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.7]),
    st.floats(0.3, 1.0),
    st.integers(0, 999),
)
def test_agrees_with_the_slow_twin(tenths, temperature, top_p, thousandth):
    logits, uniform = [x / 10 for x in tenths], (thousandth + 0.5) / 1000
    drawn = at(uniform, top_p, temperature, torch.tensor(logits))
    # on an edge, rounding decides: of the nucleus, or between two ids
    assert drawn in [slow_draw(logits, temperature, p, uniform) for p in (top_p - 1e-5, top_p + 1e-5)]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.floats(0.001, 1.0), st.floats(0, 1 - 2**-24))
def test_what_is_drawn_lies_in_the_nucleus(units, top_p, uniform):
    """Equal probabilities too, and sets of which so little is drawn that they are looked up."""
    kept = {i for p in (top_p - 1e-5, top_p + 1e-5) for i, _ in slow_nucleus(units, 1.0, p)}
    assert at(uniform, top_p, logits=torch.tensor(units, dtype=torch.float)) in kept


def test_a_set_that_is_hardly_ever_drawn_is_looked_up():
    """1000 equal ids and top_p = 0.002: ids 0 and 1, one draw in 500."""
    rows = 400
    drawn = nucleus(torch.zeros(rows, 1000), torch.ones(rows), 0.002, uniforms(torch.arange(rows), 0))
    assert set(drawn.tolist()) == {0, 1}
    assert 150 < int(drawn.sum()) < 250  # 5 standard deviations of 10 about 200


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=30), st.floats(0.01, 1.0), st.floats(0, 1 - 2**-24), st.data())
def test_banned_ids_never_come(logits, top_p, uniform, data):
    logits = torch.tensor(logits)
    banned = data.draw(st.sets(st.integers(0, len(logits) - 1), max_size=len(logits) - 1))
    logits[list(banned)] = -math.inf
    for temperature in (0.0, 0.5, 1.0, 3.0):
        assert at(uniform, top_p, temperature, logits) not in banned


@pytest.mark.parametrize(("top_p", "temperature"), [(1.0, 1.0), (0.8, 1.0), (0.9, 0.7), (0.4, 1.5)])
def test_frequencies(top_p, temperature):
    draws, logits = 20_000, torch.randn(9, generator=torch.Generator().manual_seed(1))
    drawn = nucleus(
        logits.expand(draws, -1), torch.full((draws,), temperature), top_p, uniforms(torch.arange(draws), step=3)
    )
    share, order = (logits.double() / temperature).softmax(-1).sort(descending=True)
    share = share.where(share.cumsum(0) - share < top_p, 0.0)
    expected = torch.zeros(9, dtype=torch.double).scatter(0, order, share / share.sum()) * draws
    counts = torch.bincount(drawn, minlength=9)
    assert not counts[expected == 0].any()
    assert stats.chisquare(counts[expected > 0].numpy(), expected[expected > 0].numpy()).pvalue > 1e-4


def test_banned_ids_at_the_border_of_a_block_never_come():
    """Uniforms within a few roundings of the borders, where the first id of the next block is banned."""
    for seed in range(80):
        share = (torch.randn(1, 1000, generator=torch.Generator().manual_seed(seed)) * 3).softmax(-1)
        share[:, ::64] = 0
        mass = F.pad(share, (0, -1000 % 64)).view(-1, 64).sum(-1, dtype=torch.float64).cumsum(-1)
        near = (mass / mass[-1])[:, None] * (1 + torch.arange(-3, 4, dtype=torch.float64) * 2.0**-53)
        uniform = near.flatten().clamp(0, 1 - 2.0**-53)
        ids = draw(share.expand(len(uniform), -1), 1.0, uniform)
        assert (share[0, ids] > 0).all(), (seed, ids[share[0, ids] == 0])


def test_rows_do_not_see_each_other():
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(2))
    heat, uniform = torch.rand(50) + 0.2, uniforms(torch.arange(50), 0)
    together = nucleus(logits, heat, 0.9, uniform)
    one_by_one = [nucleus(logits[i : i + 1], heat[i : i + 1], 0.9, uniform[i : i + 1]) for i in range(50)]
    assert torch.equal(together, torch.cat(one_by_one))


def slow_uniform(key, step):
    """SplitMix64 in Python integers."""
    word = (key + (step + 1) * 0x9E3779B97F4A7C15) % 2**64
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return ((word ^ (word >> 31)) >> 11) / 2**53


def test_splitmix64_reference_value():
    # the first output of SplitMix64 seeded with 0 is 0xE220A8397B1DCDAF
    assert uniforms(torch.tensor([0]), 0).item() == (0xE220A8397B1DCDAF >> 11) / 2**53


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**6))
def test_uniforms_agree_with_the_slow_twin(key, step):
    assert uniforms(torch.tensor([key]), step).item() == slow_uniform(key, step)


def test_uniforms_are_uniform_and_uncorrelated():
    keys = torch.arange(20_000)
    now, then = uniforms(keys, 0).numpy(), uniforms(keys, 1).numpy()
    error = 5 / math.sqrt(len(keys))  # five sigma of a correlation of independent numbers
    assert 0 <= now.min() and now.max() < 1
    assert abs(now.mean() - 0.5) < 5 * math.sqrt(1 / 12 / len(keys))
    assert stats.kstest(now, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(now[:-1], now[1:])[0, 1]) < error, "adjacent keys"
    assert abs(np.corrcoef(now, then)[0, 1]) < error, "adjacent steps"
    run = np.array([uniforms(torch.tensor([12345]), step).item() for step in range(4000)])
    assert stats.kstest(run, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(run[:-1], run[1:])[0, 1]) < 5 / math.sqrt(len(run))


def test_uniforms_follow_their_key_through_any_permutation():
    keys = torch.randint(-(2**62), 2**62, (500,), generator=torch.Generator().manual_seed(0))
    order = torch.randperm(500, generator=torch.Generator().manual_seed(1))
    assert torch.equal(uniforms(keys[order], 17), uniforms(keys, 17)[order])


def test_content_keys_tell_contents_apart():
    a, b = torch.tensor([1, 2]), torch.tensor([3])
    keys = [
        content_key([a, b], 0),
        content_key([a, b], 1),
        content_key([b, a], 0),
        content_key([torch.tensor([1, 2, 3])], 0),
        content_key([torch.tensor([[1, 2]]), b], 0),
        content_key([a, None], 0),
        content_key([a], 0),
        content_key([a.float(), b], 0),
    ]
    assert len(set(keys)) == len(keys)
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert content_key([a, b], 0) == content_key([a.int(), b.clone()], 0)
    assert content_key([a.bfloat16()], 0) == content_key([a.double()], 0), "the value counts, not the width"
