"""Rows that are too long, too many, empty or without a number, as a run meets them."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import lightning as L
import pytest
import torch

from examples.your_own_model import CODES, TEXT
from seaalign import DGSA, SFT, Prompt, Speech, SpeechData, TripletData, Utterance
from seaalign.backbones import packing
from seaalign.data.batches import PairBatch, SpeechBatch
from seaalign.data.pairs import PairData
from seaalign.modules.dpo import DPO
from seaalign.modules.losses import require_finite
from seaalign.records import Pair, Sentence
from seaalign.sampling import explore, pair_logps
from seaalign.sampling.dual import say
from seaalign.storage import read_metadata, read_triplets, write_triplets
from tests.backbones.test_packing import own
from tests.modules.test_dpo import made_pairs
from tests.toy import Toy, quiet, speech


class Poison(L.Callback):
    """A weight is lost before the third step."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 2:
            with torch.no_grad():
                module.backbone.codes.weight[4] = float("nan")


@pytest.mark.parametrize("kind", ["sft", "dpo", "dgsa"])
def test_a_log_prob_that_is_no_number_stops_the_run_and_names_its_row(tmp_path, kind):
    """Only rows that read code 4 are lost, from the column after it on."""
    rows = speech(20)
    if kind == "sft":
        module, data = SFT(Toy()), SpeechData(rows, max_frames=40)
    elif kind == "dpo":
        module, data = DPO(Toy()), PairData(made_pairs(20), tmp_path / "s.parquet", max_frames=80, val_fraction=0)
    else:
        module, data = DGSA(Toy(), 0.8), TripletData(rows, tmp_path / "t.parquet", max_frames=120, val_fraction=0)
    says = (
        r"(\d+) of (\d+) rows have log-probs that are not finite: row (\d+) of the batch, of '(u\d+)', has nan at token"
    )
    with pytest.raises(ValueError, match=says) as caught:
        quiet(max_epochs=5, callbacks=[Poison()]).fit(module, data)
    few, of, _, name = re.match(says, str(caught.value)).groups()
    assert int(few) < int(of)
    held = {r.id: (r.tokens,) if kind == "sft" else r.completions() for r in data.train}
    assert any(4 in row for row in held[name])


def test_a_step_is_left_to_the_gradient_scaler_under_float16():
    logps, scored = torch.tensor([[0.0, float("nan")]]), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="1 of 1 rows .*row 0 has nan at token 1"):
        require_finite(logps, scored, [])
    require_finite(logps, torch.tensor([[True, False]]), [])  # a column that nobody asks for
    with torch.autocast("cpu", torch.float16):
        require_finite(logps, scored, [])
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="not finite"):
        require_finite(logps, scored, [])


def utterances(*texts: int, frames: int = 9) -> list[Utterance]:
    g = torch.Generator().manual_seed(0)
    return [
        Utterance(
            f"u{i}", Prompt(torch.randint(TEXT, (size,), generator=g)), torch.randint(CODES, (frames,), generator=g)
        )
        for i, size in enumerate(texts)
    ]


def test_a_prompt_longer_than_the_budget_has_a_batch_of_its_own():
    seen = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append(sorted(batch.ids))

    data = SpeechData(utterances(5, 90, 6, 70, 7), max_frames=60)
    with pytest.warns(UserWarning) as caught:
        quiet(max_epochs=1, callbacks=[Watch()]).fit(SFT(own()), data)
    told = [str(w.message) for w in caught if "max_frames" in str(w.message)]
    assert len(told) == 1 and told[0].startswith("2 of 5 items are longer than max_frames=60 (longest: 99); each gets")
    assert sorted(map(tuple, seen)) == [("u0", "u2", "u4"), ("u1",), ("u3",)]


def test_what_the_model_cannot_read_is_refused_by_its_size():
    backbone = own()
    backbone.context = 40
    with pytest.raises(ValueError, match=r"'u1': prompt and speech take 51 positions, Packable can read 40: shorten"):
        quiet(max_epochs=1).fit(SFT(backbone), SpeechData(utterances(5, 40), max_frames=60))
    with pytest.raises(ValueError, match=r"the prompt takes 42 positions, Packable can read 40: shorten"):
        backbone.sample([u.prompt for u in utterances(5, 40)], max_len=3)
    # what is left of the context is all that is sampled
    drawn = backbone.sample([u.prompt for u in utterances(35)], n=4, min_len=3, max_len=99)
    assert drawn.lengths.tolist() == [3] * 4 and not drawn.ended.any()


