"""Parameters to sound without training: harmonics and noise, given the wanted spectrum in one STFT pass.

A pulse train of the wanted F0 and white noise are analysed once, each frame is scaled so that its mel spectrum becomes
the wanted one, and the result is overlap-added. Phases come from the excitation, so nothing is iterated.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from seaalign.audio import FLOOR
from seaalign.miniature.spoken import HOP, RATE

N_FFT = 256
N_MELS = 40


def pulses(f0: Tensor, hop: int = HOP, rate: int = RATE) -> Tensor:
    """Band-limited pulse train of unit power that follows an F0 contour.

    The sum of all harmonics below half the sample rate has a closed form (the Dirichlet kernel), so the cost is a few
    operations per sample, whatever the number of harmonics.

    Args:
        f0: Hz, positive everywhere (interpolate over unvoiced stretches first) (B, F).
        hop: Samples per frame.
        rate: Sample rate (Hz).

    Returns:
        Waveform (B, (F - 1) * hop).

    >>> pulses(torch.full((1, 11), 100.0)).shape
    torch.Size([1, 800])
    """
    samples = (f0.shape[-1] - 1) * hop
    track = F.interpolate(f0[:, None].double(), size=samples + 1, mode="linear", align_corners=True)[:, 0, :samples]
    phase = torch.cumsum(track / rate, dim=-1)
    count = torch.floor(0.475 * rate / track)
    angle = torch.pi * (phase - torch.round(phase))
    near = angle.abs() < 1e-6
    kernel = torch.sin((2 * count + 1) * angle) / torch.sin(torch.where(near, torch.ones_like(angle), angle))
    kernel = torch.where(near, 2 * count + 1, kernel)
    return ((kernel - 1.0) / torch.sqrt(2.0 * count)).float()


def stft(waveform: Tensor) -> Tensor:
    """Complex spectrum (B, N_FFT // 2 + 1, F) of (B, T), a frame every `HOP` samples, centred."""
    window = torch.hann_window(N_FFT)
    return torch.stft(waveform, N_FFT, HOP, window=window, center=True, pad_mode="constant", return_complex=True)


def istft(spectrum: Tensor, samples: int) -> Tensor:
    """Waveform (B, samples) of a complex spectrum (B, N_FFT // 2 + 1, F)."""
    return torch.istft(spectrum, N_FFT, HOP, window=torch.hann_window(N_FFT), center=True, length=samples)


@lru_cache(maxsize=2)
def _bands(n_mels: int) -> tuple[Tensor, Tensor]:
    """Mel filterbank (bins, mels) and, for each bin, the weights that interpolate band gains (mels, bins)."""
    from seaalign.audio import torchaudio

    bank = torchaudio().functional.melscale_fbanks(N_FFT // 2 + 1, 0.0, RATE / 2, n_mels, RATE)
    centres = torch.linspace(0, 2595 * torch.log10(torch.tensor(1 + RATE / 2 / 700)).item(), n_mels + 2)[1:-1]
    bins = 2595 * torch.log10(1 + torch.linspace(0, RATE / 2, N_FFT // 2 + 1) / 700)
    place = ((bins - centres[0]) / (centres[1] - centres[0])).clamp(0, n_mels - 1)
    spread = torch.relu(1 - (place[None] - torch.arange(n_mels)[:, None]).abs())
    return bank, spread


def bridge(f0: Tensor) -> Tensor:
    """Fill unvoiced stretches (0 Hz) of each contour by linear interpolation; 120 Hz where nothing is voiced.

    >>> bridge(torch.tensor([[0.0, 100.0, 0.0, 200.0]]))
    tensor([[100., 100., 150., 200.]])
    """
    out = torch.empty_like(f0)
    for row, contour in enumerate(f0):
        where = torch.nonzero(contour > 0)[:, 0]
        if where.numel() == 0:
            out[row] = 120.0
            continue
        t = torch.arange(contour.numel())
        right = torch.searchsorted(where, t).clamp(max=where.numel() - 1)
        left = (right - 1).clamp(min=0)
        right = torch.where(t >= where[-1], torch.full_like(right, where.numel() - 1), right)
        left = torch.where(t <= where[0], right, torch.where(t >= where[-1], right, left))
        a, b = where[left], where[right]
        mix = (t - a).float() / (b - a).clamp(min=1).float()
        out[row] = contour[a] + (contour[b] - contour[a]) * mix.clamp(0, 1)
    return out


def steady_noise(samples: int, seed: int) -> Tensor:
    """White noise (samples,) whose beginning does not depend on its length, so that padding a batch changes no row.

    >>> torch.equal(steady_noise(10, 0), steady_noise(9000, 0)[:10])
    True
    """
    generator = torch.Generator().manual_seed(seed)
    blocks = [torch.randn(4096, generator=generator) for _ in range(-(-samples // 4096))]
    return torch.cat(blocks)[:samples] if blocks else torch.zeros(0)


def vocode(mel: Tensor, f0: Tensor, seed: int = 0) -> Tensor:
    """Waveforms with the wanted mel spectrum and F0.

    Args:
        mel: Natural log of mel power, as `seaalign.audio.log_mel` measures it (B, F, N_MELS).
        f0: Hz, 0 where unvoiced (B, F).
        seed: Seed of the noise, which all rows share: the same seed gives the same sound in any batch.

    Returns:
        Waveforms (B, (F - 1) * HOP).
    """
    voiced = (f0 > 0).float()
    harmonic = stft(pulses(bridge(f0)))
    noise = stft(steady_noise((f0.shape[1] - 1) * HOP, seed)[None])
    # Breath masks the harmonics of a voice from about 2 kHz upwards.
    tonal = torch.linspace(0, RATE / 2, N_FFT // 2 + 1)
    tonal = torch.sigmoid((2200 - tonal) / 300) * 0.4 + 0.6
    weight = voiced[:, None] * tonal[None, :, None]
    excitation = harmonic * weight + noise * torch.sqrt(1 - weight**2)
    bank, spread = _bands(N_MELS)
    power = torch.einsum("bnf,nm->bmf", excitation.abs() ** 2, bank)
    # Between two resolved harmonics a band is empty: without a bound its gain would explode.
    even = (bank.sum(0) / bank.sum(0).mean())[None, :, None] * power.mean(dim=1, keepdim=True)
    power = torch.maximum(power, 0.1 * even)
    wanted = (mel.exp() - FLOOR).clamp(min=0).transpose(1, 2)
    gain = torch.sqrt(wanted / power)
    return istft(excitation * torch.einsum("bmf,mn->bnf", gain, spread), (f0.shape[1] - 1) * HOP)
