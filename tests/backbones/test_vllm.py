"""vLLM as a sampler, against a fake engine of its interface and, where it is installed, against vLLM itself."""

import copy
import importlib.util
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from scipy import stats

from seaalign import Backbone, Prompt, Speech, Style, Unsupported
from seaalign.backbones import speech_only
from seaalign.backbones.vllm import VLLM
from seaalign.backbones.vllm_weights import weights_mark, write_weights
from seaalign.testing import check_backbone
from tests.backbones import cosyvoice_standin as standin
from tests.backbones import fake_vllm
from tests.backbones.user_models import built, tokens

transformers = pytest.importorskip("transformers")
from seaalign.backbones import CausalLM, CosyVoice, Layout, adapters_off, add_lora  # noqa: E402

pytestmark = pytest.mark.audio  # not for sound: transformers itself imports torchaudio where it finds it installed

FIRST, CODES, END = 44, 12, 60  # text 0..39, marks 40 and 41, an id that is never drawn 59
MINE = Layout("mine", prompt=(40, "{text}", 41, ("{style.speech}",)), speech=FIRST, codes=CODES, end=END, also=(59,))
PROMPTS = [Prompt([1, 2, 3]), Prompt([4, 5, 6, 7, 8], Style([3, 3, 1])), Prompt([9])]
ENGINE = {"dtype": "float32", "max_model_len": 96, "enable_prompt_embeds": True}


class Served(CausalLM):
    """`check_backbone` leaves the draws of other samplers alone; these are to follow the model."""

    sampler = "nucleus"


class Embedded(CausalLM):
    """As CosyVoice does it: the engine gets embeddings."""

    def served_prompt(self, prompt):
        return {"prompt_embeds": self.embed_prompt(prompt)}


def language_model(vocabulary=64, tied=False):
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=tied,
    )
    return built(lambda: transformers.LlamaForCausalLM(config))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    language_model().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def real(checkpoint):
    """vLLM itself: where it is not installed, what stands on it is skipped."""
    settings = {"skip_tokenizer_init": True, "enforce_eager": True, "kv_cache_memory_bytes": 1 << 26}
    return VLLM({"model": checkpoint, **ENGINE, **settings}).engine


@pytest.fixture
def fake(monkeypatch):
    """The fake in the place of vLLM."""
    for name, module in fake_vllm.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    speech_only._speech_only.cache_clear()
    yield fake_vllm.LLM
    speech_only._speech_only.cache_clear()


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.slow)])
def engine(request, checkpoint):
    if request.param == "fake":
        return request.getfixturevalue("fake")(checkpoint, **ENGINE)
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    return request.getfixturevalue("real")


@pytest.fixture
def backbone(engine):
    return CausalLM(language_model(), MINE, engine=VLLM(engine))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def without(backbone, *args, **settings):
    """The same call by the built-in loop."""
    engine, backbone.engine = backbone.engine, None
    try:
        return backbone.sample(*args, **settings)
    finally:
        backbone.engine = engine


def assert_same(got, want):
    assert [row.tolist() for row in got.rows()] == [row.tolist() for row in want.rows()]
    assert got.ended.tolist() == want.ended.tolist()
    assert got.prompt.tolist() == want.prompt.tolist()


def greedy(backbone, **settings):
    return backbone.sample(PROMPTS, temperature=0.0, max_len=30, **settings)


def shaken(module, seed=3, size=0.1):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += size * torch.randn(parameter.shape, generator=seeded(seed))


# -- the distribution --------------------------------------------------------------------------------------------------


def wanted(lm, ids, temperature, top_p):
    """Probabilities (13,) of the twelve codes and the end, from the plain model: no code of seaalign."""
    with torch.no_grad():
        logits = lm(torch.tensor([ids])).logits[0, -1, [*range(FIRST, FIRST + CODES), END]].double()
    share, order = (logits / temperature).softmax(-1).sort(descending=True)
    kept = 0
    while share[:kept].sum() < top_p - 1e-12:
        kept += 1
    nucleus = torch.zeros(CODES + 1, dtype=torch.double)
    nucleus[order[:kept]] = share[:kept]
    return nucleus / nucleus.sum()