def test_a_row_that_is_too_long_is_called_by_its_id_wherever_it_is_met():
    backbone, rows = own(), utterances(5, 40, 6)
    backbone.context = 40
    pairs = [Pair(u.id, u.prompt, u.tokens, u.tokens[:3]) for u in rows]
    scored = [replace(pair, reference=(torch.zeros(10), torch.zeros(4))) for pair in pairs]
    sentences = [Sentence(u.id, "much", u.prompt) for u in rows]
    prompts = [u.prompt for u in rows]
    for meet in (
        lambda: SFT(backbone).loss(SpeechBatch(prompts, Speech.pack([u.tokens for u in rows]), [u.id for u in rows])),
        lambda: DPO(backbone).loss(PairBatch.of(scored)),
        lambda: pair_logps(backbone, pairs),
        lambda: next(explore(backbone, sentences, [1.0], max_len=3)),
        lambda: say(backbone, prompts, [3] * 3, temperature=1.0, top_p=1.0, batch=2, seed=0, ids=[u.id for u in rows]),
    ):
        with pytest.raises(ValueError, match=r"^'u1': (prompt and speech take|the prompt takes) \d\d positions"):
            meet()


def test_a_thousand_candidates_of_one_text_are_scored_in_proportion(monkeypatch):
    """Attention never sees more than a prompt and one candidate, however many stand in the row."""
    backbone, (asked,) = own(), utterances(12)
    g = torch.Generator().manual_seed(1)
    rows = [torch.randint(CODES, (int(n),), generator=g) for n in torch.randint(1, 20, (1000,), generator=g)]
    every, some = Speech.pack(rows, None, [0] * 1000), Speech.pack(rows[500:503], None, [0] * 3)
    original, seen = packing.causal_lower_right, []
    with torch.no_grad():
        few = backbone([asked.prompt], some)
        monkeypatch.setattr(packing, "causal_lower_right", lambda *size: seen.append(size) or original(*size))
        scores = backbone([asked.prompt], every)
    torch.testing.assert_close(scores[500:503, : few.shape[1]], few, atol=1e-5, rtol=1e-5)
    assert len(seen) == 2 * 1000 and max(seen) == (19, 14 + 19)  # two layers; 12 ids and two marks are the prompt


def test_a_thousand_candidates_of_one_text_are_drawn_in_waves():
    backbone, (asked,) = own(), utterances(12)
    sizes = []
    original = backbone.extend
    backbone.extend = lambda state, tokens: sizes.append(len(tokens)) or original(state, tokens)
    settings = {"max_len": 4, "min_len": 2}
    drawn = backbone.sample([asked.prompt], n=1000, generator=torch.Generator().manual_seed(0), **settings)
    few = backbone.sample([asked.prompt], n=600, generator=torch.Generator().manual_seed(0), **settings)
    assert len(drawn) == 1000 and max(sizes) == 512
    assert all(torch.equal(a, b) for a, b in zip(drawn.rows()[:600], few.rows(), strict=True))
    assert len({tuple(row.tolist()) for row in drawn.rows()}) > 900


def test_answers_without_a_token_are_scored_by_their_end_and_refused_as_data(tmp_path):
    backbone, (asked,) = own(), utterances(5)
    scores = backbone([asked.prompt], Speech.pack([torch.zeros(0), asked.tokens], None, [0, 0]))
    alone = backbone([asked.prompt], Speech.pack([torch.zeros(0)], None, [0]))
    assert alone.shape == (1, 1) and float(alone) < 0
    torch.testing.assert_close(scores[0, :1], alone[0], atol=1e-6, rtol=1e-6)
    assert not scores[0, 1:].any()

    with pytest.raises(ValueError, match="utterance 'u0' has no speech tokens"):
        replace(asked, tokens=asked.tokens[:0])
    pairs = made_pairs(6)
    with pytest.warns(UserWarning, match=r"(?s)1 of 6 rows refused.*rejected is empty"):
        data = PairData([replace(pairs[0], rejected=pairs[0].rejected[:0]), *pairs[1:]], reference="disabled_adapter")
        data.setup("fit")
    assert len(data.train) + len(data.val) == 5

    path = tmp_path / "t.parquet"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        TripletData(speech(6), path).make(Toy())
    made = read_triplets(path)
    write_triplets(path, [replace(made[0], stable=made[0].stable[:0]), *made[1:]], read_metadata(path))
    with pytest.raises(ValueError, match="t.parquet, row 0: stable are empty: drop the row"):
        TripletData(speech(6), path).setup("fit")
