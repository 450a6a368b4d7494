"""A stand-in for Chatterbox, whose packages are not part of the tests' environment, and the real classes made tiny.

The stand-in has upstream's attribute names and call signatures around a real, small and random Llama or GPT-2; what an
adapter must leave alone raises. Nothing in this file is upstream's code.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from seaalign import Prompt, Style

TEXT, CODES, START, STOP, HEAD, WIDTH, SPEAKER, EMBEDDING, MELS, RATE = 20, 12, 12, 13, 15, 32, 8, 6, 80, 24_000
FIRST_WORD, LAST_WORD = 19, 0  # the marks around a text
LLAMA = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA |= {"num_key_value_heads": 4, "head_dim": 8, "vocab_size": 8, "max_position_embeddings": 256}
GPT2 = {"n_embd": WIDTH, "n_head": 4, "n_layer": 2, "n_positions": 256, "vocab_size": 8}
SPREAD = {"initializer_range": 0.2}  # the usual 0.02 makes a random model nearly uniform: nothing to tell apart


def settings(turbo: bool) -> dict[str, object]:
    """Sizes under upstream's names."""
    return {
        "start_text_token": FIRST_WORD,
        "stop_text_token": LAST_WORD,
        "text_tokens_dict_size": TEXT,
        "start_speech_token": START,
        "stop_speech_token": STOP,
        "speech_tokens_dict_size": HEAD,
        "max_text_tokens": 30,
        "max_speech_tokens": 40,
        "speech_cond_prompt_len": 6,
        "speaker_embed_size": SPEAKER,
        "input_pos_emb": None if turbo else "learned",
        "use_perceiver_resampler": not turbo,
        "emotion_adv": not turbo,
    }


