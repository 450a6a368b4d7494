"""A small engine with vLLM's interface: its own copy of a causal LM, sampled with plain torch, no code of seaalign.

What it does, refuses and gets wrong was read in vLLM 0.20 to 0.33 and compared with vLLM 0.32 on a CPU: silent changes
of temperature and seed, the prefix cache that outlives a change of weights, the runner that takes 1024 allowed ids, the
end token of the checkpoint that is held back before `min_tokens`, a push that may lack tensors.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

LISTED = 1024


@dataclass
class SamplingParams:
    """The fields that matter here, with vLLM's names, defaults and refusals."""

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    watermarking: bool | None = None
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list | None = None
    stop_token_ids: list | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    detokenize: bool = True
    logit_bias: dict | None = None
    allowed_token_ids: list | None = None
    extra_args: dict | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and 0 <= self.temperature <= 2):
            raise ValueError(f"temperature must be in [0, 2], got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}.")
        if self.max_tokens is None or self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}.")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise ValueError(f"min_tokens must be in [0, max_tokens={self.max_tokens}], got {self.min_tokens}.")
        if self.seed is not None and not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed {self.seed} is no 64-bit integer")
        if self.allowed_token_ids == []:
            raise ValueError("allowed_token_ids is not None and empty!")
        neutral = (self.n, self.presence_penalty, self.frequency_penalty, self.repetition_penalty, self.min_p)
        if neutral != (1, 0.0, 0.0, 1.0, 0.0) or self.top_k not in (0, -1) or self.stop:
            raise NotImplementedError("the fake draws from the model alone")
        if 0 < self.temperature < 0.01:  # with a warning in the log
            self.temperature = 0.01
        if self.seed == -1:
            self.seed = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list
    finish_reason: str | None = None
    stop_reason: int | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list | None
    outputs: list = field(default_factory=list)
    finished: bool = True


