"""What vLLM is asked for, one request a row: the policy at the row's temperature, in its limits, and nothing else."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seaalign.backbones import speech_only

_LISTED = 1024  # ids that vLLM's newer runner takes as allowed, and as biased


def prompt_for(engine: Any, number: int, served: Mapping[str, Any]) -> dict[str, Any]:
    """A backbone's prompt as vLLM reads it.

    Raises:
        ValueError: embeddings, which the engine was not built to read.
    """
    if "prompt_embeds" not in served:
        return {"prompt_token_ids": [int(i) for i in served["prompt_token_ids"]]}
    if not getattr(engine.model_config, "enable_prompt_embeds", False):
        raise ValueError(
            f"prompt {number} is served as embeddings, which this engine does not read: build it with "
            "LLM(..., enable_prompt_embeds=True)"
        )
    return {"prompt_embeds": served["prompt_embeds"].detach().to("cpu", engine.model_config.dtype)}


def room(engine: Any, context: int | None, sizes: Tensor, most: Tensor) -> Tensor:
    """max_len by row, cut where the model itself ends, as in the built-in loop.

    Args:
        engine: its `max_model_len` counts prompt and answer.
        context: the most positions that the backbone reads, or None.
        sizes: positions of each row's prompt (rows,).
        most: max_len (rows,).

    Raises:
        ValueError: prompt and answer together do not fit into the engine.
    """
    limit = int(engine.model_config.max_model_len)
    if context is not None:
        most = torch.minimum(most, (context - sizes).clamp_min(0))
    over = (sizes + most > limit) | (sizes > (limit if context is None else context))
    if bool(over.any()):
        row = int(over.nonzero()[0])
        size, asked = int(sizes[row]), int(most[row])
        raise ValueError(
            f"row {row}: {size} positions of prompt and max_len {asked} make {size + asked}, and the engine reads "
            f"{limit} (max_model_len). Pass a smaller max_len, shorten text or style, or build the engine with a "
            "larger max_model_len"
        )
    return most


def requests(
    engine: Any, ids: tuple[Sequence[int], int], limits: Sequence[Tensor], top_p: float, keys: Sequence[int]
) -> dict[int, Any]:
    """SamplingParams by row, of the rows that may hold something.

    top_k, min_p and all penalties are off by default in `vllm.SamplingParams`; a checkpoint's generation config is
    read only by callers that give no SamplingParams.

    Args:
        engine: a `vllm.LLM`.
        ids: the engine's ids of the speech codes, and of the end token.
        limits: temperature, max_len and min_len, (rows,) each.
        top_p: nucleus mass.
        keys: the random key of each row.

    Raises:
        ValueError: vLLM would change the temperature, or hold a speech code back; or see `only_speech`.
    """
    params, codes, end = importlib.import_module("vllm").SamplingParams, set(map(int, ids[0])), int(ids[1])
    only = only_speech(engine, [*codes, end])
    if hasattr(params, "watermarking"):  # an engine that marks what it writes would draw away from the policy
        only["watermarking"] = False
    heats, most, least = (limit.tolist() for limit in limits)
    cold = sorted({heat for heat in heats if 0 < heat < 0.0099})
    if cold:
        raise ValueError(f"temperature {cold[0]:.4g}: vLLM would take 0.01. Use 0 (greedy), or 0.01 and more")
    held = _ends(engine) & codes if max(least, default=0) > 0 else set()
    if held:
        raise ValueError(
            f"the engine takes id {min(held)}, a speech code, for an end token and would not draw it before min_len: "
            "correct eos_token_id in the checkpoint's config.json and generation_config.json"
        )
    return {
        row: params(
            temperature=heat,
            top_p=top_p,
            seed=keys[row] & (2**63 - 1),  # -1 would mean: no seed
            max_tokens=most[row],
            min_tokens=min(least[row], most[row]),
            stop_token_ids=[end],
            ignore_eos=True,  # the checkpoint's own end token ends text
            detokenize=False,
            **only,
        )
        for row, heat in enumerate(heats)
        if most[row] > 0
    }


def only_speech(engine: Any, allowed: Sequence[int]) -> dict[str, Any]:
    """The settings that leave these ids alone.

    vLLM's older runner takes a list of any length. The newer one ("V2", opt-in in 0.20, the default in 0.32) takes
    1024 ids: then the others are pushed down, or `SpeechOnly` does it.

    Raises:
        ValueError: the engine does not have these ids, or cannot be told so many.
    """
    config = engine.model_config
    size = int(config.get_vocab_size())
    if not 0 <= min(allowed) <= max(allowed) < size:
        raise ValueError(
            f"the backbone draws ids {min(allowed)}..{max(allowed)}, and the engine has {size}: it was built from a "
            "checkpoint of another model"
        )
    if len(allowed) <= _LISTED or not _is_newer_runner(engine):
        return {"allowed_token_ids": list(allowed)}
    others = sorted(set(range(size)) - set(allowed))
    if len(others) <= _LISTED:
        return {"logit_bias": dict.fromkeys(others, -math.inf)} if others else {}
    if speech_only.NAME in (getattr(config, "logits_processors", None) or ()):
        return {"extra_args": {speech_only.KEY: speech_only.spans(allowed)}}
    raise ValueError(
        f"{len(allowed)} of {size} ids may be drawn, and this runner of vLLM takes lists of {_LISTED}: build the "
        f"engine with LLM(..., logits_processors=[{speech_only.NAME!r}]), as VLLM({{...}}) does by itself"
    )


def _is_newer_runner(engine: Any) -> bool:
    known = getattr(engine.llm_engine.vllm_config, "use_v2_model_runner", None)
    if known is None:  # in 0.20 a matter of the environment alone
        known = getattr(importlib.import_module("vllm.envs"), "VLLM_USE_V2_MODEL_RUNNER", False)
    return bool(known)


def _ends(engine: Any) -> set[int]:
    """Ids that the engine bans before `min_tokens`, besides the stop ids of a request."""
    inner = engine.llm_engine
    config = getattr(getattr(inner, "input_processor", None), "generation_config_fields", None) or {}
    own = config.get("eos_token_id")
    text = getattr(getattr(getattr(inner, "renderer", None), "tokenizer", None), "eos_token_id", None)
    return {i for i in [*([own] if isinstance(own, int) else own or []), text] if i is not None}


def read_answer(output: Any, ids: Mapping[int, int], end: int, row: int, most: int) -> tuple[list[int], bool]:
    """Speech codes of a row, and whether it ended by itself.

    Args:
        output: a `vllm.RequestOutput`.
        ids: the speech code of each id.
        end: the id of the end token, which vLLM returns as the last one.
        row: for messages.
        most: the row's max_len.

    Raises:
        RuntimeError: the engine gave the row up, or cut it short.
        ValueError: an id that is no speech code.
    """
    answer = output.outputs[0]
    drawn, ended = list(answer.token_ids), answer.finish_reason == "stop"
    if ended and drawn[-1:] == [end]:
        drawn.pop()
    if not ended and (answer.finish_reason != "length" or len(drawn) != most):
        raise RuntimeError(
            f"row {row}: vLLM returned {len(drawn)} of {most} frames with finish_reason {answer.finish_reason!r}; its "
            "log says why"
        )
    strange = [i for i in drawn if i not in ids]
    if strange:
        raise ValueError(
            f"row {row}, frame {drawn.index(strange[0])}: vLLM drew id {strange[0]}, which is no speech code: "
            "served_ids() does not belong to this engine, or a plugin of it overrides the ids allowed"
        )
    return [ids[i] for i in drawn], ended