class Positions(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(rows, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.emb.weight[: x.shape[1]]


class Resampler(nn.Module):
    """Four latents that look at the style tokens, and drop a fifth of what they see while they train."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 4, WIDTH))

    def forward(self, h: Tensor) -> Tensor:
        rate = 0.2 if self.training else 0.0
        return nn.functional.scaled_dot_product_attention(self.queries, h, h, dropout_p=rate)


class Conditions(nn.Module):
    def __init__(self, turbo: bool) -> None:
        super().__init__()
        self.spkr_enc = nn.Linear(SPEAKER, WIDTH)
        self.emotion_adv_fc = None if turbo else nn.Linear(1, WIDTH, bias=False)
        self.perceiver = None if turbo else Resampler()

    def forward(self, cond) -> Tensor:
        assert (cond.cond_prompt_speech_tokens is None) == (cond.cond_prompt_speech_emb is None)
        assert cond.clap_emb is None
        parts, style = [self.spkr_enc(cond.speaker_emb.view(-1, SPEAKER))[:, None]], cond.cond_prompt_speech_emb
        if style is not None:
            parts.append(style if self.perceiver is None else self.perceiver(style))
        if self.emotion_adv_fc is not None:
            parts.append(self.emotion_adv_fc(cond.emotion_adv.view(-1, 1, 1)))
        return torch.cat(parts, dim=1)


class T3(nn.Module):
    def __init__(self, turbo: bool) -> None:
        import transformers as hf

        super().__init__()
        self.hp, self.is_gpt, self.dim = SimpleNamespace(**settings(turbo), is_multilingual=False), turbo, WIDTH
        self.cfg = hf.GPT2Config(**GPT2, **SPREAD) if turbo else hf.LlamaConfig(**LLAMA, **SPREAD)
        self.tfmr = hf.GPT2Model(self.cfg) if turbo else hf.LlamaModel(self.cfg)
        self.cond_enc = Conditions(turbo)
        self.text_emb, self.speech_emb = nn.Embedding(TEXT, WIDTH), nn.Embedding(HEAD, WIDTH)
        self.text_pos_emb, self.speech_pos_emb = (None, None) if turbo else (Positions(32), Positions(44))
        self.text_head = nn.Linear(WIDTH, TEXT, bias=False)
        self.speech_head = nn.Linear(WIDTH, HEAD, bias=turbo)

    def prepare_conditioning(self, cond) -> Tensor:
        if cond.cond_prompt_speech_tokens is not None and cond.cond_prompt_speech_emb is None:
            x = self.speech_emb(cond.cond_prompt_speech_tokens)
            cond.cond_prompt_speech_emb = x if self.is_gpt else x + self.speech_pos_emb(cond.cond_prompt_speech_tokens)
        return self.cond_enc(cond)

    def forward(self, **inputs):
        raise AssertionError("an adapter calls the parts")

    inference = inference_turbo = loss = forward


class S3Tokenizer(nn.Module):
    """One token for each 640 samples: the loudest of twelve equal parts of them."""

    def forward(self, wavs, accelerator=None, max_len=None):
        (wave,) = wavs
        frames = torch.as_tensor(wave)[: len(wave) // 640 * 640].view(-1, 640)
        parts = frames[:, : 640 // CODES * CODES].reshape(len(frames), CODES, -1)
        tokens = parts.abs().sum(-1).argmax(-1)[:max_len]
        return tokens[None], torch.tensor([len(tokens)])


class S3Gen(nn.Module):
    """960 samples per token, noise from the global generator, batch 1 and upstream's casts in place."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = S3Tokenizer()
        self.table = nn.Embedding(CODES, 960)
        self.device = torch.device("cpu")

    @torch.inference_mode()
    def inference(self, speech_tokens, ref_wav=None, ref_sr=None, ref_dict=None):
        names = ("prompt_token", "prompt_token_len", "prompt_feat", "prompt_feat_len", "embedding")
        assert tuple(sorted(ref_dict)) == tuple(sorted(names)) and speech_tokens.shape[0] == 1 and not self.training
        for name, value in ref_dict.items():
            ref_dict[name] = value.float() if isinstance(value, Tensor) else value
        token, feat = ref_dict["prompt_token"], ref_dict["prompt_feat"]
        assert feat.shape == (1, 2 * token.shape[1], MELS) and ref_dict["embedding"].shape == (1, EMBEDDING)
        assert ref_dict["prompt_token_len"].tolist() == [token.shape[1]]
        wave = self.table(speech_tokens).flatten(1) * (1 + feat.mean()) + 1e-3 * torch.randn(1)
        return wave, None

    def embed_ref(self, ref_wav, ref_sr, device="auto", ref_fade_out=True):
        assert ref_sr == RATE and ref_wav.dim() == 1 and len(ref_wav) <= 10 * RATE
        frames = len(ref_wav) // 960
        return {
            "prompt_token": torch.zeros(1, frames).long(),
            "prompt_token_len": torch.tensor([frames]),
            "prompt_feat": torch.zeros(1, 2 * frames, MELS),
            "prompt_feat_len": None,
            "embedding": ref_wav.abs().mean().expand(1, EMBEDDING),
        }


class Letters:
    """One id per letter, and 18 for what it does not know."""

    def __init__(self) -> None:
        self.tokenizer = SimpleNamespace(token_to_id={"[UNK]": 18}.get)

    def text_to_tokens(self, text: str, language_id: str | None = None) -> Tensor:
        tag = [] if language_id is None else [17]
        return torch.tensor([tag + [ord(c) - 96 if "a" <= c <= "p" else 18 for c in text]], dtype=torch.int32)


def whole(t3: nn.Module) -> SimpleNamespace:
    """Like `ChatterboxTTS`."""
    embeds = SimpleNamespace(embeds_from_wavs=lambda wavs, sample_rate: wavs[0][: 3 * SPEAKER].reshape(3, SPEAKER))
    parts = {"t3": t3, "s3gen": S3Gen().train(), "ve": embeds, "tokenizer": Letters(), "sr": RATE}
    return SimpleNamespace(**parts, ENC_COND_LEN=6 * 16_000, DEC_COND_LEN=10 * RATE)


def real(turbo: bool) -> nn.Module:
    """The installed class with a tiny configuration."""
    reason = "chatterbox-tts is not installed: see docs/recipes.md"
    upstream = pytest.importorskip("chatterbox.models.t3.t3", reason=reason)
    configs = pytest.importorskip("chatterbox.models.t3.llama_configs", reason=reason)
    hp = pytest.importorskip("chatterbox.models.t3.modules.t3_config").T3Config(TEXT)
    vars(hp).update(settings(turbo), llama_config_name="tiny")
    configs.LLAMA_CONFIGS["tiny"] = (
        {**configs.GPT2_MEDIUM_CONFIG, **GPT2, "hidden_size": WIDTH, "n_ctx": 256, **SPREAD}
        if turbo
        else {**configs.LLAMA_520M_CONFIG_DICT, **LLAMA, **SPREAD}
    )
    try:
        t3 = upstream.T3(hp)
    finally:
        del configs.LLAMA_CONFIGS["tiny"]
    if not turbo:  # its width is written into the class
        perceiver = pytest.importorskip("chatterbox.models.t3.modules.perceiver").Perceiver
        t3.cond_enc.perceiver = perceiver(4, WIDTH, WIDTH, 4)
    return t3


def made(kind: str) -> nn.Module:
    """ "real Llama", "real GPT-2", "stand-in Llama" or "stand-in GPT-2", in eval mode as upstream loads it."""
    turbo = kind.endswith("GPT-2")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        t3 = real(turbo) if kind.startswith("real") else T3(turbo)
        for table in (t3.text_pos_emb, t3.speech_pos_emb):
            if table is not None:  # upstream's 0.02 would let a wrong position pass
                nn.init.normal_(table.emb.weight, std=0.5)
    return t3.eval()


def prompts() -> list[Prompt]:
    """Three of different length, the first two with a style; the second style is longer than T3 reads."""
    g = torch.Generator().manual_seed(5)
    ids = [torch.randint(1, 17, (size,), generator=g) for size in (7, 3, 5)]
    styles = [Style(torch.randint(CODES, (size,), generator=g)) for size in (4, 9)]
    voices = [torch.randn(SPEAKER, generator=g) for _ in ids]
    return [
        Prompt(words, style, {"speaker_emb": voice})
        for words, style, voice in zip(ids, [*styles, None], voices, strict=True)
    ]
