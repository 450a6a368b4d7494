"""A stand-in for CosyVoice's own code, which is on no package index: its class and attribute names, all of it tiny.

What an adapter may touch is here with upstream's signatures and assertions; what it must leave alone raises. The
language model holds a real, small and random Qwen2. Nothing in this file is upstream's code.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

END_OF_PROMPT = 151646  # <|endofprompt|> of upstream's tokenizers
RATE, MELS, SAMPLES_PER_MEL = 24_000, 80, 480


class Qwen2Encoder(nn.Module):
    def __init__(self, config) -> None:
        from transformers import Qwen2ForCausalLM

        super().__init__()
        self.model = Qwen2ForCausalLM(config)

    def forward_one_step(self, xs, masks, cache=None):
        raise AssertionError("upstream's cached decoding is wrong on transformers >= 4.53: not to be used")


class Qwen2LM(nn.Module):
    """CosyVoice 2: two marks in an embedding of their own, three special ids after the speech tokens."""

    def __init__(
        self, llm_input_size, llm_output_size, speech_token_size, llm, sampling=None, mix_ratio=(5, 15)
    ) -> None:
        super().__init__()
        self.llm_input_size, self.llm_output_size = llm_input_size, llm_output_size
        self.speech_token_size = speech_token_size
        self.sos, self.task_id = 0, 1
        self.eos_token, self.fill_token = speech_token_size, speech_token_size + 2
        self.llm_embedding = nn.Embedding(2, llm_input_size)
        self.llm = llm
        self._speech(3, bias=True)
        self.sampling, self.mix_ratio = sampling, list(mix_ratio)

    def _speech(self, special: int, bias: bool) -> None:
        size = self.speech_token_size + special
        self.llm_decoder = nn.Linear(self.llm_output_size, size, bias=bias)
        self.speech_embedding = nn.Embedding(size, self.llm_input_size)
        self.stop_token_ids = [self.speech_token_size + i for i in range(special)]
        self.vllm_output_queue = {}

    def forward(self, batch, device):
        raise AssertionError("upstream's forward draws its layout at random: not to be used")

    forward_dpo = inference = inference_bistream = forward


class CosyVoice3LM(Qwen2LM):
    """CosyVoice 3: the marks are rows among 200 special ids, and the head has no bias."""

    def __init__(
        self, llm_input_size, llm_output_size, speech_token_size, llm, sampling=None, mix_ratio=(5, 15)
    ) -> None:
        nn.Module.__init__(self)
        self.llm_input_size, self.llm_output_size = llm_input_size, llm_output_size
        self.speech_token_size = speech_token_size
        self.sos, self.eos_token, self.task_id, self.fill_token = (speech_token_size + i for i in range(4))
        self.llm = llm
        self._speech(200, bias=False)
        self.sampling, self.mix_ratio = sampling, list(mix_ratio)


def tiny(version=2, seed=0, codes=24, text_rows=None, width=32, context=512, tied=True) -> Qwen2LM:
    """A random language model of CosyVoice 2 or 3 with `codes` speech tokens.

    By default the text embedding has 320 rows, and in version 3 as many as upstream's id of <|endofprompt|> needs.
    """
    from transformers import Qwen2Config

    config = Qwen2Config(
        vocab_size=text_rows or (320 if version == 2 else END_OF_PROMPT + 2),
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,  # the usual 0.02 makes a random model nearly uniform: nothing to tell apart
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        kind = Qwen2LM if version == 2 else CosyVoice3LM
        model = kind(width, width, codes, Qwen2Encoder(config))
        nn.init.normal_(model.llm_decoder.weight, std=0.3)
    return model


class Flow(nn.Module):
    """Tokens to mel frames, two to a token; keeps what it was called with in `heard`."""

    token_mel_ratio = 2

    def __init__(self, codes: int) -> None:
        super().__init__()
        self.input_embedding = nn.Embedding(codes, MELS)
        self.spk_embed_affine_layer = nn.Linear(192, MELS)
        self.dropout = nn.Dropout(0.5)
        self.heard: list[dict] = []

    @torch.inference_mode()
    def inference(
        self,
        token,
        token_len,
        prompt_token,
        prompt_token_len,
        prompt_feat,
        prompt_feat_len,
        embedding,
        streaming,
        finalize,
    ):
        assert token.shape[0] == 1 and token.dtype == torch.int32 and embedding.shape == (1, 192)
        for values, length in ((token, token_len), (prompt_token, prompt_token_len), (prompt_feat, prompt_feat_len)):
            assert length.tolist() == [values.shape[1]]
        assert prompt_feat.shape == (1, 2 * prompt_token.shape[1], MELS)
        assert (streaming, finalize) == (False, True)
        parts = {"token": token, "prompt_token": prompt_token, "prompt_feat": prompt_feat, "embedding": embedding}
        self.heard.append({name: value.clone() for name, value in parts.items()})
        mel = self.input_embedding(token.long()).repeat_interleave(2, dim=1)
        mel = mel + self.spk_embed_affine_layer(embedding)[:, None] + prompt_feat.sum(1, keepdim=True)
        return self.dropout(mel).transpose(1, 2), None


class HiFT(nn.Module):
    """Mel frames to samples; version 2 adds fresh noise, as upstream's source module does."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((), 0.1))

    @torch.inference_mode()
    def inference(self, speech_feat, cache_source=torch.zeros(1, 1, 0)):  # noqa: B008
        assert speech_feat.shape[:2] == (1, MELS)
        sound = torch.tanh(self.gain * speech_feat.mean(1)).repeat_interleave(SAMPLES_PER_MEL, dim=1)
        return sound + 0.003 * torch.randn(sound.shape), cache_source