def p_value(ids, share):
    """Chi-square of draws against probabilities, cells below 5 in one; 0 where something impossible was drawn."""
    counts = torch.bincount(torch.tensor(ids), minlength=len(share)).double()
    if counts[share == 0].any():
        return 0.0
    expected = share * counts.sum()
    small = expected < 5
    counts = torch.cat([counts[~small], counts[small].sum()[None]])
    expected = torch.cat([expected[~small], expected[small].sum()[None]])
    if expected[-1] < 5:
        counts, expected = counts[:-1], expected[:-1] * counts[:-1].sum() / expected[:-1].sum()
    return float(stats.chisquare(counts.numpy(), expected.numpy()).pvalue)


@pytest.mark.parametrize(("temperature", "top_p"), [(0.7, 1.0), (1.0, 1.0), (1.3, 1.0), (1.0, 0.9), (1.3, 0.5)])
def test_first_tokens_follow_the_model(backbone, temperature, top_p):
    share = wanted(backbone.model, [40, 1, 2, 3, 41], temperature, top_p)
    speech = backbone.sample(PROMPTS[:1], n=3000, temperature=temperature, top_p=top_p, max_len=1, generator=seeded(11))
    ids = [int(row[0]) if len(row) else CODES for row in speech.rows()]
    assert p_value(ids, share) > 1e-4
    other = wanted(backbone.model, [40, 1, 2, 3, 41], 0.85 * temperature, 0.9 * top_p)
    assert p_value(ids, other) < 1e-4  # the test can tell


def test_second_tokens_follow_the_model_given_the_first(backbone):
    speech = backbone.sample(PROMPTS[:1], n=2500, temperature=1.3, top_p=0.9, max_len=2, generator=seeded(12))
    firsts = [int(row[0]) for row in speech.rows() if len(row)]
    common = max(set(firsts), key=firsts.count)
    ids = [int(row[1]) if len(row) > 1 else CODES for row in speech.rows() if len(row) and int(row[0]) == common]
    assert len(ids) > 300
    ids_so_far = [40, 1, 2, 3, 41, FIRST + common]
    assert p_value(ids, wanted(backbone.model, ids_so_far, 1.3, 0.9)) > 1e-4
    assert p_value(ids, wanted(backbone.model, ids_so_far[:-1], 1.3, 0.9)) < 1e-4


def test_rows_of_one_prompt_have_their_own_temperature(backbone):
    heat = torch.tensor([0.5, 1.3]).repeat(1500)
    speech = backbone.sample(PROMPTS[:1], n=3000, temperature=heat, max_len=1, generator=seeded(13))
    ids = [int(row[0]) if len(row) else CODES for row in speech.rows()]
    for start, temperature in ((0, 0.5), (1, 1.3)):
        share = wanted(backbone.model, [40, 1, 2, 3, 41], temperature, 1.0)
        assert p_value(ids[start::2], share) > 1e-4


def test_greedy_is_the_built_in_loop(backbone):
    assert_same(greedy(backbone, n=2), without(backbone, PROMPTS, n=2, temperature=0.0, max_len=30))
    held = {"temperature": 0.0, "max_len": 30, "min_len": 20}
    assert_same(backbone.sample(PROMPTS, **held), without(backbone, PROMPTS, **held))


def test_embedded_prompts(engine):
    backbone = Embedded(language_model(), MINE, engine=VLLM(engine))
    assert_same(greedy(backbone), without(backbone, PROMPTS, temperature=0.0, max_len=30))


def test_the_contract_holds(engine):
    backbone = Served(language_model(), MINE, engine=VLLM(engine))
    rows = [[1, 2, 3, 4, 5, 6], [3, 4, 1, 0], [5, 5]]
    report = check_backbone(backbone, PROMPTS, Speech.pack(rows), draws=600)
    assert [outcome for _, outcome in report] == ["passed"] * 18


# -- limits and seeds --------------------------------------------------------------------------------------------------


