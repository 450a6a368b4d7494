"""A stand-in for Qwen3-TTS, whose package needs another transformers than the tests, and the real class made tiny.

The stand-in has upstream's attribute names and call signatures around real, small and random Qwen3 bodies; what an
adapter must leave alone raises. Nothing in this file is upstream's code.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from seaalign import Prompt, Style

TEXT, CODES, BOOKS, WIDTH, RATE = 50, 4, 3, 32, 24_000  # 64 frames: so few that draws can be counted
SPECIAL = {  # of 1024 ids after the codes
    **{"codec_eos_token_id": 26, "codec_think_id": 27, "codec_nothink_id": 28, "codec_think_bos_id": 29},
    **{"codec_think_eos_id": 30, "codec_pad_id": 31, "codec_bos_id": 32},
}
SPECIAL |= {"codec_language_id": {"english": 33}, "spk_id": {"Tara": 34}, "spk_is_dialect": {"tara": False}}
MARKS = {"tts_pad_token_id": 5, "tts_bos_token_id": 6, "tts_eos_token_id": 7, "im_start_token_id": 1}
ROLE = (1, 2, 3)
SIZES = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
SPREAD = {"initializer_range": 0.2}  # the usual 0.02 makes a random model nearly uniform: nothing to tell apart


class Body(nn.Module):
    """A transformer and the tables that upstream keeps in it; no rows of its own."""

    def __init__(self, width: int, **tables: nn.Module) -> None:
        from transformers import Qwen3Config, Qwen3Model

        super().__init__()
        self.net = Qwen3Model(Qwen3Config(**{**SIZES, "hidden_size": width}, **SPREAD, vocab_size=1, pad_token_id=0))
        for name, table in tables.items():
            self.add_module(name, table)

    def forward(self, input_ids=None, **inputs):
        assert input_ids is None
        return self.net(**inputs)


class Projection(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(24, 24), nn.SiLU(), nn.Linear(24, WIDTH))


class Predictor(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        tables = nn.ModuleList(nn.Embedding(CODES, WIDTH) for _ in range(BOOKS - 1))
        self.model = Body(width, codec_embedding=tables)
        self.lm_head = nn.ModuleList(nn.Linear(width, CODES, bias=False) for _ in range(BOOKS - 1))
        self.small_to_mtp_projection = nn.Identity() if width == WIDTH else nn.Linear(WIDTH, width)

    def generate(self, *args, **kwargs):
        raise AssertionError("upstream's sampler is another one: not to be used")


class Talker(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = Body(
            WIDTH, codec_embedding=nn.Embedding(CODES + 1024, WIDTH), text_embedding=nn.Embedding(TEXT, 24)
        )
        self.text_projection = Projection()
        self.codec_head = nn.Linear(WIDTH, CODES + 1024, bias=False)
        self.code_predictor = Predictor(width)

    def gradient_checkpointing_enable(self, **settings):
        for body in (self.model, self.code_predictor.model):
            body.net.gradient_checkpointing_enable(**settings)

    def forward(self, *args, **kwargs):
        raise AssertionError("upstream's forward draws the other books while it reads: not to be used")


class Model(nn.Module):
    """Like `Qwen3TTSForConditionalGeneration`."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        talker = SimpleNamespace(**SPECIAL, **SIZES, vocab_size=CODES + 1024, num_code_groups=BOOKS)
        self.config = SimpleNamespace(talker_config=talker, **MARKS, tts_model_type=kind)
        self.talker = Talker(width)
        self.speaker_encoder = nn.Linear(3, WIDTH) if kind == "base" else None
        self.speech_tokenizer, self.generate_config = None, None

    def generate(self, *args, **kwargs):
        raise AssertionError("upstream's sampler is another one: not to be used")

    generate_icl_prompt = generate

    @torch.inference_mode()
    def extract_speaker_embedding(self, audio, sr):
        assert sr == RATE and isinstance(audio, np.ndarray) and audio.dtype == np.float32
        return self.speaker_encoder(torch.from_numpy(audio[:3]))

    def save_pretrained(self, folder, state_dict):
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in state_dict.items()}, f"{folder}/model.safetensors")