class LLM:
    """`vllm.LLM(folder)`: the part of it that a sampler can use."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "float32",
        max_model_len: int | None = None,
        enable_prompt_embeds: bool = False,
        logits_processors: list | None = None,
        newer_runner: bool = False,
        **settings: Any,
    ) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(model).to(getattr(torch, dtype)).eval()
        self.vocabulary = self.model.config.vocab_size
        self.model_config = SimpleNamespace(
            model=model,
            dtype=getattr(torch, dtype),
            max_model_len=max_model_len or self.model.config.max_position_embeddings,
            enable_prompt_embeds=enable_prompt_embeds,
            logits_processors=logits_processors,
            hf_config=self.model.config,
            get_vocab_size=lambda: self.vocabulary,
        )
        file = Path(model) / "generation_config.json"
        fields = json.loads(file.read_text()) if file.is_file() else {}
        self.llm_engine = SimpleNamespace(
            vllm_config=SimpleNamespace(use_v2_model_runner=newer_runner),
            input_processor=SimpleNamespace(generation_config_fields=fields),
            renderer=SimpleNamespace(tokenizer=None),
        )
        self.end = fields.get("eos_token_id")
        self.cache: dict = {}  # logits by what was read: as stale as a prefix cache after a change of weights
        self.busy, self.served, self.reloads = False, [], 0
        self.processors = [self._processor(name) for name in logits_processors or ()]

    def _processor(self, name: str) -> Any:
        module, _, attribute = name.partition(":")
        kind = getattr(importlib.import_module(module), attribute)
        newer = self.llm_engine.vllm_config.use_v2_model_runner
        here = "vllm.v1.worker.gpu.sample.logits_processor" if newer else "vllm.v1.sample.logits_processor"
        if not issubclass(kind, sys.modules[here].LogitsProcessor):
            raise ValueError(f"{kind.__name__} is not a subclass of {here}.LogitsProcessor")
        states = SimpleNamespace(device=torch.device("cpu"), max_num_reqs=4, vocab_size=self.vocabulary)
        return kind(None, states) if newer else kind(None, torch.device("cpu"), False)

    def generate(self, prompts: list, sampling_params: list, *, use_tqdm: bool = True) -> list[RequestOutput]:
        if len(prompts) != len(sampling_params):
            raise ValueError(
                f"The lengths of prompts ({len(prompts)}) and params ({len(sampling_params)}) must be equal"
            )
        self.served += list(zip(prompts, sampling_params, strict=True))
        return [self._answer(i, *pair) for i, pair in enumerate(zip(prompts, sampling_params, strict=True))]

    def collective_rpc(self, method: str, timeout: float | None = None, args: tuple = (), kwargs: Any = None) -> list:
        json.dumps([args, kwargs])  # worker processes: nothing that has to be pickled
        if method != "reload_weights" or args or set(kwargs) != {"weights_path"}:
            raise ValueError(f"no worker method {method} with {args}, {kwargs}")
        from safetensors.torch import load_file

        own = dict(self.model.state_dict())
        for file in sorted(Path(kwargs["weights_path"]).glob("*.safetensors")):
            for name, value in load_file(file).items():
                if name not in own:
                    raise ValueError(f"There is no module or parameter named {name!r}")
                assert own[name].shape == value.shape and own[name].dtype == value.dtype
                own[name].copy_(value)  # and what is missing stays as it was
        self.reloads += 1
        return [None]

    def reset_prefix_cache(self) -> bool:
        if self.busy:
            return False
        self.cache.clear()
        return True

    def _answer(self, number: int, prompt: dict, params: SamplingParams) -> RequestOutput:
        ids, embeds = prompt.get("prompt_token_ids"), prompt.get("prompt_embeds")
        if embeds is not None and not self.model_config.enable_prompt_embeds:
            raise ValueError("You must set `--enable-prompt-embeds` to input `prompt_embeds`.")
        size, limit = len(ids if embeds is None else embeds), self.model_config.max_model_len
        if size >= limit:
            raise ValueError(f"The prompt (length {size}) is longer than the maximum model length of {limit}.")
        key = tuple(ids) if embeds is None else embeds.float().numpy().tobytes()
        rule, generator, drawn = self._rule(number, params), torch.Generator(), []
        generator.manual_seed(params.seed) if params.seed is not None else generator.seed()
        reason = None
        while reason is None:
            logits = rule(self._logits(key, ids, embeds, drawn).clone(), len(drawn))
            drawn.append(_draw(logits, params, generator))
            if drawn[-1] in (params.stop_token_ids or ()) or (drawn[-1] == self.end and not params.ignore_eos):
                reason = "stop"
            elif len(drawn) >= params.max_tokens or size + len(drawn) >= limit:
                reason = "length"
        stop = drawn[-1] if reason == "stop" else None
        return RequestOutput(str(number), ids, [CompletionOutput(0, "", drawn, reason, stop)])

    @torch.no_grad()
    def _logits(self, key: Any, ids: list | None, embeds: Any, drawn: list) -> torch.Tensor:
        place = (key, *drawn)
        if place not in self.cache:
            table = self.model.get_input_embeddings()
            read = table(torch.tensor(ids)) if embeds is None else embeds
            read = torch.cat([read, table(torch.tensor(drawn, dtype=torch.long))])
            self.cache[place] = self.model(inputs_embeds=read[None]).logits[0, -1].float()
        return self.cache[place]

    def _rule(self, number: int, params: SamplingParams) -> Any:
        """What happens to the logits before temperature."""
        newer, slot = self.llm_engine.vllm_config.use_v2_model_runner, number % 4
        for ids in (params.allowed_token_ids or (), params.logit_bias or ()):
            if newer and len(ids) > LISTED:
                raise ValueError(f"Too many token IDs: {len(ids)}. The max size is {LISTED}.")
            if any(not 0 <= i < self.vocabulary for i in ids):
                raise ValueError("out-of-vocab token id!")
        held = [*(params.stop_token_ids or ()), *([self.end] if self.end is not None else ())]
        for processor in self.processors if newer else ():
            processor.add_request(slot, params)
            processor.apply_staged_writes()

        def rule(logits: torch.Tensor, step: int) -> torch.Tensor:
            if params.allowed_token_ids is not None:
                banned = torch.ones_like(logits, dtype=torch.bool)
                banned[params.allowed_token_ids] = False
                logits[banned] = -math.inf
            for i, bias in (params.logit_bias or {}).items():
                logits[i] += bias
            if step < params.min_tokens:
                logits[held] = -math.inf
            context = SimpleNamespace(expanded_idx_mapping=torch.tensor([slot]))
            for processor in self.processors:
                logits = processor.apply(logits[None], context)[0] if newer else processor.apply(logits[None])[0]
            return logits

        return rule


def _draw(logits: torch.Tensor, params: SamplingParams, generator: torch.Generator) -> int:
    if params.temperature < 1e-5:
        return int(logits.argmax())
    logits = logits / params.temperature
    if params.top_p < 1:
        ranked, order = logits.sort()
        off = ranked.softmax(-1).cumsum(-1) <= 1 - params.top_p
        off[-1] = False
        logits = logits.masked_fill(torch.zeros_like(off).scatter(0, order, off), -math.inf)
    noise = torch.empty_like(logits).exponential_(generator=generator)
    return int((logits.softmax(-1) / noise).argmax())


def modules() -> dict[str, ModuleType]:
    """What `sys.modules` holds where this engine is installed as vLLM."""

    class Older(ABC):
        """vllm.v1.sample.logits_processor.LogitsProcessor."""

        @abstractmethod
        def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None: ...
        @abstractmethod
        def apply(self, logits: Any) -> Any: ...
        @abstractmethod
        def is_argmax_invariant(self) -> bool: ...
        @abstractmethod
        def update_state(self, batch_update: Any) -> None: ...

    class Newer(ABC):
        """vllm.v1.worker.gpu.sample.logits_processor.LogitsProcessor."""

        @abstractmethod
        def apply(self, logits: Any, ctx: Any) -> Any: ...

    parts: dict[str, dict[str, Any]] = {
        "vllm": {"LLM": LLM, "SamplingParams": SamplingParams},
        "vllm.envs": {"VLLM_USE_V2_MODEL_RUNNER": None},
        "vllm.v1.sample.logits_processor": {"LogitsProcessor": Older},
        "vllm.v1.worker.gpu.sample.logits_processor": {"LogitsProcessor": Newer},
    }
    made = {}
    for name, content in parts.items():
        made[name] = ModuleType(name)
        vars(made[name]).update(content)
    return made