def test_limits_by_row(backbone):
    most = torch.tensor([4, 6, 1, 8, 0, 3])
    speech = backbone.sample(PROMPTS, n=2, max_len=most, min_len=most // 2, generator=seeded())
    assert speech.prompt.tolist() == [0, 0, 1, 1, 2, 2]
    assert (speech.lengths <= most).all() and (speech.lengths >= most // 2).all()
    assert speech.ended.tolist() == (speech.lengths < most).tolist()
    assert {len(row) for row in backbone.sample(PROMPTS, n=20, max_len=5, min_len=5).rows()} == {5}


def test_nothing_asked(backbone):
    assert len(backbone.sample([])) == 0
    assert backbone.sample(PROMPTS, max_len=0).lengths.tolist() == [0, 0, 0]


def test_a_seed_repeats_whatever_else_is_in_the_call(backbone):
    settings = {"n": 3, "temperature": 1.2, "max_len": 12}
    first = backbone.sample(PROMPTS, **settings, generator=seeded(5))
    assert_same(backbone.sample(PROMPTS, **settings, generator=seeded(5)), first)
    alone = backbone.sample(PROMPTS[1:2], **settings, generator=seeded(5))
    assert [row.tolist() for row in alone.rows()] == [row.tolist() for row in first.rows()[3:6]]
    other = backbone.sample(PROMPTS, **settings, generator=seeded(6))
    assert [row.tolist() for row in other.rows()] != [row.tolist() for row in first.rows()]
    assert len({tuple(row.tolist()) for row in first.rows()[:3]}) > 1  # rows of one prompt differ


def test_the_generator_moves_on_and_the_global_one_does_not(fake, checkpoint):
    backbone, generator = CausalLM(language_model(), MINE, engine=VLLM(fake(checkpoint))), seeded()
    kept, state = torch.get_rng_state(), generator.get_state()
    backbone.sample(PROMPTS, max_len=3, generator=generator)
    assert torch.equal(torch.get_rng_state(), kept) and not torch.equal(generator.get_state(), state)


def test_what_a_request_holds(fake, checkpoint):
    engine = fake(checkpoint)
    backbone = CausalLM(language_model(), MINE, engine=VLLM(engine))
    backbone.sample(PROMPTS[1:2], n=2, temperature=torch.tensor([0.5, 0.0]), top_p=0.9, max_len=7, min_len=3)
    (prompt, hot), (_, cold) = engine.served
    assert prompt == {"prompt_token_ids": [40, 4, 5, 6, 7, 8, 41, FIRST + 3, FIRST + 3, FIRST + 1]}
    assert (hot.temperature, hot.top_p, hot.max_tokens, hot.min_tokens) == (0.5, 0.9, 7, 3) and cold.temperature == 0
    assert sorted(hot.allowed_token_ids) == [*range(FIRST, FIRST + CODES), END] and hot.stop_token_ids == [END]
    assert hot.ignore_eos and not hot.detokenize and hot.watermarking is False
    assert hot.seed is not None and hot.seed >= 0 and hot.seed != cold.seed


def test_context_of_the_model_cuts_as_in_the_built_in_loop(fake, checkpoint):
    backbone = CausalLM(language_model(), MINE, engine=VLLM(fake(checkpoint)))
    backbone.context = 20
    long = [Prompt(list(range(n))) for n in (3, 13, 18)]
    settings = {"temperature": 0.0, "max_len": 50, "min_len": 10}
    assert_same(backbone.sample(long, **settings), without(backbone, long, **settings))
    with pytest.raises(ValueError, match="row 0: 21 positions of prompt"):
        backbone.sample([Prompt(list(range(19)))])


def test_what_does_not_fit_is_refused_before_anything_runs(fake, checkpoint):
    engine = fake(checkpoint, max_model_len=32)
    backbone = CausalLM(language_model(), MINE, engine=VLLM(engine))
    message = r"row 1: 10 positions of prompt and max_len 23 make 33, and the engine reads 32 \(max_model_len\)"
    with pytest.raises(ValueError, match=message):
        backbone.sample(PROMPTS, max_len=23)
    backbone.sample(PROMPTS, max_len=22)
    served = len(engine.served)
    for settings, message in (
        ({"temperature": 0.004}, "temperature 0.004: vLLM would take 0.01"),
        ({"temperature": 2.5}, "2.5"),
        ({"temperature": -1.0}, "temperature must be finite and >= 0"),
        ({"top_p": 0.0}, "top_p must be in"),
        ({"min_len": 6}, "min_len <= max_len"),
    ):
        with pytest.raises(ValueError, match=message):
            backbone.sample(PROMPTS, **{"max_len": 5, **settings})
    assert len(engine.served) == served and engine.reloads == 1


def test_a_speech_code_that_is_the_checkpoint_s_end_token(fake, checkpoint):
    """vLLM holds it back before min_tokens: the fake does too."""
    engine = fake(checkpoint)
    assert engine.end == 2
    low = Layout("low", prompt=(40, "{text}"), speech=0, codes=CODES, end=END)
    backbone = CausalLM(language_model(), low, engine=VLLM(engine))
    backbone.sample(PROMPTS[:1], max_len=5)
    with pytest.raises(ValueError, match="takes id 2, a speech code, for an end token"):
        backbone.sample(PROMPTS[:1], max_len=5, min_len=1)


# -- weights -----------------------------------------------------------------------------------------------------------


def agrees(backbone):
    """Does the engine say what the policy says, and what other weights would not?"""
    got = greedy(backbone)
    assert_same(got, without(backbone, PROMPTS, temperature=0.0, max_len=30))
    return [row.tolist() for row in got.rows()]


def test_weights_are_pushed_when_they_change_and_only_then(backbone):
    engine = backbone.engine.engine
    reloads, rpc = [], engine.collective_rpc
    engine.collective_rpc = lambda *args, **kwargs: (reloads.append(1), rpc(*args, **kwargs))[1]
    try:
        backbone.engine.pushed = None
        said = [agrees(backbone)]
        assert agrees(backbone) == said[0] and len(reloads) == 1
        optimizer = torch.optim.AdamW(backbone.parameters(), lr=0.1, fused=True)  # moves no version counter
        backbone(PROMPTS, Speech.pack([[1, 2], [3], [4]])).sum().backward()
        optimizer.step()
        said.append(agrees(backbone))
        backbone.model.load_state_dict({k: 0.5 * v for k, v in backbone.model.state_dict().items()})
        said.append(agrees(backbone))
        for parameter in backbone.parameters():
            parameter.data.mul_(-1.5)
        said.append(agrees(backbone))
        shaken(backbone, seed=1)
        backbone.model.load_state_dict(copy.deepcopy(backbone.model.state_dict()), assign=True)
        said.append(agrees(backbone))
        assert len(reloads) == 5 and len({str(rows) for rows in said}) == 5
    finally:
        del engine.collective_rpc


def test_lora_is_merged_on_the_way(backbone):
    pytest.importorskip("peft")
    plain = agrees(backbone)
    add_lora(backbone, r=4)
    assert agrees(backbone) == plain
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3, generator=seeded(9))
    assert agrees(backbone) != plain
    with adapters_off(backbone), pytest.raises(ValueError, match="the LoRA layers are switched off"):
        greedy(backbone)


def test_two_samplers_of_one_engine_know_of_each_other(fake, checkpoint):
    engine = fake(checkpoint)
    one, two = (CausalLM(language_model(), MINE, engine=VLLM(engine)) for _ in range(2))
    shaken(two)
    assert agrees(one) != agrees(two)
    agrees(one)
    assert engine.reloads == 3
    copied = copy.deepcopy(one)
    assert copied.engine is one.engine and agrees(copied) and engine.reloads == 3


def test_weights_in_several_files(fake, checkpoint, monkeypatch, tmp_path):
    monkeypatch.setattr("seaalign.backbones.vllm_weights._SHARD", 20_000)
    tied, folder = language_model(tied=True).bfloat16(), tmp_path / "tied"
    tied.save_pretrained(folder)
    backbone = CausalLM(tied, MINE, engine=VLLM({"model": str(folder), "dtype": "float32"}, folder=tmp_path))
    shaken(backbone)
    backbone.sample(PROMPTS, max_len=3)
    held = backbone.engine.engine.model.state_dict()
    assert all(torch.equal(held[name], value.float()) for name, value in tied.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["tied"]  # and nothing is left lying about
    write_weights(tied.state_dict().items(), tmp_path, torch.float16)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: ((f"llm.{name}", value) for name, value in weights), "no module or parameter named 'llm"),
        (lambda weights: ((n, v) for n, v in weights if n != "lm_head.weight"), "lacks lm_head.weight"),
    ],
)
def test_stale_weights_are_never_sampled(fake, checkpoint, change, message):
    engine = fake(checkpoint)
    backbone = CausalLM(language_model(), MINE, engine=VLLM(engine))
    agrees(backbone)
    before = copy.deepcopy(backbone.model.state_dict())
    shaken(backbone)
    right, backbone.served_weights = backbone.served_weights, lambda: change(right())
    served = len(engine.served)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=f"did not take the new ones .*{message}.*override VLLM.push"):
            greedy(backbone)
    assert len(engine.served) == served
    backbone.served_weights = right
    backbone.model.load_state_dict(before)  # what it had held, before some of the new ones arrived
    agrees(backbone)
    assert engine.reloads >= 2


