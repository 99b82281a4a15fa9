"""Recurrent, convolutional and state-space code over time: cells in loops, scans, speech, labels in chains."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import Call, floats, ids, wild

SERIES = lambda: (floats(2, 7, 6),)
SHORTER = [lambda: (floats(3, 4, 6),)]


@wild(SERIES, fresh=SHORTER)
class MambaByHand(nn.Module):
    """Selective scan in a Python loop: `A_log`, `D`, dt rank, a depthwise causal convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.state, self.rank = 12, 4, 2
        self.inp, self.out = nn.Linear(6, 2 * self.inner), nn.Linear(self.inner, 6)
        self.conv = nn.Conv1d(self.inner, self.inner, 3, padding=2, groups=self.inner)
        self.x_proj, self.dt = (
            nn.Linear(self.inner, self.rank + 2 * self.state, bias=False),
            nn.Linear(self.rank, self.inner),
        )
        self.A_log = nn.Parameter(torch.arange(1.0, 5).repeat(self.inner, 1).log())
        self.D = nn.Parameter(torch.ones(self.inner))

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        u, z = self.inp(x).chunk(2, -1)
        u = F.silu(self.conv(u.mT)[..., :n].mT)
        dt, b, c = self.x_proj(u).split([self.rank, self.state, self.state], -1)
        dt, a = F.softplus(self.dt(dt)), -torch.exp(self.A_log.float())
        h, ys = u.new_zeros(len(x), self.inner, self.state), []
        for t in range(n):
            h = torch.exp(dt[:, t, :, None] * a) * h + dt[:, t, :, None] * b[:, t, None] * u[:, t, :, None]
            ys.append((h * c[:, t, None]).sum(-1))
        return self.out((torch.stack(ys, 1) + u * self.D) * F.silu(z))


@wild(SERIES, fresh=SHORTER)
class RWKVByHand(nn.Module):
    """Token shift with learned mixing, time decay, a stable running maximum; squared ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.ParameterDict({k: nn.Parameter(torch.rand(6)) for k in "kvr"})
        self.k, self.v, self.r, self.o = nn.Linear(6, 10), nn.Linear(6, 10), nn.Linear(6, 10), nn.Linear(10, 6)
        self.decay, self.first = nn.Parameter(torch.randn(10)), nn.Parameter(torch.randn(10))
        self.ffn_k, self.ffn_v, self.ffn_r = nn.Linear(6, 16), nn.Linear(16, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        last = F.pad(x, (0, 0, 1, -1))
        k, v, r = (
            f(x * m + last * (1 - m))
            for f, m in ((self.k, self.mix["k"]), (self.v, self.mix["v"]), (self.r, self.mix["r"]))
        )
        a, b = torch.zeros_like(k[:, 0]), torch.zeros_like(k[:, 0])
        top, outs = torch.full_like(a, -1e38), []
        for t in range(x.shape[1]):
            peak = torch.maximum(top, self.first + k[:, t])
            e1, e2 = torch.exp(top - peak), torch.exp(self.first + k[:, t] - peak)
            outs.append((e1 * a + e2 * v[:, t]) / (e1 * b + e2))
            peak = torch.maximum(top - self.decay.exp(), k[:, t])
            e1, e2 = torch.exp(top - self.decay.exp() - peak), torch.exp(k[:, t] - peak)
            a, b, top = e1 * a + e2 * v[:, t], e1 * b + e2, peak
        x = x + self.o(torch.sigmoid(r) * torch.stack(outs, 1))
        return x + torch.sigmoid(self.ffn_r(x)) * self.ffn_v(torch.relu(self.ffn_k(x)).square())


@wild(SERIES, fresh=SHORTER)
class RetentionByHand(nn.Module):
    """A decay for each head from its number, group norm over heads, swish gate."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 2
        self.q, self.k, self.v, self.g = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 12), nn.Linear(6, 12)
        self.norm, self.o = nn.GroupNorm(2, 12), nn.Linear(12, 6)
        self.register_buffer("decay", (1 - 2.0 ** (-5 - torch.arange(2.0))).log())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        place = torch.arange(x.shape[1]).to(x)
        gap = (place[:, None] - place[None]).clamp(min=0)
        mask = torch.exp(gap * self.decay[:, None, None]).tril()
        y = ((q @ k.mT) * mask @ v).transpose(1, 2).flatten(2)
        return self.o(F.silu(self.g(x)) * self.norm(y.flatten(0, 1)).view_as(y))


