"""Recognisers of a few thousand random weights, saved to disk the way the real ones are."""

from __future__ import annotations

import json
from pathlib import Path

import torch

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LANGUAGES = ("en", "th", "lo", "km", "my", "vi")
SECONDS = 2  # the window that stands for Whisper's 30
RATE = 16_000


def waveforms(*seconds: float, rate: int = RATE) -> list[torch.Tensor]:
    """A hum of another pitch for each length, with noise on it."""
    generator = torch.Generator().manual_seed(0)
    sounds = []
    for number, length in enumerate(seconds):
        time = torch.arange(round(length * rate)) / rate
        noise = torch.randn(len(time), generator=generator)
        sounds.append(0.3 * torch.sin(2 * torch.pi * 150 * (1.7**number) * time) + 0.05 * (number + 1) * noise)
    return sounds


def save_whisper(folder: Path, seconds: int = SECONDS) -> Path:
    """Whisper of one layer; what it says is letters, mostly."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import (
        AddedToken,
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
    )

    folder.mkdir(parents=True)
    tokens = [
        *LETTERS,
        "Ġ",
        *sorted(set(ByteLevel.alphabet()) - {*LETTERS, "Ġ"}),
        "",
    ]  # as Whisper's, the empty one too
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    words = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    names = ["endoftext", "startoftranscript", *LANGUAGES, *words]
    tokenizer.add_tokens([AddedToken(f"<|{name}|>", special=True) for name in names], special_tokens=True)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80, chunk_length=seconds).save_pretrained(folder)

    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names}
    torch.manual_seed(3)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(tokenizer) + 50 * seconds + 1,  # a mark every 20 ms
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_source_positions=50 * seconds,
            max_target_positions=448,
            init_std=0.3,
            dropout=0.1,  # so that a model left in training mode is found out
            pad_token_id=ids["endoftext"],
            bos_token_id=ids["endoftext"],
            eos_token_id=ids["endoftext"],
            decoder_start_token_id=ids["startoftranscript"],
            suppress_tokens=[],
            begin_suppress_tokens=[ids["endoftext"]],
        )
    )
    with torch.no_grad():  # letters are likelier than bytes and marks of time
        rows = model.model.decoder.embed_tokens.weight
        model.model.decoder.layer_norm.bias[0] = 4.0  # what all logits see, times the first column
        rows[len(LETTERS) + 1 : ids["endoftext"], 0] = -2.0
        rows[ids["notimestamps"] + 1 :, 0] = -2.0
        rows[ids["endoftext"], 0] += 0.4
    model.generation_config = GenerationConfig(
        max_length=20,
        pad_token_id=ids["endoftext"],
        bos_token_id=ids["endoftext"],
        eos_token_id=ids["endoftext"],
        decoder_start_token_id=ids["startoftranscript"],
        begin_suppress_tokens=[ids["endoftext"]],
        is_multilingual=True,
        lang_to_id={f"<|{code}|>": ids[code] for code in LANGUAGES},
        task_to_id={task: ids[task] for task in ("transcribe", "translate")},
        no_timestamps_token_id=ids["notimestamps"],
        max_initial_timestamp_index=25 * seconds,
        return_timestamps=False,
        # the bytes that are no letters, so that texts are easy to read, and the marks of tasks and languages
        suppress_tokens=[
            *range(len(LETTERS) + 1, ids["endoftext"]),
            *range(ids["endoftext"] + 1, ids["notimestamps"] + 1),
        ],
    )
    model.save_pretrained(folder)
    return folder


def save_mms(folder: Path, norm: str = "layer", adapters: bool = True) -> Path:
    """wav2vec 2.0 of one layer with an adapter and alphabet for each language: letters from a on, of other numbers."""
    from safetensors.torch import save_file
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder.mkdir(parents=True)
    languages = ("tha", "lao")
    special = ["<pad>", "<s>", "</s>", "<unk>", "|"]
    sizes = {code: 12 + 5 * i for i, code in enumerate(languages)}
    alphabets = {
        code: {c: i for i, c in enumerate([*special, *(LETTERS[:n] if code != "lao" else LETTERS[::-1][:n])])}
        for code, n in sizes.items()
    }
    (folder / "vocab.json").write_text(json.dumps(alphabets))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), target_lang=languages[0]).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=norm == "layer").save_pretrained(folder)
    torch.manual_seed(0)
    model = Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=len(alphabets[languages[0]]),
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=64,
            conv_dim=(32,) * 7,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
            feat_extract_norm=norm,
            do_stable_layer_norm=norm == "layer",
            conv_bias=norm == "layer",
            adapter_attn_dim=4 if adapters else None,
            initializer_range=0.5,
        )
    )
    model.save_pretrained(folder)
    for code in languages if adapters else ():
        width = len(alphabets[code])
        weights = {
            name: torch.randn(width, *value.shape[1:]) if name.startswith("lm_head") else torch.randn_like(value)
            for name, value in model._get_adapters().items()
        }
        save_file(weights, folder / f"adapter.{code}.safetensors")
    return folder


def save_faster_whisper(folder: Path) -> Path:
    """The same for CTranslate2, with a window of 30 s: faster-whisper knows no other."""
    from ctranslate2.converters import TransformersConverter

    source = save_whisper(folder / "source", seconds=30)
    files = ["tokenizer.json", "preprocessor_config.json"]
    return Path(TransformersConverter(str(source), copy_files=files).convert(str(folder / "converted")))


RECIPE = """
sample_rate: 16000
encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
    features: !new:speechbrain.lobes.features.Fbank
        n_mels: 20
    output: !new:speechbrain.nnet.linear.Linear
        input_size: 20
        n_neurons: 6
    softmax: !new:speechbrain.nnet.activations.Softmax
        apply_log: True
