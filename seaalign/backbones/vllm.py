"""vLLM as the sampler of a backbone: the distribution of the built-in loop, drawn by an engine of its own."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seaalign.backbones import speech_only
from seaalign.backbones.base import Engine, Unsupported, evaluating, row_keys, row_limits, seed_of
from seaalign.backbones.vllm_requests import prompt_for, read_answer, requests, room
from seaalign.backbones.vllm_weights import checkpoint_names, weights_mark, write_weights
from seaalign.records import Prompt, Speech


class VLLM(Engine):
    """Draws the answers of a backbone with vLLM, from the distribution that the built-in loop draws from.

    That is the policy over speech codes and end token at each row's temperature, cut to its nucleus, and nothing else:
    no top-k, no penalty, no min-p, whatever the checkpoint's generation config says. Every row is a request of its own,
    with its own temperature, limits and seed; rows of one prompt share its cache where prefix caching is on.

    The engine has a copy of the weights. Before each call the backbone's are compared with what was last pushed, by
    content, and pushed anew where they differ. Equality holds up to the engine's arithmetic: build it with the dtype
    of the policy.

    Args:
        engine: your `vllm.LLM`; or the folder or hub name of a checkpoint; or all the arguments of `vllm.LLM` as a
            dict. CosyVoice needs `enable_prompt_embeds=True`.
        folder: where weights are laid down while they are pushed; "/dev/shm" is fast. Default: the temporary folder.

    Attributes:
        sampler: the name in reports.
        needed: names of the weights that every push must hold, where the checkpoint is a folder on this machine.

    Raises:
        ImportError: vLLM is not installed.
        TypeError: the engine is none of these, for instance an asynchronous one or a server.

    Example:
        >>> # backbone = CausalLM(model, "orpheus", engine=VLLM({"model": "my-checkpoint", "dtype": "bfloat16"}))
        >>> # speech = backbone.sample(prompts, n=12, temperature=0.9, top_p=0.9)
    """

    sampler = "nucleus (vLLM)"

    def __init__(self, engine: Any, folder: str | Path | None = None) -> None:
        self.engine, self.folder = _opened(engine), folder
        self.needed = checkpoint_names(self.engine.model_config)

    def __deepcopy__(self, memo: dict[int, Any]) -> VLLM:
        return self  # a copied backbone uses the same engine: what that holds is known by content

    @property
    def pushed(self) -> str | None:
        """Fingerprint of the weights that the engine got last; set it to None, and the next call pushes.

        It is kept on the engine, so that two VLLM of one engine know of each other.
        """
        return getattr(self.engine, "seaalign_pushed", None)

    @pushed.setter
    def pushed(self, mark: str | None) -> None:
        self.engine.seaalign_pushed = mark

    def sample(
        self,
        backbone: Any,
        prompts: Sequence[Prompt],
        n: int = 1,
        temperature: float | Tensor = 1.0,
        top_p: float = 1.0,
        max_len: int | Tensor = 1024,
        min_len: int | Tensor = 0,
        generator: torch.Generator | None = None,
    ) -> Speech:
        """See `Backbone.sample`.

        Args:
            backbone: whose answers; it offers `served_prompt`, `served_ids` and `served_weights`.
            prompts: P prompts.
            n: answers per prompt.
            temperature: a number or one per row (P*n,); 0 = greedy.
            top_p: nucleus mass.
            max_len: a number or one per row, frames.
            min_len: a number or one per row, frames.
            generator: one number is drawn from it per call.

        Raises:
            ValueError: before anything runs, where a row does not fit into the engine's `max_model_len`, the engine
                lacks an id, or a temperature lies between 0 and 0.01, which vLLM would change; after it, for an answer
                with an id that is no speech code.
            RuntimeError: the weights could not be pushed, or the engine gave a row up.
            Unsupported: the backbone offers nothing to an engine.
        """
        seed, rows = seed_of(generator), len(prompts) * n
        device = next((p.device for p in backbone.parameters()), torch.device("cpu"))
        heat, most, least = row_limits(temperature, max_len, min_len, rows, "cpu")
        _require_served(backbone)
        owner = torch.arange(len(prompts)).repeat_interleave(n)
        with evaluating(backbone):
            served = [prompt_for(self.engine, i, backbone.served_prompt(p.to(device))) for i, p in enumerate(prompts)]
            sizes = torch.tensor([len(next(iter(prompt.values()))) for prompt in served], dtype=torch.long)
            most = room(self.engine, getattr(backbone, "context", None), sizes[owner], most)
            codes, end = backbone.served_ids()
            asked = requests(self.engine, (codes, end), (heat, most, least), top_p, row_keys(prompts, n, seed).tolist())
            if asked:
                self._bring_up_to_date(backbone)
        questions = [served[int(owner[row])] for row in asked]
        outputs = self.engine.generate(questions, list(asked.values()), use_tqdm=False) if asked else []
        drawn: list[tuple[list[int], bool]] = [([], False)] * rows  # what max_len = 0 leaves
        ids = {int(id): code for code, id in enumerate(codes)}
        for row, output in zip(asked, outputs, strict=True):
            drawn[row] = read_answer(output, ids, end, row, int(most[row]))
        return Speech.pack([tokens for tokens, _ in drawn], [ended for _, ended in drawn], owner).to(device)

    def push(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Give the engine these weights. Override it for an engine that takes them another way.

        They are written in the engine's dtype as safetensors and read by its own loader, which any number of worker
        processes on this machine can do; nothing is pickled. The prefix cache is emptied by the caller.

        Args:
            weights: (name, tensor) under the names of the engine's checkpoint, all of them.
        """
        with tempfile.TemporaryDirectory(prefix="seaalign-weights-", dir=self.folder) as folder:
            write_weights(weights, Path(folder), self.engine.model_config.dtype)
            self.engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})

    def _bring_up_to_date(self, backbone: nn.Module) -> None:
        if any(getattr(module, "disable_adapters", False) is True for module in backbone.modules()):
            raise ValueError(
                "the LoRA layers are switched off, and weights for an engine have them merged in: vLLM would draw from "
                "the policy, not from the reference. Leave adapters_off, or draw with backbone.engine = None"
            )
        mark = weights_mark(backbone)
        if mark == self.pushed:
            return
        self.pushed = None  # until all of it has arrived
        try:
            names = set[str]()
            self.push(_noted(backbone.served_weights(), names))  # type: ignore[operator]
            if self.needed - names:  # of which vLLM would merely warn
                raise ValueError(f"served_weights() lacks {', '.join(sorted(self.needed - names)[:3])}")
            if self.engine.reset_prefix_cache() is False:
                raise RuntimeError("its prefix cache is in use by other requests")
        except Exception as error:
            raise RuntimeError(
                "the weights have changed since they were last pushed, and vLLM did not take the new ones "
                f"({type(error).__name__}: {error}); it would sample from old ones. Build the engine from a checkpoint "
                "of this very model with vLLM 0.20 or newer, override VLLM.push, or draw with backbone.engine = None"
            ) from error
        self.pushed = mark


