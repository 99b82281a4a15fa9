"""More samples of operators, for rules that ship none, or only one that nothing can be narrowed in.

Sizes come from the tensors, never from literals: a literal size freezes what it describes, and then a sample shows nothing.
`still` takes the width out of spatial dimensions, so that only batch and channels are narrowed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.torch.rules import Sample

EXTRA: dict[str, Sample] = {}

POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def still(x: Tensor) -> Tensor:
    """The same tensor, whose dimensions after the first two are frozen."""
    return POOLS[x.dim() - 2](x, 1)


def extra(name: str, *tensors: object) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Register a function of tensors as a sample."""

    def register(function: Callable[..., object]) -> Callable[..., object]:
        if name in EXTRA:
            raise ValueError(f"sample {name!r} exists already")
        EXTRA[name] = Sample(function, *tensors)
        return function

    return register


MAP, VOLUME, SIGNAL = (2, 4, 6, 6), (2, 4, 4, 4, 4), (2, 4, 8)
IDS = torch.tensor([[0, 2], [1, 3]])
SPARSE = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 3.0, 1.0]]).to_sparse()

# -- convolutions, on spatial dimensions that stay ------------------------------------------------------------------
extra("conv1d", SIGNAL, (6, 4, 3), (6,))(lambda x, w, b: F.conv1d(still(x), w, b, padding=1).relu())
extra("conv2d", MAP, (6, 4, 3, 3), (6,))(lambda x, w, b: F.conv2d(still(x), w, b, padding=1))
extra("conv3d", VOLUME, (6, 4, 3, 3, 3))(lambda x, w: F.conv3d(still(x), w))
extra("depthwise", MAP, (4, 1, 3, 3), (4,))(lambda x, w, b: F.conv2d(still(x), w, b, groups=x.shape[1]))
extra("transposed", MAP, (4, 6, 3, 3), (6,))(lambda x, w, b: F.conv_transpose2d(still(x), w, b, stride=2))
extra("two convolutions", MAP, (6, 4, 3, 3), (6,), (5, 6, 1, 1))(
    lambda x, v, b, w: F.conv2d(F.conv2d(still(x), v, b, padding=1).relu(), w)
)


# -- views whose sizes follow from their operands ----------------------------------------------------------------------
@extra("views", (3, 8, 5), (4,))
def views(x: Tensor, heads: Tensor) -> Tensor:
    x = x.view(x.shape[0], heads.shape[0], -1, x.shape[2]) * heads.view(-1, 1, 1)
    return x.transpose(1, 2).permute(3, 0, 1, 2).reshape(x.shape[3], x.shape[0], -1)


extra("flatten", (3, 4, 5), (20, 6))(lambda x, w: x.flatten(1) @ w)
extra("squeeze", (3, 1, 4), (4, 5))(lambda x, w: x.squeeze(1) @ w)
extra("repeat", (3, 4), (5, 6))(lambda x, y: x.repeat(y.shape[0], 1))
extra("pixel shuffle", (2, 8, 4, 4), (8,))(
    lambda x, b: F.pixel_shuffle(still(x) + b[:, None, None], 2) * b.view(-1, 4).sum(1)[:, None, None]
)
extra("pixel unshuffle", (2, 3, 4, 4), (12, 5))(lambda x, w: F.pixel_unshuffle(still(x), 2).sum((2, 3)) @ w)
extra("channel shuffle", (2, 6, 4, 4))(lambda x: F.channel_shuffle(still(x), 3))
extra("unfold to columns", (2, 3, 5, 5), (27, 4))(lambda x, w: F.unfold(still(x), 3).transpose(1, 2) @ w)
extra("fold of columns", (2, 12, 16))(lambda x: F.fold(F.max_pool1d(x, 1), (5, 5), 2))
extra("sliding windows", (3, 8), (3,))(lambda x, w: x.unfold(1, 3, 2) @ w)
extra("memory format", MAP)(lambda x: still(x).as_strided((2, 4, 6, 6), (144, 36, 6, 1)) * 2)
extra("memory in other steps", (4, 5), (5, 3))(lambda x, w: x.detach().clone().as_strided_((4, 5), (1, 4)) @ w)
extra("diagonal", (3, 4, 4), (4,))(lambda x, w: x.diagonal(0, 1, 2) * w)
extra("complex parts", (3, 4, 2))(lambda x: torch.view_as_real(torch.view_as_complex(x) * 2j))
extra("expand", (3, 1, 4), (5,))(lambda x, y: x.expand(-1, y.shape[0], -1) * y[:, None])

