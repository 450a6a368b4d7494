"""Prosody and timbre, taken apart: two codes learned from recordings, tokens or hidden states."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from seaalign.data.hearing import STATISTICS
from seaalign.data.prosody import ProsodyBatch, ProsodyData
from seaalign.functional import (
    distance_correlation,
    gaussian_log_likelihood,
    hsic,
    prosody_regression_loss,
    reconstruction_loss,
    reverse_gradient,
    speaker_adversarial_loss,
    vclub,
)
from seaalign.modules.disentangle_codes import Codes
from seaalign.modules.disentangle_nets import (
    Decoder,
    Inputs,
    ProsodyEncoder,
    Reader,
    TimbreEncoder,
    entry_of,
    mlp,
    pooled,
)
from seaalign.modules.optimizer import adamw

WEIGHTS = {
    "reconstruction": 1.0,
    "spectrum": 1.0,
    "cross": 1.0,
    "speaker": 1.0,
    "statistics": 0.3,
    "vclub": 0.0,
    "hsic": 0.0,
    "distance": 0.0,
}
"""Every objective of `Disentangler`, and how much it counts unless told otherwise."""


class Disentangler(Codes):
    """Two codes of an utterance: a short row of ids for its prosody, and one vector for its timbre.

    The prosody code says how pitch, level and voicing move; it comes from inputs centred over the utterance, through
    FSQ. The timbre says in which register they move, and the mean spectrum. A decoder puts both together. Objectives
    (0 = off; `objectives` computes them, override it for others):

    - `reconstruction`: prosody from the code and the timbre of one utterance;
    - `spectrum`: the mean spectrum from the timbre;
    - `cross`: prosody from the code, with the timbre of another utterance of the speaker;
    - `speaker`: an adversary names the speaker from the code; the weight is the strength of the reversal;
    - `statistics`: an adversary reads F0 std, F0 range, energy std and voiced share off the timbre; likewise;
    - `vclub`, `hsic`, `distance`: dependence of code and timbre within the batch.

    Logs `{train,val}/loss`, and each objective beside it. Train it with `ProsodyData`.

    Args:
        inputs: "audio", "tokens" (of a codec) or "features" (per frame, as hidden states of a layer:
            `seaalign.backbones.hidden_states`).
        size: ids of a codebook, or width of the features; of no use for audio.
        codebooks: K of tokens (T, K).
        sample_rate: of waveforms given to `prosody` and `timbre` (Hz), that of `ProsodyData`.
        speakers: `ProsodyData.speakers`. Below two the adversary has nothing to tell apart: it is left out, with a
            warning.
        levels: of FSQ.
        stride: frames of input in a step of the code; sound has 100 a second.
        timbre_size: numbers in a timbre.
        dim: width of the networks.
        spread: take the spread of each channel out of the utterance too, not its mean alone: hides habits of range,
            and the liveliness of an utterance with them.
        weights: of the objectives that shall count otherwise than in `WEIGHTS`.
        lr: of AdamW.

    Raises:
        ValueError: an unknown objective or kind of input, or sizes that make nothing.

    Example:
        >>> module = Disentangler(inputs="tokens", size=13, weights={"speaker": 0.0})
        >>> ids = module.prosody([torch.randint(13, (25,))])[0]
        >>> ids.shape, module.timbre([torch.randint(13, (25,))]).shape
        (torch.Size([3]), torch.Size([1, 32]))
    """

    trains_on = ProsodyData

    def __init__(
        self,
        inputs: Inputs = "audio",
        size: int = 0,
        codebooks: int = 1,
        sample_rate: int = 16000,
        speakers: Sequence[str] = (),
        levels: Sequence[int] = (5, 5, 5, 5),
        stride: int = 10,
        timbre_size: int = 32,
        dim: int = 64,
        spread: bool = False,
        weights: Mapping[str, float] | None = None,
        lr: float = 2e-3,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        _check(self.hparams)
        self.levels, self.timbre_size = tuple(levels), timbre_size
        self.weights = {**WEIGHTS, **(weights or {})}
        if self.weights["speaker"] and len(speakers) < 2:
            warnings.warn(
                f"speakers={list(speakers)}: an adversary cannot tell fewer than two apart, so that nothing trains the "
                "code to hide the speaker; centring and the other objectives remain",
                stacklevel=2,
            )
            self.weights["speaker"] = 0.0
        self.build()

    def build(self) -> None:
        """Make the networks; override to replace some."""
        hp, channels = self.hparams, len(self.levels)
        only = 3 if hp["inputs"] == "audio" else None
        entry = entry_of(hp, only)
        self.prosody_encoder = ProsodyEncoder(entry, hp["dim"], channels, hp["stride"], hp["spread"], only)
        self.timbre_encoder = TimbreEncoder(entry_of(hp), hp["dim"], self.timbre_size)
        self.decoder = Decoder(channels, self.timbre_size, hp["dim"], hp["stride"])
        self.speaker_reader = Reader(channels, hp["dim"], max(len(hp["speakers"]), 2))
        self.statistics_reader = mlp(self.timbre_size, hp["dim"], len(STATISTICS))
        self.dependence = mlp(self.timbre_size, hp["dim"], 4 * channels)

    def objectives(self, batch: ProsodyBatch) -> dict[str, Tensor]:
        """Each objective that counts, by name, unweighted, and what trains vCLUB's own network."""
        on, mask = self.weights, batch.mask
        values, _, short = self.encode(batch.inputs, mask)
        timbre = self.timbre_encoder(batch.inputs, mask)
        found = {"spectrum": (self.decoder.spectrum(timbre) - batch.spectrum).square().mean()}
        found["reconstruction"] = sum(reconstruction_loss(self.decoder(values, timbre, mask), batch.prosody, mask))
        if on["cross"]:
            other = torch.arange(batch.partners.shape[1], device=mask.device) < batch.partner_lengths[:, None]
            decoded = self.decoder(values, self.timbre_encoder(batch.partners, other), mask)
            found["cross"] = sum(reconstruction_loss(decoded, batch.prosody, mask & batch.paired[:, None]))
        if on["speaker"]:
            read = self.speaker_reader(reverse_gradient(values, on["speaker"]), short)
            found["speaker"] = speaker_adversarial_loss(read, batch.speakers)
        if on["statistics"]:
            read = self.statistics_reader(reverse_gradient(timbre, on["statistics"]))
            found["statistics"] = prosody_regression_loss(read, batch.statistics)
        return found | self.dependences(pooled(values, short), timbre)

    def dependences(self, code: Tensor, timbre: Tensor) -> dict[str, Tensor]:
        """Of code statistics (B, 2 C) and timbre (B, D), those that count; a single row tells nothing."""
        found, on = {}, self.weights
        if len(code) > 1 and on["hsic"]:
            found["hsic"] = hsic(code, timbre)
        if len(code) > 1 and on["distance"]:
            found["distance"] = distance_correlation(code, timbre)
        if len(code) > 1 and on["vclub"]:
            mean, spread = self.dependence(timbre.detach()).chunk(2, -1)
            found["likelihood"] = -gaussian_log_likelihood(code.detach(), mean, 3 * spread.tanh()).mean()
            held = {name: parameter.detach() for name, parameter in self.dependence.named_parameters()}
            mean, spread = functional_call(self.dependence, held, (timbre,)).chunk(2, -1)
            found["vclub"] = vclub(code, mean, 3 * spread.tanh())
        return found

    def loss(self, batch: ProsodyBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted sum, and what to log. Adversaries learn at full speed: their weight is in the reversal."""
        found = self.objectives(batch)
        full = ("speaker", "statistics", "likelihood")
        loss = torch.stack([v * (1.0 if k in full else self.weights[k]) for k, v in found.items()]).sum()
        return loss, {"loss": loss, **found}

    def training_step(self, batch: ProsodyBatch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        loss, logs = self.loss(batch)
        self.log_dict({f"train/{k}": v for k, v in logs.items()}, batch_size=len(batch))
        return loss

    def validation_step(self, batch: ProsodyBatch, batch_idx: int) -> None:
        """Losses of one batch, averaged over the utterances of all."""
        _, logs = self.loss(batch)
        self.log_dict({f"val/{k}": v for k, v in logs.items()}, batch_size=len(batch), sync_dist=True)

    def on_fit_start(self) -> None:
        """Refuse data whose speakers are numbered otherwise than those of the adversary."""
        heard = getattr(getattr(self.trainer, "datamodule", None), "speakers", None)
        if self.weights["speaker"] and heard is not None and tuple(heard) != tuple(self.hparams["speakers"]):
            raise ValueError(f"data has speakers {heard}, the module {self.hparams['speakers']}: pass data.speakers")

    def configure_optimizers(self) -> Any:
        """AdamW; override for another optimizer."""
        return adamw(self, self.hparams["lr"], (0.9, 0.99), 0.01, 0, "constant")


def _check(settings: Any) -> None:
    unknown = set(settings["weights"] or {}) - set(WEIGHTS)
    if unknown:
        raise ValueError(f"unknown objectives {sorted(unknown)}: there are {', '.join(WEIGHTS)}")
    negative = {k: v for k, v in (settings["weights"] or {}).items() if not 0 <= v < float("inf")}
    if negative:
        raise ValueError(f"weights must be 0 or more, got {negative}: signs are turned inside")
    if settings["inputs"] not in ("audio", "tokens", "features"):
        raise ValueError(f"inputs must be 'audio', 'tokens' or 'features', got {settings['inputs']!r}")
    least = {"codebooks": 1, "stride": 1, "timbre_size": 2, "dim": 1} | (
        {} if settings["inputs"] == "audio" else {"size": 1}
    )
    small = {name: settings[name] for name, low in least.items() if settings[name] < low}
    if small:
        raise ValueError(f"too small: {small}; the least values are { {name: least[name] for name in small} }")