def _noted(weights: Iterable[tuple[str, Tensor]], names: set[str]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in weights:
        names.add(name)
        yield name, tensor


def _opened(engine: Any) -> Any:
    """The engine itself, or the one that is built from a name or from arguments."""
    if isinstance(engine, str | Path | dict):
        try:
            vllm = importlib.import_module("vllm")
        except ImportError as error:
            raise ImportError('VLLM needs vLLM: pip install "seaalign[vllm]"') from error
        settings = dict(engine) if isinstance(engine, dict) else {"model": str(engine)}
        if not any(name.startswith("spec") for name in settings):  # the older runner takes either of the two
            settings.setdefault("logits_processors", [speech_only.NAME])
        return vllm.LLM(**settings)
    missing = [name for name in ("generate", "collective_rpc", "model_config") if not hasattr(engine, name)]
    if missing:
        raise TypeError(
            f"VLLM takes a vllm.LLM, a checkpoint or a dict of its arguments, and {type(engine).__name__} has no "
            f"{', '.join(missing)}: asynchronous engines and servers hold weights that nobody here can replace"
        )
    return engine


def _require_served(backbone: Any) -> None:
    missing = [name for name in ("served_prompt", "served_ids", "served_weights") if not hasattr(backbone, name)]
    if missing:
        raise Unsupported(
            f"{type(backbone).__name__} has no {', '.join(missing)}(): an engine needs to know its prompts, ids and "
            "weights. Write them, see docs/serving.md, or draw with engine=None"
        )
