from __future__ import annotations

import pytest
import torch

from seaalign import Prompt, Speech, Unsupported, Utterance
from seaalign.sampling import dual_mode, reference_logps, require_separation, stack
from tests.toy import EOS, Toy, speech


class Spy(Toy):
    """Remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def sample(self, prompts, *args, **kwargs):
        self.calls.append((list(prompts), args, kwargs))
        return super().sample(prompts, *args, **kwargs)


def equal(a, b) -> bool:
    return [t.id for t in a] == [t.id for t in b] and all(
        torch.equal(x, y)
        for s, t in zip(a, b, strict=True)
        for x, y in zip(s.completions(), t.completions(), strict=True)
    )


def test_one_prompt_with_style_and_one_without_in_the_same_voice():
    spy, rows = Spy(), speech(5)
    triplets = dual_mode(spy, rows, temperature=0.8, top_p=0.7, seed=3)
    (styled, a, ka), (plain, b, kb) = spy.calls
    assert a[:3] == b[:3] == (1, 0.8, 0.7) and ka["generator"].initial_seed() == kb["generator"].initial_seed() == 3
    by_id = {row.id: row for row in rows}
    shortest_first = sorted(rows, key=lambda row: len(row.tokens))
    for row, on, off, limit in zip(shortest_first, styled, plain, a[3].tolist(), strict=True):
        assert on.style is row.prompt.style and off.style is None
        assert on.timbre is off.timbre is row.prompt.timbre and on.text is off.text is row.prompt.text
        assert limit == 2 * len(row.tokens) + 20
    assert [t.id for t in triplets] == [row.id for row in rows if row.id in {t.id for t in triplets}]
    for t in triplets:
        assert t.real is by_id[t.id].tokens and t.prompt is by_id[t.id].prompt and t.reference is None


def test_samples_do_not_depend_on_the_batch_and_repeat_with_the_seed():
    rows = speech(12)
    # the same sentence of the same speaker three times: three answers, not one thrice
    rows += [Utterance(f"again-{i}", rows[0].prompt, rows[0].tokens) for i in range(2)]
    first = dual_mode(Toy(), rows, batch=64)
    alike = [t.stable.tolist() for t in first if t.prompt is rows[0].prompt]
    assert len(alike) == 3 and alike[0] != alike[1] != alike[2] != alike[0]
    assert equal(first, dual_mode(Toy(), rows, batch=5))
    assert equal(first, dual_mode(Toy(), rows))
    assert not equal(first, dual_mode(Toy(), rows, seed=1))
    assert not all(torch.equal(t.expressive, t.stable) for t in first)


def test_the_global_random_state_and_the_training_mode_are_left_alone():
    toy, state = Toy().train(), torch.random.get_rng_state()
    toy.head.eval()
    reference_logps(toy, dual_mode(toy, speech(3)))
    assert torch.equal(state, torch.random.get_rng_state())
    assert toy.training and not toy.head.training and all(p.grad is None for p in toy.parameters())


def test_cut_samples_say_so():
    toy = Toy()
    with torch.no_grad():
        toy.head.bias[EOS] = -50
    (triplet,) = dual_mode(toy, speech(1), max_len=7)
    assert triplet.ended == (True, False, False) and len(triplet.stable) == len(triplet.expressive) == 7


def test_empty_samples_are_dropped_and_counted():
    toy = Toy()
    with torch.no_grad():
        toy.head.bias[EOS] = 3.0  # ends at once about every second time
    with pytest.warns(UserWarning, match=r"\d+ of 20 triplets dropped"):
        kept = dual_mode(toy, speech(20), top_p=1.0)
    assert 0 < len(kept) < 20 and all(len(t.stable) and len(t.expressive) for t in kept)
    with torch.no_grad():
        toy.head.bias[EOS] = 50.0
    with pytest.raises(ValueError, match="20 of 20 triplets dropped.*check `eos`"):
        dual_mode(toy, speech(20))


def test_shuffled_pairs_take_style_and_voice_from_one_other_utterance():
    rows = speech(6)
    triplets = dual_mode(Toy(), rows, pairing="shuffled")
    owner = {id(row.prompt.style): row.id for row in rows}
    partners = [owner[id(t.prompt.style)] for t in triplets]
    assert len(set(partners)) > 1 and all(p != t.id for p, t in zip(partners, triplets, strict=True))
    voices = {row.id: row.prompt.timbre for row in rows}
    assert all(not torch.equal(voices[p], voices[t.id]) for p, t in zip(partners, triplets, strict=True))
    assert all(t.prompt.timbre is voices[p] for t, p in zip(triplets, partners, strict=True))
    assert all(t.prompt.text is r.prompt.text for t, r in zip(triplets, rows, strict=True))
    with pytest.raises(ValueError, match="at least two"):
        dual_mode(Toy(), rows[:1], pairing="shuffled")
    with pytest.raises(ValueError, match="pairing must be"):
        dual_mode(Toy(), rows, pairing="random")


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(ValueError, match=r"3 utterances have no style prefix, first \['u0', 'u1', 'u2'\]"):
        dual_mode(Toy(), speech(3, styled=False))
    toy = Toy()
    toy.features = {"timbre"}
    with pytest.raises(Unsupported, match=r"Toy does not declare \['style'\].*it has not: seaalign.StylePrefix"):
        require_separation(toy, "DGSA")


def test_reference_log_probs_are_those_of_each_row_alone():
    toy, triplets = Toy(), dual_mode(Toy(), speech(9))
    scored = reference_logps(toy, triplets, max_frames=60, styled=True)
    assert [t.id for t in scored] == [t.id for t in triplets]
    for t in scored:
        assert [len(mode) for mode in (t.reference["plain"], t.reference["styled"])] == [3, 2]
        for mode, prompt in (("plain", t.prompt.plain()), ("styled", t.prompt)):
            for values, tokens, ended in zip(t.reference[mode], t.completions(), t.ended, strict=False):
                alone = toy([prompt], Speech.pack([tokens], [ended]))[0]
                assert values.shape == (len(tokens) + 1,) and values.dtype == torch.float32
                torch.testing.assert_close(values, alone, atol=1e-5, rtol=1e-5)
    assert reference_logps(toy, triplets)[0].reference.keys() == {"plain"}


def test_a_token_of_probability_zero_names_its_triplet():
    toy, triplets = Toy(), dual_mode(Toy(), speech(2))
    token = int(triplets[1].real[0])
    with torch.no_grad():
        toy.head.bias[token] = -torch.inf
    with pytest.raises(ValueError, match="log-prob of 'u[01]' is not finite"):
        reference_logps(toy, triplets)


def test_rows_come_in_three_blocks_that_share_prompts():
    triplets = dual_mode(Toy(), speech(4))
    rows = stack(triplets)
    assert rows.prompt.tolist() == [0, 1, 2, 3] * 3
    for block, name in enumerate(("real", "expressive", "stable")):
        for k, t in enumerate(triplets):
            assert torch.equal(rows.rows()[4 * block + k], getattr(t, name))
            assert bool(rows.ended[4 * block + k]) == t.ended[block]


def test_prompt_is_kept_for_scoring_with_style():
    (triplet,) = dual_mode(Toy(), speech(1))
    assert isinstance(triplet.prompt, Prompt) and triplet.prompt.style is not None