def test_a_prefix_cache_in_use(fake, checkpoint):
    backbone = CausalLM(language_model(), MINE, engine=VLLM(fake(checkpoint)))
    backbone.engine.engine.busy = True
    with pytest.raises(RuntimeError, match="its prefix cache is in use"):
        greedy(backbone)


def test_push_can_be_overridden(fake, checkpoint):
    class Direct(VLLM):
        def push(self, weights):
            self.engine.model.load_state_dict(dict(weights))

    backbone = CausalLM(language_model(), MINE, engine=Direct(fake(checkpoint)))
    shaken(backbone)
    agrees(backbone)
    assert backbone.engine.engine.reloads == 0


def test_the_mark_sees_every_change(monkeypatch):
    monkeypatch.setattr("seaalign.backbones.vllm_weights._WORDS", 4096)  # some of these take several pieces
    module = torch.nn.Module()
    kinds = [torch.zeros(3), torch.zeros(5, 7, dtype=torch.bfloat16), torch.zeros(()), torch.arange(9)[1:4]]
    kinds += [torch.zeros(4, 6).t(), torch.zeros(0), torch.zeros(70_000, 2), torch.zeros(3, dtype=torch.bool)]
    for i, tensor in enumerate(kinds):
        module.register_buffer(f"b{i}", tensor)
    marks = [weights_mark(module)]
    assert weights_mark(module) == marks[0] and len(marks[0]) == 32
    for tensor in kinds:
        for index in range(0, tensor.numel(), max(1, tensor.numel() // 7)):
            place = tensor[torch.unravel_index(torch.tensor(index), tensor.shape)]
            place.fill_(not place if tensor.dtype == torch.bool else place + 1)
            marks.append(weights_mark(module))
    assert len(set(marks)) == len(marks) > 30
    table = torch.nn.Embedding(4, 6)
    before = weights_mark(table)
    table.weight.data = table.weight.data[[1, 0, 2, 3]]  # rows that change places
    assert weights_mark(table) != before


# -- CosyVoice: embeddings in, and a checkpoint that upstream exports --------------------------------------------------


class Spoken(CosyVoice):
    """As `Served`."""

    sampler = "nucleus"


def exported(lm, folder):
    """What upstream's export_cosyvoice2_vllm writes, in float32: Qwen2 over speech, with the speech head."""
    copied = copy.deepcopy(lm)
    qwen = copied.llm.model
    qwen.lm_head = copied.llm_decoder
    qwen.set_input_embeddings(copied.speech_embedding)
    qwen.config.vocab_size, qwen.config.tie_word_embeddings = copied.speech_embedding.num_embeddings, False
    qwen.config.eos_token_id = qwen.generation_config.eos_token_id = None
    qwen.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("version", [2, 3])
def test_cosyvoice(fake, tmp_path, version):
    three = {"tokenizer": standin.Tokenizer({"<|endofprompt|>": 300}), "instruct": [5, 6, 300]} if version == 3 else {}
    lm = standin.tiny(version, codes=24, text_rows=320)
    served = Spoken(lm, engine=VLLM(fake(exported(lm, tmp_path), **{**ENGINE, "max_model_len": 256})), **three)
    engine = served.engine.engine
    if version == 2:  # upstream's CosyVoice2ForCausalLM is Qwen2ForCausalLM with a bias in the head
        head = engine.model.lm_head
        engine.model.lm_head = torch.nn.Linear(head.in_features, head.out_features)
    text, style, rows = tokens(7, 3, 11, 5, high=250), tokens(6, high=24, seed=1), tokens(12, 8, 5, high=24, seed=2)
    prompts = [Prompt(text[0], Style(style[0], text[3])), Prompt(text[1]), Prompt(text[2])]

    def answers():
        settings = {"n": 2, "temperature": 0.0, "max_len": 20}
        got = served.sample(prompts, **settings)
        assert_same(got, without(served, prompts, **settings))
        return [row.tolist() for row in got.rows()]

    before = answers()
    shaken(lm)
    assert answers() != before and engine.reloads == 2
    report = check_backbone(served, prompts, Speech.pack(rows, ended=[True, False, True]), draws=300)
    assert [outcome for _, outcome in report] == ["passed"] * 18


# -- vocabularies that the newer runner cannot be told -----------------------------------------------------------------

WIDE = Layout("wide", prompt=(40, "{text}", 41), speech=100, codes=1100, end=60)


@pytest.mark.parametrize(
    ("layout", "vocabulary", "newer", "processors", "used"),
    [
        (MINE, 64, True, None, "allowed_token_ids"),
        (WIDE, 1300, True, None, "logit_bias"),
        (WIDE, 2400, False, None, "allowed_token_ids"),
        (WIDE, 2400, True, [speech_only.NAME], "extra_args"),
        (WIDE, 2400, False, [speech_only.NAME], "allowed_token_ids"),
    ],
)
def test_only_speech_is_drawn(fake, tmp_path, layout, vocabulary, newer, processors, used):
    lm = language_model(vocabulary)
    lm.save_pretrained(tmp_path)
    engine = fake(str(tmp_path), newer_runner=newer, logits_processors=processors)
    backbone = CausalLM(lm, layout, engine=VLLM(engine))
    prompts = [Prompt([1, 2, 3]), Prompt([9])]
    settings = {"temperature": 0.0, "max_len": 12}
    assert_same(backbone.sample(prompts, **settings), without(backbone, prompts, **settings))
    backbone.sample(prompts, n=20, temperature=1.3, top_p=0.95, max_len=3)  # an id outside would be an error
    ways = ("allowed_token_ids", "logit_bias", "extra_args")
    assert {name for name in ways for _, params in engine.served if getattr(params, name)} == {used}


def test_too_many_ids_for_the_newer_runner(fake, tmp_path):
    lm = language_model(2400)
    lm.save_pretrained(tmp_path)
    backbone = CausalLM(lm, WIDE, engine=VLLM(fake(str(tmp_path), newer_runner=True)))
    message = r"1101 of 2400 ids .* logits_processors=\['seaalign.backbones.speech_only:SpeechOnly'\]"
    with pytest.raises(ValueError, match=message):
        backbone.sample([prompt.plain() for prompt in PROMPTS], max_len=3)
    backbone.engine = VLLM({"model": str(tmp_path), "newer_runner": True})
    backbone.sample([prompt.plain() for prompt in PROMPTS], max_len=3)


def test_speech_only_keeps_rows_apart(fake):
    states = SimpleNamespace(device=torch.device("cpu"), max_num_reqs=4, vocab_size=6)
    rule = speech_only.SpeechOnly(None, states)
    asked = {0: [[1, 3]], 1: None, 2: [[0, 1], [5, 6]], 3: [[1, 3]]}
    for slot, spans in asked.items():
        params = SimpleNamespace(extra_args={speech_only.KEY: spans} if spans else None)
        assert rule.add_request(slot, params) == (spans is not None)
    rule.apply_staged_writes()
    rows = torch.tensor([2, 1, 0, 3, 0])
    kept = rule.apply(torch.zeros(5, 6), SimpleNamespace(expanded_idx_mapping=rows)) == 0
    assert kept.int().tolist() == [
        [1, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 1],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
    ]
    rule.add_request(2, SimpleNamespace(extra_args=None))  # the slot's next owner
    rule.apply_staged_writes()
    assert (rule.apply(torch.zeros(1, 6), SimpleNamespace(expanded_idx_mapping=torch.tensor([2]))) == 0).all()


# -- wrong engines and wrong answers -----------------------------------------------------------------------------------


def test_vllm_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ImportError, match=r'pip install "seaalign\[vllm\]"'):
        VLLM("somewhere/checkpoint")


def test_engines_of_another_kind():
    with pytest.raises(TypeError, match="object has no generate, collective_rpc, model_config: asynchronous engines"):
        VLLM(object())


def test_backbones_that_serve_nothing(fake, checkpoint):
    class Silent(Backbone):
        def forward(self, prompts, speech): ...
        def sample(self, prompts, *args, **kwargs): ...

    with pytest.raises(Unsupported, match="Silent has no served_prompt, served_ids, served_weights"):
        VLLM(fake(checkpoint)).sample(Silent(), PROMPTS)


def test_embeddings_that_the_engine_does_not_read(fake, checkpoint):
    backbone = Embedded(language_model(), MINE, engine=VLLM(fake(checkpoint)))
    with pytest.raises(ValueError, match="enable_prompt_embeds=True"):
        backbone.sample(PROMPTS)


def test_an_engine_of_another_model(fake, tmp_path):
    language_model(50).save_pretrained(tmp_path)
    backbone = CausalLM(language_model(), MINE, engine=VLLM(fake(str(tmp_path))))
    with pytest.raises(ValueError, match=r"draws ids 44..60, and the engine has 50"):
        backbone.sample(PROMPTS, max_len=3)


@pytest.mark.parametrize(
    ("ids", "reason", "error", "message"),
    [
        ([FIRST, 7, END], "stop", ValueError, "row 1, frame 1: vLLM drew id 7, which is no speech code"),
        ([FIRST], "length", RuntimeError, "row 1: vLLM returned 1 of 4 frames with finish_reason 'length'"),
        ([], "abort", RuntimeError, "row 1: vLLM returned 0 of 4 frames with finish_reason 'abort'"),
    ],
)
def test_answers_that_are_none(fake, checkpoint, ids, reason, error, message):
    engine = fake(checkpoint)
    backbone, answer = CausalLM(language_model(), MINE, engine=VLLM(engine)), engine._answer

    def wrong(number, prompt, params):
        output = answer(number, prompt, params)
        if number == 1:
            output.outputs = [fake_vllm.CompletionOutput(0, "", ids, reason)]
        return output

    engine._answer = wrong
    with pytest.raises(error, match=message):
        backbone.sample(PROMPTS, max_len=4)


def test_the_sampler_has_a_name(fake, checkpoint):
    backbone = CausalLM(language_model(), MINE, engine=VLLM(fake(checkpoint)))
    assert backbone.sampler == "nucleus (vLLM)"
    backbone.engine = None
    assert backbone.sampler == "nucleus"


def test_the_fake_has_vllm_s_settings():
    """Names and defaults, where vLLM is installed."""
    vllm = pytest.importorskip("vllm")
    mine, theirs = fake_vllm.SamplingParams(), vllm.SamplingParams()
    lists = {"stop", "stop_token_ids"}  # empty rather than None once they are built
    for name, value in vars(mine).items():
        assert getattr(theirs, name) == ([] if name in lists else value), name
    assert vllm.SamplingParams(logit_bias={1: -math.inf}, extra_args={speech_only.KEY: [[1, 3]]}).seed is None