class CausalHiFT(HiFT):
    @torch.inference_mode()
    def inference(self, speech_feat, finalize=True):
        assert speech_feat.shape[:2] == (1, MELS) and finalize is True
        return torch.tanh(self.gain * speech_feat.mean(1)).repeat_interleave(SAMPLES_PER_MEL, dim=1), None


class CosyVoice2Model:
    silent_tokens: tuple[int, ...] | list[int] = []

    def __init__(self, llm, flow, hift, fp16=False) -> None:
        self.device = torch.device("cpu")
        self.llm, self.flow, self.hift, self.fp16 = llm, flow, hift, fp16
        self.lock, self.hift_cache_dict = threading.Lock(), {}

    def token2wav(
        self, token, prompt_token, prompt_feat, embedding, token_offset, uuid, stream=False, finalize=False, speed=1.0
    ):
        count = lambda part: torch.tensor([part.shape[1]], dtype=torch.int32)  # noqa: E731
        mel, _ = self.flow.inference(
            token=token.to(torch.int32),
            token_len=count(token),
            prompt_token=prompt_token,
            prompt_token_len=count(prompt_token),
            prompt_feat=prompt_feat,
            prompt_feat_len=count(prompt_feat),
            embedding=embedding,
            streaming=stream,
            finalize=finalize,
        )
        assert self.hift_cache_dict[uuid] is None and token_offset == 0
        return self._vocode(mel)

    def _vocode(self, mel: Tensor) -> Tensor:
        return self.hift.inference(speech_feat=mel, cache_source=torch.zeros(1, 1, 0))[0]


class CosyVoice3Model(CosyVoice2Model):
    silent_tokens = [1, 2]

    def _vocode(self, mel: Tensor) -> Tensor:
        return self.hift.inference(speech_feat=mel, finalize=True)[0]


class Tokenizer:
    """Bytes, and special tokens where they are known."""

    def __init__(self, special=None) -> None:
        self.special = {"<|endofprompt|>": END_OF_PROMPT} if special is None else special

    def encode(self, text: str, allowed_special="all", **kwargs) -> list[int]:
        assert allowed_special == "all"
        for name, number in self.special.items():
            if name in text:
                before, _, after = text.partition(name)
                return [*self.encode(before), number, *self.encode(after)]
        return list(text.encode())


def load_wav(wav, target_sr, min_sr=16000):
    raise RuntimeError("upstream reads files by torchaudio.load, which needs torchcodec and FFmpeg")