@wild(lambda: (floats(2, 16, 5),))
class S4D(nn.Module):
    """A diagonal state space as a long convolution by FFT, with complex poles kept as real parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.out = nn.Linear(5, 8), nn.Linear(8, 5)
        self.log_dt, self.c = nn.Parameter(torch.rand(8)), nn.Parameter(torch.randn(8, 4, 2))
        self.log_real, self.imaginary, self.d = (
            nn.Parameter(torch.rand(8, 4)),
            nn.Parameter(torch.rand(8, 4)),
            nn.Parameter(torch.randn(8)),
        )

    def forward(self, x: Tensor) -> Tensor:
        u, n = self.inp(x).mT, x.shape[1]
        dt, a = self.log_dt.exp(), torch.complex(-self.log_real.exp(), self.imaginary)
        c = torch.view_as_complex(self.c) * (torch.exp(a * dt[:, None]) - 1) / a
        kernel = 2 * torch.einsum("hn,hnl->hl", c, torch.exp((a * dt[:, None])[..., None] * torch.arange(n).to(x))).real
        y = torch.fft.irfft(torch.fft.rfft(u, n=2 * n) * torch.fft.rfft(kernel, n=2 * n), n=2 * n)[..., :n]
        return self.out(F.gelu(y + u * self.d[:, None]).mT)


@wild(lambda: (floats(2, 1, 24),), fresh=[lambda: (floats(1, 1, 40),)])
class WaveNet(nn.Module):
    """Dilated causal convolutions, tanh and sigmoid halves of one, residuals and summed skips."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 8, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(8, 12, 2, dilation=2**i) for i in range(3))
        self.residual, self.skip = (
            nn.ModuleList(nn.Conv1d(6, 8, 1) for _ in range(3)),
            nn.ModuleList(nn.Conv1d(6, 10, 1) for _ in range(3)),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Conv1d(10, 7, 1), nn.ReLU(), nn.Conv1d(7, 5, 1))

    def forward(self, x: Tensor) -> Tensor:
        h, total = self.stem(x), 0
        for i, (d, r, s) in enumerate(zip(self.dilated, self.residual, self.skip)):
            a, b = d(F.pad(h, (2**i, 0))).chunk(2, 1)
            z = torch.tanh(a) * torch.sigmoid(b)
            total, h = total + s(z), h + r(z)
        return self.head(total)


@wild(lambda: (floats(2, 12, 10),), fresh=[lambda: (floats(2, 20, 10),)])
class Conformer(nn.Module):
    """Half-step feed-forwards, attention, a GLU convolution module with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.ff1 = nn.Sequential(nn.LayerNorm(10), nn.Linear(10, 20), nn.SiLU(), nn.Dropout(0.1), nn.Linear(20, 10))
        self.ff2 = nn.Sequential(nn.LayerNorm(10), nn.Linear(10, 20), nn.SiLU(), nn.Dropout(0.1), nn.Linear(20, 10))
        self.norm, self.attention = nn.LayerNorm(10), nn.MultiheadAttention(10, 2, batch_first=True)
        self.conv = nn.Sequential(
            nn.Conv1d(10, 24, 1),
            nn.GLU(1),
            nn.Conv1d(12, 12, 3, padding=1, groups=12),
            nn.BatchNorm1d(12),
            nn.SiLU(),
            nn.Conv1d(12, 10, 1),
        )
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.ff1(x)
        y = self.norm(x)
        x = x + self.attention(y, y, y)[0]
        x = x + self.conv(x.mT).mT
        return self.head(x + 0.5 * self.ff2(x)).log_softmax(-1)


@wild(lambda: (floats(2, 200),), fresh=[lambda: (floats(1, 320),)])
class SpeechFrontEnd(nn.Module):
    """STFT, a mel matrix in a buffer, log, mean and variance, 2-D convolutions, attentive pooling of statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(64))
        self.register_buffer("mel", torch.rand(12, 33))
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 8, 3, stride=(2, 1), padding=1)
        self.attention = nn.Sequential(nn.Conv1d(48, 10, 1), nn.Tanh(), nn.Conv1d(10, 48, 1))
        self.head = nn.Linear(96, 7)

    def forward(self, wave: Tensor) -> Tensor:
        spectrum = torch.stft(wave, 64, 32, window=self.window, return_complex=True).abs().pow(2)
        x = (self.mel @ spectrum + 1e-3).log()
        x = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)
        h = F.relu(self.conv2(F.relu(self.conv1(x[:, None])))).flatten(1, 2)
        weights = self.attention(h).softmax(-1)
        mean = (h * weights).sum(-1)
        spread = ((h.pow(2) * weights).sum(-1) - mean.pow(2)).clamp(min=1e-4).sqrt()
        return self.head(torch.cat([mean, spread], 1))