# -- parts and joins -------------------------------------------------------------------------------------------------
extra("chunks", (3, 12))(lambda x: torch.cat([a * b for a, b in [x.chunk(2, 1)]], 1))
extra("equal split", (3, 12), (4,))(lambda x, y: sum(part * y for part in x.split(y.shape[0], 1)))
extra("uneven split", (3, 4), (3, 6))(
    lambda a, b: torch.cat([p.relu() for p in torch.cat([a, b], 1).split([a.shape[1], b.shape[1]], 1)], 1)
)
extra("slices", (3, 4), (3, 6))(lambda a, b: torch.cat([a, b], 1)[:, a.shape[1] :] * b)
extra("narrow", (3, 4), (3, 6))(lambda a, b: torch.cat([a, b], 1).narrow(1, 0, a.shape[1]) * a)
extra("select", (3, 8))(lambda x: x[0] * x[1])
extra("unbind", (3, 8))(lambda x: sum(x.unbind(0)))
extra("three way cat", (3, 4), (3, 6), (14, 5))(lambda a, b, w: torch.cat([a, b, a], 1) @ w)
extra("cat under a product", (3, 4), (3, 6), (20, 5))(lambda a, b, w: torch.cat([a, b], 1).repeat_interleave(2, 1) @ w)
extra("stack", (3, 4), (3, 4))(lambda a, b: torch.stack([a, b], 1))
extra("padded", (3, 4), (7, 5))(lambda a, w: F.pad(a, (1, 2)) @ w)
extra("padded with ones", (3, 4))(lambda a: F.pad(a, (1, 2), value=1.0).sum(1))
extra("cropped", (3, 8), (3, 5))(lambda a, b: F.pad(a, (-1, -2)) * b)

# -- reductions, scans, orders --------------------------------------------------------------------------------------
extra("sums", (3, 4, 5))(lambda x: (x.sum((0, 2)), x.nansum(1), x.sum(1, keepdim=True) * x))
extra("extremes", (3, 4, 5))(lambda x: (x.amin(1), x.max(1)[0], x.min(0)[0], torch.aminmax(x, dim=2)[0]))
extra("positions", (3, 4, 5))(lambda x: (x.argmax(1), x.argmin(2)))
extra("truths", (3, 4, 5))(lambda x: ((x > 0).any(1), (x > 0).all(2), x.sum()))
extra("drawn positions", (3, 5))(lambda x: x * (x.softmax(1).multinomial(2).sum(1, keepdim=True) >= 0))
extra("products", (3, 4, 5))(lambda x: (x.prod(1), x.logsumexp(2), x.median(1)[0]))
extra("spread", (3, 4, 5))(lambda x: (x.std(1), *torch.var_mean(x, 2), *torch.std_mean(x, 1)))
extra("norms of vectors", (3, 4, 5))(lambda x: (x.norm(dim=1), torch.linalg.vector_norm(x, 1, dim=2)))
extra("scans", (3, 4, 5))(lambda x: (x.cumsum(1), x.cumprod(1), x.logcumsumexp(2), x.cummax(1)[0], x.cummin(2)[0]))
extra("scan after mask", (3, 4), (4, 5))(lambda x, w: x.cumsum(0) @ w)
extra("orders", (3, 4, 5))(lambda x: (x.argsort(1), x.kthvalue(1, 2)[0], x.msort()))
extra("log softmax", (3, 4))(lambda x: x.log_softmax(1))
extra("frequencies", (3, 4, 8))(lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=2), dim=2))
extra("complex frequencies", (3, 4, 8))(lambda x: torch.fft.ifft(torch.fft.fft(x, dim=2), dim=2).real)
extra("distances", (3, 4), (5, 4))(lambda a, b: torch.cdist(a, b))
extra("many distances", (30, 4), (40, 4))(lambda a, b: torch.cdist(a, b))

# -- by position ----------------------------------------------------------------------------------------------------
extra("embedding", (4, 6), (6, 5))(lambda table, w: F.embedding(IDS, table) @ w)
extra("bag", (4, 6))(lambda table: F.embedding_bag(IDS, table, mode="sum"))
extra("indexed", (4, 6, 5))(lambda x: (x[IDS], x[:, IDS[0]], x.index_select(0, IDS[0])))
extra("indexed by a mask", (4, 6))(lambda x: x[torch.tensor([True, False, True, True])])
extra("gathered", (4, 6))(lambda x: x.gather(0, IDS[:1, :1].expand(1, x.shape[1])))
extra("written", (4, 6), (2, 6))(
    lambda x, y: (x.index_add(0, IDS[0], y), x.index_copy(0, IDS[0], y), torch.index_put(x, (IDS[0],), y))
)
extra("filled by position", (4, 6))(lambda x: x.index_fill(0, IDS[0], 1.0))
extra("filled by position, then summed", (4, 6))(lambda x: x.index_fill(0, IDS[0], 1.0).sum(1))
extra("scattered number, then summed", (4, 6))(lambda x: x.scatter(0, IDS[:1, :1].expand(1, x.shape[1]), 1.0).sum(1))
extra("scattered", (4, 6), (1, 6))(
    lambda x, y: (
        x.scatter(0, IDS[:1, :1].expand(1, x.shape[1]), y),
        x.scatter_add(0, IDS[:1, :1].expand(1, x.shape[1]), y),
        x.scatter_reduce(0, IDS[:1, :1].expand(1, x.shape[1]), y, "amax"),
    )
)
extra("triangles", (3, 4, 4))(lambda x: x.tril() + x.triu(1))
extra("moved", (3, 4, 5))(lambda x: (x.roll(1, 1), x.flip(1), x.roll((1, 2), (1, 2))))
extra("buckets", (4, 6), (5, 3))(lambda x, y: (torch.bucketize(x, torch.tensor([0.0, 1.0])), y + 1))
extra("counts", (4, 6), (5, 3))(lambda x, y: ((x > 0).nonzero().shape[0] * y, x.unique().sum() * y))
extra("placed by a mask", (4, 6), (5, 3))(lambda x, y: (x.masked_scatter(x > 0, -x), y + 1))