class FrontEnd:
    """Extractors that count: 25 tokens and 50 mel frames a second, the mel a frame longer."""

    allowed_special = "all"

    def __init__(self, codes: int, tokenizer=None) -> None:
        self.codes, self.tokenizer, self.device = codes, tokenizer or Tokenizer(), torch.device("cpu")

    def text_normalize(self, text, split=True, text_frontend=True):
        if text_frontend and "<|" not in text:
            text = text.strip().replace("5", "five")
        return [text] if split else text

    def _extract_speech_token(self, prompt_wav):
        return self._tokens(load_wav(prompt_wav, 16000))

    def _tokens(self, speech: Tensor) -> tuple[Tensor, Tensor]:
        count = speech.shape[1] // 640
        assert count <= 750
        level = speech[0, : count * 640].reshape(count, 640).abs().mean(1)
        return (level * 1000).to(torch.int32)[None] % self.codes, torch.tensor([count], dtype=torch.int32)

    def frontend_zero_shot(self, tts_text, prompt_text, prompt_wav, resample_rate, zero_shot_spk_id):
        assert (tts_text, prompt_text, resample_rate, zero_shot_spk_id) == ("", "", RATE, "")
        token, _ = self._extract_speech_token(prompt_wav)
        return self._model_input(token, load_wav(prompt_wav, 24000))

    def _model_input(self, token: Tensor, speech: Tensor) -> dict:
        feat = speech[:, : speech.shape[1] // 480 * 480].reshape(1, -1, 480).abs().mean(-1, keepdim=True)
        count = min(feat.shape[1] // 2, token.shape[1])
        embedding = speech.abs().mean().expand(1, 192)
        return {
            "llm_prompt_speech_token": token[:, :count],
            "flow_prompt_speech_token": token[:, :count],
            "prompt_speech_feat": feat[:, : 2 * count].expand(-1, -1, MELS),
            "llm_embedding": embedding,
            "flow_embedding": embedding,
        }


class OlderFrontEnd(FrontEnd):
    """The frontend of checkouts of 2025: it takes samples at 16 kHz."""

    def _extract_speech_token(self, speech):
        return self._tokens(speech)

    def frontend_zero_shot(self, tts_text, prompt_text, prompt_speech_16k, resample_rate):
        assert (tts_text, prompt_text, resample_rate) == ("", "", RATE)
        return self._model_input(self._tokens(prompt_speech_16k)[0], prompt_speech_16k)


class CosyVoice2:
    """The whole object; built from a folder it loads llm.pt strictly, and leaves seeds and logging as upstream does."""

    version, model_class, vocoder = 2, CosyVoice2Model, HiFT

    def __init__(self, model_dir=None, llm=None, seed=0) -> None:
        llm = tiny(self.version) if llm is None else llm
        self.frontend, self.sample_rate = FrontEnd(llm.speech_token_size), RATE
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.model = self.model_class(llm, Flow(llm.speech_token_size), self.vocoder())
        if model_dir is not None:
            assert (Path(model_dir) / f"cosyvoice{self.version}.yaml").is_file()
            state = torch.load(Path(model_dir) / "llm.pt", weights_only=True)
            llm.load_state_dict(state, strict=True)
            for seeded in (random.seed, np.random.seed, torch.manual_seed):
                seeded(1986)
            logging.getLogger().setLevel(logging.DEBUG)
        for part in (llm, self.model.flow, self.model.hift):
            part.eval()


class CosyVoice3(CosyVoice2):
    version, model_class, vocoder = 3, CosyVoice3Model, CausalHiFT


def AutoModel(**kwargs) -> CosyVoice2:  # noqa: N802
    kind = CosyVoice3 if (Path(kwargs["model_dir"]) / "cosyvoice3.yaml").is_file() else CosyVoice2
    return kind(**kwargs)


def tiny_cosyvoice2(seed=0, **sizes) -> CosyVoice2:
    """The whole object around `tiny(2)`."""
    return CosyVoice2(llm=tiny(2, seed, **sizes), seed=seed)


def tiny_cosyvoice3(seed=0, **sizes) -> CosyVoice3:
    """The whole object around `tiny(3)`."""
    return CosyVoice3(llm=tiny(3, seed, **sizes), seed=seed)


def model_folder(folder: Path, version=2, seed=0) -> Path:
    """A model folder that `CosyVoice(str(folder))` opens where the stand-in is importable as the checkout."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"cosyvoice{version}.yaml").write_text("# stand-in\n")
    torch.save(tiny(version, seed).state_dict(), folder / "llm.pt")
    return folder


def checkout(folder: Path) -> Path:
    """Modules `cosyvoice.cli.cosyvoice` and `cosyvoice.llm.llm` in a folder for sys.path or PYTHONPATH.

    They import this file, so a process that uses them has the root of the repository on its path too.
    """
    for place in ("cli/cosyvoice.py", "llm/llm.py"):
        module = folder / "cosyvoice" / place
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text("from tests.backbones.cosyvoice_standin import *  # noqa: F403\n")
    return folder


@contextmanager
def installed(folder: Path) -> Iterator[Path]:
    """Inside, `import cosyvoice.cli.cosyvoice` finds the stand-in, written to the folder."""
    forget = lambda: [sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "cosyvoice"]  # noqa: E731
    forget()
    sys.path.insert(0, str(checkout(folder)))
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        forget()