tokenizer: !new:speechbrain.dataio.encoder.CTCTextEncoder
decoding_function: !name:speechbrain.decoders.ctc_greedy_decode
    blank_id: 0
modules:
    encoder: !ref <encoder>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        encoder: !ref <encoder>
        tokenizer: !ref <tokenizer>
"""


def save_speechbrain(folder: Path) -> Path:
    """An EncoderASR: mel bands, one layer, greedy CTC over five letters."""
    from hyperpyyaml import load_hyperpyyaml

    folder.mkdir(parents=True)
    (folder / "hyperparams.yaml").write_text(RECIPE)
    torch.manual_seed(1)
    recipe = load_hyperpyyaml(RECIPE)
    torch.save(recipe["encoder"].state_dict(), folder / "encoder.ckpt")
    recipe["tokenizer"].insert_blank(index=0)
    recipe["tokenizer"].update_from_iterable("abcde", sequence_input=False)
    recipe["tokenizer"].save(folder / "tokenizer.ckpt")
    return folder


def save_dolphin(folder: Path) -> Path:
    """Dolphin of one layer and few letters, in the files of version 20260513, under the name "small"."""
    import yaml
    from dolphin.model import init_speech_model

    folder.mkdir(parents=True)
    marks = ["<blank>", "<unk>", "<lo>", "<LA>", "<asr>", "<notimestamp>", "<0.00>", "<30.00>"]
    units = [*marks, *LETTERS, "<sos>", "<eos>"]
    (folder / "units.txt").write_text("\n".join(f"{unit} {i}" for i, unit in enumerate(units)))
    (folder / "global_cmvn").write_text(json.dumps({"mean_stat": [0.0] * 80, "var_stat": [1.0] * 80, "frame_num": 1}))
    layer = {"attention_heads": 2, "linear_units": 32, "num_blocks": 1}
    recipe = {
        "cmvn": "global_cmvn",
        "cmvn_conf": {"cmvn_file": str(folder / "global_cmvn")},
        "input_dim": 80,
        "output_dim": len(units),
        "tokenizer": "char",
        "tokenizer_conf": {"special_tokens": {unit: i for i, unit in enumerate(units) if unit.startswith("<")}},
        "ctc_conf": {"ctc_blank_id": 0},
        "encoder_conf": {**layer, "output_size": 16, "cgmlp_linear_units": 32, "pos_enc_layer_type": "rel_pos_v1"},
        "decoder_conf": layer,
        "model_conf": {},
        "dataset_conf": {"fbank_conf": {"num_mel_bins": 80, "sample_frequency": RATE}},
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(recipe))
    torch.manual_seed(0)
    torch.save(init_speech_model(recipe).state_dict(), folder / "small.pt")
    return folder