# -- norms ----------------------------------------------------------------------------------------------------------
extra("batch norm", MAP, (4,), (4,))(
    lambda x, w, b: F.batch_norm(still(x), torch.zeros(x.shape[1]), torch.ones(x.shape[1]), w, b)
)
extra("batch norm without a scale", (5, 4), (4, 3))(
    lambda x, w: F.batch_norm(x, torch.ones(x.shape[1]), torch.ones(x.shape[1])) @ w
)
extra("batch norm of the batch", MAP, (4,), (4,))(
    lambda x, w, b: F.batch_norm(still(x), None, None, w, b, training=True)
)
extra("layer norm", (3, 4, 6), (6,), (6,))(lambda x, w, b: F.layer_norm(x, x.shape[-1:], w, b))
extra("layer norm without a scale", (3, 4, 6))(lambda x: F.layer_norm(x, x.shape[-1:]).sum(0))
extra("group norm", (3, 8, 5, 5), (8,), (8,), (2,))(lambda x, w, b, g: F.group_norm(still(x), g.shape[0], w, b))
extra("instance norm", MAP, (4,), (4,))(lambda x, w, b: F.instance_norm(still(x), weight=w, bias=b))
extra("RMS norm", (3, 4, 6), (6,))(lambda x, w: F.rms_norm(x, x.shape[-1:], w))
extra("weight norm", (5, 4), (5, 1), (3, 4))(lambda v, g, x: x @ torch._weight_norm(v, g, 0).t())

# -- pools ----------------------------------------------------------------------------------------------------------
extra("pools of signals", SIGNAL)(
    lambda x: (F.avg_pool1d(x, 2), F.adaptive_max_pool1d(x, 2), F.pad(still(x), (1, 1), mode="reflect"))
)
extra("resampled signals", SIGNAL)(
    lambda x: (F.interpolate(x, scale_factor=2, mode="linear"), F.interpolate(x, scale_factor=2, mode="nearest"))
)
extra("pools of images", MAP)(
    lambda x: (F.avg_pool2d(x, 2), F.adaptive_avg_pool2d(x, 2), F.adaptive_max_pool2d(x, 2), F.max_pool2d(x, 2))
)
extra("resampled images", MAP)(
    lambda x: (F.interpolate(x, scale_factor=2), F.interpolate(x, scale_factor=2, mode="bicubic"))
)
extra("antialiased images", MAP)(lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True))
extra("padded images", MAP)(lambda x: F.pad(F.pad(x, (1, 1, 1, 1), mode="reflect"), (1, 1, 1, 1), mode="replicate"))
extra("sampled images", MAP)(lambda x: F.grid_sample(x, torch.zeros(x.shape[0], 3, 3, 2), align_corners=False))
extra("pools of volumes", VOLUME)(
    lambda x: (F.avg_pool3d(x, 2), F.max_pool3d(x, 2), F.adaptive_avg_pool3d(x, 2), F.interpolate(x, scale_factor=2))
)

# -- products -------------------------------------------------------------------------------------------------------
extra("grouped rows", (6, 4), (2, 4, 8))(
    lambda a, b: torch.cat([a[:3] @ b[0], a[3:] @ b[1]])  # what _grouped_mm computes, where there is no kernel
)
extra("mixture of experts", torch.randn(16, 8, dtype=torch.bfloat16), torch.randn(2, 8, 16, dtype=torch.bfloat16))(
    lambda a, b: torch._grouped_mm(a, b, offs=torch.tensor([8, 16], dtype=torch.int32))
)
extra("chain of matrices", (3, 4), (4, 5), (5,), (5, 6))(lambda a, b, c, d: torch.addmm(c, a, b).relu() @ d)
extra("batched with a bias", (2, 3, 4), (2, 4, 5), (2, 3, 5))(lambda a, b, c: torch.baddbmm(c, a, b))
extra("linear layers", (2, 3, 4), (5, 4), (5,), (6, 5))(lambda x, v, b, w: F.linear(F.gelu(F.linear(x, v, b)), w))
extra("biased then summed", (3, 4), (5, 4), (5,))(lambda x, w, b: F.linear(x, w, b).exp().sum(1))
extra("einsum", (2, 3, 4), (4, 5))(lambda x, w: torch.einsum("btc,cd->btd", x, w))