@wild(lambda: (floats(2, 1, 64),))
class DemucsLike(nn.Module):
    """An encoder and decoder over waves with an LSTM between, GLUs, skips cropped to length, rescaled by its own spread."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            nn.Sequential(nn.Conv1d(a, b, 4, 2), nn.ReLU(), nn.Conv1d(b, 2 * b, 1), nn.GLU(1))
            for a, b in ((1, 6), (6, 12))
        )
        self.lstm, self.linear = nn.LSTM(12, 12, bidirectional=True), nn.Linear(24, 12)
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv1d(b, 2 * b, 1), nn.GLU(1), nn.ConvTranspose1d(b, a, 4, 2))
            for a, b in ((6, 12), (1, 6))
        )

    def forward(self, wave: Tensor) -> Tensor:
        spread = wave.std(-1, keepdim=True)
        x, skips = wave / (1e-3 + spread), []
        for encode in self.encoder:
            x = encode(x)
            skips.append(x)
        x = self.linear(self.lstm(x.permute(2, 0, 1))[0]).permute(1, 2, 0)
        for i, decode in enumerate(self.decoder):
            x = decode(x + skips.pop()[..., : x.shape[-1]])
            x = F.relu(x) if i == 0 else x
        return spread * x


@wild(lambda: (ids(20, 4, 9),), fresh=[lambda: (ids(20, 2, 12),)])
class TextCNN(nn.Module):
    """Windows of three sizes over embeddings, pooled over time and concatenated; character features beside words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.static = nn.Embedding(20, 8, padding_idx=0), nn.Embedding(20, 4)
        self.static.weight.requires_grad = False
        self.convs, self.fc = nn.ModuleList(nn.Conv2d(1, 6, (k, 12)) for k in (2, 3, 4)), nn.Linear(18, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.cat([self.embed(tokens), self.static(tokens)], -1)[:, None]
        pooled = [F.relu(conv(x)).squeeze(3).amax(2) for conv in self.convs]
        return self.fc(F.dropout(torch.cat(pooled, 1), 0.5, self.training))


@wild(lambda: Call((floats(2, 10, 4),), {"horizon": 3}), fresh=[lambda: Call((floats(2, 10, 4),), {"horizon": 5})])
class Forecaster(nn.Module):
    """N-BEATS with reversible instance norm: backcasts subtracted, forecasts from a basis; unrolled to a horizon."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()) for _ in range(2)
        )
        self.back, self.ahead = (
            nn.ModuleList(nn.Linear(16, 10) for _ in range(2)),
            nn.ModuleList(nn.Linear(16, 3) for _ in range(2)),
        )
        self.gain, self.shift = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor, horizon: int) -> Tensor:
        mean, spread = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
        rest = ((x - mean) / spread * self.gain + self.shift).mT
        basis = torch.stack([(torch.arange(horizon).to(x) / horizon) ** p for p in range(3)])
        out = torch.zeros(len(x), 4, horizon).to(x)
        for block, back, ahead in zip(self.blocks, self.back, self.ahead):
            h = block(rest)
            rest, out = rest - back(h), out + ahead(h) @ basis
        return ((out.mT - self.shift) / self.gain) * spread + mean


@wild(lambda: (floats(2, 12, 3),))
class Autoformer(nn.Module):
    """Series decomposition by moving averages, auto-correlation by FFT and top-k lags rolled one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.q, self.k, self.v, self.out = (
            nn.Linear(3, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 8),
            nn.Linear(8, 3),
        )
        self.ff = nn.Sequential(nn.Conv1d(8, 16, 1), nn.GELU(), nn.Conv1d(16, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        h, n = self.inp(x), x.shape[1]
        q, k, v = (torch.fft.rfft(f(h), dim=1) for f in (self.q, self.k, lambda t: t))
        lags = torch.fft.irfft(q * k.conj(), n=n, dim=1).mean((0, 2)).topk(int(math.log(n))).indices
        h = h + sum(torch.roll(self.v(h), -int(lag), 1) for lag in lags) / len(lags)
        trend = F.avg_pool1d(F.pad(h.mT, (1, 1), mode="replicate"), 3, 1).mT
        rest = h - trend
        return self.out(rest + self.ff(rest.mT).mT + trend) + v.real.sum() * 0
