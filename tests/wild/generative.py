"""Networks that make things: diffusion, adversarial, variational, flows, hypernetworks, quantised codes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .entry import floats, ids, wild

IMAGE = lambda: (floats(2, 3, 8, 8),)
ROWS = lambda: (floats(4, 6),)


class ModulatedConv(nn.Module):
    """StyleGAN2: the weight is scaled for each sample, demodulated, and applied as a grouped convolution."""

    def __init__(self, a: int, b: int, style: int, demodulate: bool = True) -> None:
        super().__init__()
        self.weight, self.style, self.demodulate = (
            nn.Parameter(torch.randn(1, b, a, 3, 3)),
            nn.Linear(style, a),
            demodulate,
        )
        self.out, self.scale = b, 1 / math.sqrt(a * 9)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        b, c, height, width = x.shape
        weight = self.scale * self.weight * self.style(w).view(b, 1, c, 1, 1)
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8).view(b, self.out, 1, 1, 1)
        x = F.conv2d(x.reshape(1, b * c, height, width), weight.view(b * self.out, c, 3, 3), padding=1, groups=b)
        return x.view(b, self.out, height, width)


@wild(lambda: (floats(2, 10),), fresh=[lambda: (floats(3, 10),)], uses=[lambda m: m.mean_latent(5)])
class StyleGAN(nn.Module):
    """A mapping network, a learned constant, modulated convolutions, noise, to-RGB skips."""

    def __init__(self) -> None:
        super().__init__()
        self.z = 10
        self.mapping = nn.Sequential(nn.Linear(10, 12), nn.LeakyReLU(0.2), nn.Linear(12, 12), nn.LeakyReLU(0.2))
        self.constant = nn.Parameter(torch.randn(1, 8, 4, 4))
        self.conv1, self.conv2 = ModulatedConv(8, 8, 12), ModulatedConv(8, 6, 12)
        self.rgb1, self.rgb2 = ModulatedConv(8, 3, 12, demodulate=False), ModulatedConv(6, 3, 12, demodulate=False)
        self.noise, self.bias = nn.Parameter(torch.rand(1)), nn.Parameter(torch.randn(1, 8, 1, 1))

    def mean_latent(self, number: int) -> Tensor:
        """An average style."""
        return self.mapping(torch.randn(number, self.z)).sum(1)

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z * torch.rsqrt(z.pow(2).mean(1, keepdim=True) + 1e-8))
        h = self.constant.repeat(len(z), 1, 1, 1)
        h = self.conv1(h, w)
        h = F.leaky_relu(h + self.noise * torch.randn_like(h[:, :1]) + self.bias, 0.2) * 2**0.5
        rgb = self.rgb1(h, w)
        h = F.leaky_relu(self.conv2(F.interpolate(h, scale_factor=2), w), 0.2)
        return F.interpolate(rgb, scale_factor=2) + self.rgb2(h, w)


@wild(lambda: (floats(4, 3, 8, 8),))
class Discriminator(nn.Module):
    """Minibatch standard deviation, spectral norm, a projection of the class."""

    def __init__(self) -> None:
        super().__init__()
        sn = nn.utils.parametrizations.spectral_norm
        self.conv1, self.conv2 = sn(nn.Conv2d(3, 8, 3, stride=2)), sn(nn.Conv2d(9, 12, 3))
        self.fc, self.classes = nn.Linear(12, 1), nn.Embedding(5, 12)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.conv1(x), 0.2)
        spread = h.view(2, 2, *h.shape[1:]).std(1, unbiased=False).mean((1, 2, 3), keepdim=True)
        h = torch.cat([h, spread.repeat(2, 1, *h.shape[2:])], 1)
        h = F.leaky_relu(self.conv2(h), 0.2).sum((2, 3))
        labels = torch.arange(len(x)) % 5
        return self.fc(h) + (h * self.classes(labels)).sum(1, keepdim=True)


@wild(IMAGE, uses=[lambda m: m.sample(2)])
class ConvVAE(nn.Module):
    """Flattens, splits mean and variance, samples; returns loss and image."""

    def __init__(self) -> None:
        super().__init__()
        self.latent = 6
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(), nn.Flatten()
        )
        self.mean, self.spread = nn.Linear(12 * 4, self.latent), nn.Linear(12 * 4, self.latent)
        self.decoder_input = nn.Linear(self.latent, 12 * 4)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(12, 8, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(8, 3, 3, 2, 1, 1)
        )

    def decode(self, z: Tensor) -> Tensor:
        """An image."""
        return self.decoder(self.decoder_input(z).view(-1, 12, 2, 2))

    def sample(self, number: int) -> Tensor:
        """New images."""
        return self.decode(torch.randn(number, self.latent))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.encoder(x)
        mean, spread = self.mean(h), self.spread(h)
        z = mean + torch.randn_like(mean) * (0.5 * spread).exp()
        divergence = -0.5 * (1 + spread - mean.pow(2) - spread.exp()).sum(1).mean()
        out = self.decode(z)
        return {"image": out, "loss": F.mse_loss(out, x) + 0.1 * divergence}


@wild(IMAGE)
class VectorQuantised(nn.Module):
    """A codebook looked up by distance, straight-through, with commitment loss and perplexity."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 3, 4, 2, 1)
        self.codes = nn.Embedding(16, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = self.encoder(x).permute(0, 2, 3, 1)
        flat = z.reshape(-1, self.codes.embedding_dim)
        w = self.codes.weight
        distance = flat.pow(2).sum(1, keepdim=True) + w.pow(2).sum(1) - 2 * flat @ w.t()
        chosen = distance.argmin(1)
        q = self.codes(chosen).view(z.shape)
        loss = F.mse_loss(q.detach(), z, reduction="sum") + 0.25 * F.mse_loss(q, z.detach(), reduction="sum")
        used = F.one_hot(chosen, 16).to(z).mean(0)
        out = self.decoder((z + (q - z).detach()).permute(0, 3, 1, 2))
        return out, loss, torch.exp(-(used * (used + 1e-10).log()).sum())


@wild(ROWS, uses=[lambda m: m.inverse(torch.ones(2, 6))])
class RealNVP(nn.Module):
    """Affine couplings on halves, masks in buffers, permutations between, and an inverse."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(3, 10), nn.Tanh(), nn.Linear(10, 6)) for _ in range(3))
        self.register_buffer("order", torch.tensor([3, 4, 5, 0, 1, 2]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for net in self.nets:
            a, b = x[:, :3], x[:, 3:]
            s, t = net(a).split(3, 1)
            x, total = torch.cat([a, b * torch.tanh(s).exp() + t], 1)[:, self.order], total + torch.tanh(s).sum(1)
        return x, total - 0.5 * x.pow(2).sum(1)

    def inverse(self, z: Tensor) -> Tensor:
        """Back again."""
        for net in reversed(self.nets):
            z = z[:, self.order]
            s, t = net(z[:, :3]).split(3, 1)
            z = torch.cat([z[:, :3], (z[:, 3:] - t) * torch.exp(-torch.tanh(s))], 1)
        return z


@wild(IMAGE)
class Glow(nn.Module):
    """Squeeze, invertible 1x1 convolution by `slogdet`, activation norm, coupling."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.shift, self.log_scale = (
            nn.Parameter(torch.eye(12) + 0.1 * torch.randn(12, 12)),
            nn.Parameter(torch.zeros(12, 1, 1)),
            nn.Parameter(torch.zeros(12, 1, 1)),
        )
        self.net = nn.Sequential(nn.Conv2d(6, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 12, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.pixel_unshuffle(x, 2)
        x = (x + self.shift) * self.log_scale.exp()
        places = x.shape[2] * x.shape[3]
        log_det = (self.log_scale.sum() + torch.linalg.slogdet(self.mix)[1]) * places
        a, b = F.conv2d(x, self.mix[:, :, None, None]).chunk(2, 1)
        s, t = self.net(a).chunk(2, 1)
        s = torch.sigmoid(s + 2)
        return torch.cat([a, s * b + t], 1), log_det + s.log().sum((1, 2, 3))


@wild(ROWS)
class MADE(nn.Module):
    """Masked autoregressive layers: each unit has a degree, so units are not alike."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 12), nn.Linear(12, 6)
        degrees = torch.arange(12) % 5
        self.register_buffer("m1", (degrees[:, None] >= torch.arange(6)[None]).float())
        self.register_buffer("m2", (torch.arange(6)[:, None] > degrees[None]).float())

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(F.linear(x, self.fc1.weight * self.m1, self.fc1.bias))
        return F.linear(h, self.fc2.weight * self.m2, self.fc2.bias)


@wild(lambda: (ids(8, 2, 6, 6),))
class PixelCNN(nn.Module):
    """Masked convolutions that zero their own weights in forward, gates, vertical and horizontal stacks."""

    class Masked(nn.Conv2d):
        """Sees only what is above and to the left."""

        def __init__(self, a: int, b: int, k: int, kind: str) -> None:
            super().__init__(a, b, k, padding=k // 2)
            mask = torch.ones_like(self.weight)
            mask[:, :, k // 2, k // 2 + (kind == "B") :] = 0
            mask[:, :, k // 2 + 1 :] = 0
            self.register_buffer("mask", mask)

        def forward(self, x: Tensor) -> Tensor:
            self.weight.data *= self.mask
            return super().forward(x)

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 6)
        self.a, self.b, self.out = self.Masked(6, 16, 5, "A"), self.Masked(8, 16, 3, "B"), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x).permute(0, 3, 1, 2)
        for layer in (self.a, self.b):
            t, s = layer(h).chunk(2, 1)
            h = torch.tanh(t) * torch.sigmoid(s)
        return self.out(h)


@wild(lambda: (floats(4, 6), floats(4, 5)))
class HyperNetwork(nn.Module):
    """A network makes the weights of another, of sizes kept as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.hidden, self.out = 6, 8, 3
        self.trunk = nn.Linear(5, 16)
        self.w1, self.b1 = nn.Linear(16, self.inp * self.hidden), nn.Linear(16, self.hidden)
        self.w2 = nn.Linear(16, self.hidden * self.out)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        t = torch.relu(self.trunk(z))
        w1, w2 = self.w1(t).view(-1, self.hidden, self.inp), self.w2(t).view(-1, self.out, self.hidden)
        h = torch.relu(torch.bmm(w1, x[:, :, None]).squeeze(2) + self.b1(t))
        return torch.bmm(w2, h[:, :, None]).squeeze(2)


@wild(lambda: (floats(4, 6),))
class HyperNetworkByCall(nn.Module):
    """`functional_call` with generated weights, cut from one vector by the shapes of a template."""

    def __init__(self) -> None:
        super().__init__()
        self.template = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        number = sum(p.numel() for p in self.template.parameters())
        self.code, self.make = nn.Parameter(torch.randn(10)), nn.Linear(10, number)

    def forward(self, x: Tensor) -> Tensor:
        flat, start, weights = self.make(self.code), 0, {}
        for name, p in self.template.named_parameters():
            weights[name] = flat[start : start + p.numel()].view(p.shape)
            start += p.numel()
        return torch.func.functional_call(self.template, weights, (x,))


@wild(IMAGE)
class DynamicConv(nn.Module):
    """Kernels mixed by an attention over experts, for each sample; and position-wise kernels (involution)."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.route = nn.Parameter(torch.randn(4, 8, 3, 3, 3)), nn.Linear(3, 4)
        self.reduce, self.span, self.head = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 9 * 2, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, height, width = x.shape
        mix = self.route(x.mean((2, 3))).softmax(-1)
        kernels = torch.einsum("bk,koihw->boihw", mix, self.experts)
        h = F.conv2d(x.flatten(0, 1)[None], kernels.flatten(0, 1), padding=1, groups=b).view(b, -1, height, width)
        kernel = self.span(torch.relu(self.reduce(h))).view(b, 2, 1, 9, height, width)
        patches = F.unfold(h, 3, padding=1).view(b, 2, -1, 9, height, width)
        return self.head((kernel * patches).sum(3).view(b, -1, height, width))