@extra("attention", (2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 8), (5, 5))
def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


extra("attention by a kernel", (2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 4))(
    lambda q, k, v: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]
)
extra("rows in place", (3, 4), (4,))(
    lambda x, y: x.clone().index_put_((IDS[0],), y.expand(2, -1)) * torch.scalar_tensor(2.0)
)

extra("sparse rows", (3, 4), (4, 5))(lambda x, w: torch.sparse.mm(SPARSE, x) @ w)
extra("sparse rows with a bias", (3, 4), (3, 4), (4, 5))(lambda x, y, w: torch.sparse.addmm(y, SPARSE, x) @ w)

# -- element by element ----------------------------------------------------------------------------------------------
extra("activations", (3, 4))(
    lambda x: (F.hardswish(x), F.leaky_relu(x), F.elu(x), F.celu(x), F.softplus(x), F.hardtanh(x), F.logsigmoid(x))
)
extra("thresholds", (3, 4))(lambda x: (F.softshrink(x), F.hardshrink(x), F.threshold(x, 0.1, 2.0), x.clamp(-1, 1)))
extra("shifted, then summed", (3, 4))(lambda x: F.softplus(x).sum(1) + x.cos().sum(1) + F.threshold(x, 0.1, 2.0).sum(1))
extra("PReLU", (3, 4), (4,))(lambda x, a: F.prelu(x, a))
extra("mixed", (3, 4), (3, 4), (4,))(
    lambda a, b, c: (torch.lerp(a, b, 0.3), torch.addcmul(a, b, c), torch.addcdiv(a, b, c.abs() + 1), a.nan_to_num())
)
extra("masked", (3, 4), (4,))(lambda a, b: a.masked_fill(b > 0, 2.0).sum(0) + torch.where(b > 0, a, b).sum(0))
extra("whole numbers", (3, 4))(lambda a: (a // 0.3, a % 0.7, torch.fmod(a, 0.7)))
extra("complex", (3, 4), (3, 4))(lambda a, b: (torch.complex(a, b).abs(), torch.polar(a.abs(), b).conj().real))
extra("other dtype", (3, 4))(lambda a: a.to(torch.float64).relu().to(torch.float32))


@extra("copied in place", (3, 4), (3, 4))
def copied(a: Tensor, b: Tensor) -> Tensor:
    out = torch.empty_like(a)
    out.copy_(b)
    return out.add_(a).relu_()


@extra("zeroed in place", (3, 4), (4, 5))
def zeroed(a: Tensor, w: Tensor) -> Tensor:
    out = a.clone()
    out.fill_(1.0)
    return (out @ w, out.zero_() + a)


# -- made from nothing -----------------------------------------------------------------------------------------------
extra("made", (3, 4), (5,))(
    lambda x, y: (
        x + torch.full((x.shape[1],), 2.0) * torch.ones(x.shape[1]),
        x + x.new_zeros(x.shape[1]) + x.new_full((x.shape[1],), 2.0) + x.new_ones(x.shape[1]),
        y * torch.full_like(y, 3.0) + y.new_empty(y.shape[0]).fill_(1.0) + torch.empty(y.shape[0]).zero_(),
    )
)
extra("counted", (3, 4), (5,))(lambda x, y: (x * torch.arange(x.shape[1]), torch.linspace(0, 1, y.shape[0]) + y))
extra("identity", (3, 4))(lambda x: x @ torch.eye(x.shape[1]))
extra("corners", (3, 4))(lambda x: (x, torch.tril_indices(3, 3), torch.triu_indices(3, 3), torch.hann_window(5)))
extra("drawn", (3, 4))(
    lambda x: (
        [x]
        + [
            (x + d).sum() * 0
            for d in (
                torch.rand_like(x),
                torch.randn_like(x),
                torch.rand(x.shape),
                torch.randn(x.shape),
                x.bernoulli(0.5),
            )
        ]
    )
)
extra("drawn in place", (3, 4))(
    lambda x: [(x.clone().uniform_() + x.clone().normal_() + x.clone().exponential_()).sum() * 0, torch.randperm(3)]
)
extra("ones, then summed", (3, 4))(lambda x: x + torch.ones(x.shape[1]).sum())