class Codec:
    """Like `Qwen3TTSTokenizer`: 1920 samples per frame, numpy in and out."""

    model = feature_extractor = SimpleNamespace(save_pretrained=lambda folder: None)

    def get_output_sample_rate(self) -> int:
        return RATE

    def encode(self, audios, sr=None):
        assert all(isinstance(wave, np.ndarray) for wave in audios) and sr is not None
        frames = [int(len(wave) * RATE / sr) // 1920 for wave in audios]
        return SimpleNamespace(audio_codes=[torch.arange(n * BOOKS).view(n, BOOKS) % CODES for n in frames])

    def decode(self, encoded):
        return [np.repeat(e["audio_codes"].sum(-1).numpy(), 1920).astype(np.float32) / 99 for e in encoded], RATE


class Processor:
    """Like `Qwen3TTSProcessor`, letter by letter."""

    marks = {"<|im_start|>assistant\n": [1, 2, 3], "<|im_end|>\n": [4, 3]}

    def __call__(self, text, return_tensors):
        ids = []
        while text:
            mark = next((m for m in self.marks if text.startswith(m)), text[0])
            ids += self.marks[mark] if mark in self.marks else [ord(mark) - 87]
            text = text[len(mark) :]
        return {"input_ids": torch.tensor([ids])}

    def save_pretrained(self, folder):
        pass


def real(width: int, kind: str) -> nn.Module:
    """The installed class with a tiny configuration."""
    reason = "qwen-tts is not installed, or not beside transformers 4.57: see docs/recipes.md"
    try:
        import qwen_tts.core.models as upstream
    except (ImportError, TypeError):  # under transformers 5 its decorators fail with the latter
        pytest.skip(reason)
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "interleaved": True}
    common = {**SIZES, **SPREAD, "num_code_groups": BOOKS, "pad_token_id": None}
    talker = {
        **{**common, **SPECIAL, "vocab_size": CODES + 1024, "text_vocab_size": TEXT, "text_hidden_size": 24},
        "rope_scaling": rope,
        "code_predictor_config": {**common, "vocab_size": CODES, "hidden_size": width},
    }
    encoder = {"enc_dim": WIDTH, "enc_channels": [16] * 4 + [48], "enc_attention_channels": 8}
    encoder |= {"enc_res2net_scale": 2, "enc_se_channels": 8}
    config = upstream.Qwen3TTSConfig(talker, encoder, tts_model_type=kind, **MARKS)
    return upstream.Qwen3TTSForConditionalGeneration(config)


def made(which: str, width: int = WIDTH, kind: str = "base") -> nn.Module:
    """ "real" or "stand-in", in eval mode as it is loaded.

    Args:
        which: of the two.
        width: of the code predictor; another one than the talker's brings a projection along.
        kind: "base" or "custom_voice".
    """
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = (real if which == "real" else Model)(width, kind).eval()
        for table in (model.talker.model.codec_embedding, model.talker.model.text_embedding):
            nn.init.normal_(table.weight, std=0.5)
        nn.init.normal_(model.talker.codec_head.weight, std=0.4)
        return model


def prompts(timbre: bool = True) -> list[Prompt]:
    """Three of different length. The first style is shorter than the text beside it, the second longer."""
    g = torch.Generator().manual_seed(5)
    ids = [torch.randint(8, TEXT, (size,), generator=g) for size in (7, 2, 5)]
    styles = [
        Style(torch.randint(CODES, (frames, BOOKS), generator=g), torch.randint(8, TEXT, (words,), generator=g))
        for frames, words in ((3, 4), (9, 3))
    ]
    voices = [torch.randn(WIDTH, generator=g) if timbre else None for _ in ids]
    return [Prompt(*parts) for parts in zip(ids, [*styles, None], voices, strict=True)]
