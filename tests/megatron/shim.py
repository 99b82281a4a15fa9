"""Megatron-Core where there is no GPU: one process, plain PyTorch in the place of what only CUDA has.

    torch.cuda.current_device()  ──► the CPU        streams, events ──► nothing to wait for        Triton kernels ──► `scan`

Test-only: nothing here is part of the library, and nothing here is replaced where there is a GPU.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import types
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


class _Idle:
    """A stream, or an event, on a device that does one thing at a time."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: _Idle()


def start() -> None:
    """One process, all parallel sizes 1. May be called again."""
    if not torch.cuda.is_available():
        _without_cuda()
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import initialize_rng_tracker

    if not dist.is_initialized():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        dist.init_process_group("gloo", rank=0, world_size=1)
    if not parallel_state.model_parallel_is_initialized():
        parallel_state.initialize_model_parallel(1, 1)
    initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)


def stop() -> None:
    """Leave the process as it was for other tests."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def _without_cuda() -> None:
    torch.cuda.current_device = lambda: torch.device("cpu")  # type: ignore[assignment]
    torch.cuda.Stream = torch.cuda.Event = _Idle  # type: ignore[assignment,misc]
    torch.cuda.current_stream = _Idle  # type: ignore[assignment]
    torch.cuda.stream = lambda stream: contextlib.nullcontext()  # type: ignore[assignment]
    sys.modules.setdefault("selective_scan_cuda", types.ModuleType("selective_scan_cuda"))
    utilities: Any = importlib.import_module("megatron.core.transformer.moe.moe_utils")
    if not hasattr(utilities, "te_general_gemm"):  # 0.16 asks for it where Transformer Engine is missing
        utilities.te_general_gemm = None


def state_space_on_cpu() -> None:
    """Mamba's mixer: its kernels written out, and PyTorch's norms in the place of Transformer Engine's."""
    from megatron.core.transformer.torch_norm import WrappedTorchNorm

    mixer: Any = importlib.import_module("megatron.core.ssm.mamba_mixer")
    gated: Any = importlib.import_module("mamba_ssm.ops.triton.layernorm_gated")
    gated.RMSNorm.forward = _gated_norm
    mixer.mamba_chunk_scan_combined, mixer.mamba_split_conv1d_scan_combined = scan, _whole_mixer
    places = ("ssm.mamba_block", "models.hybrid.hybrid_block", "post_training.modelopt.layers")
    for place in (*places, "post_training.modelopt.mamba.model_specs", "post_training.modelopt.hybrid.model_specs"):
        with contextlib.suppress(ImportError):
            module = importlib.import_module(f"megatron.core.{place}")
            for name in {"TENorm", "Norm"} & vars(module).keys():
                setattr(module, name, WrappedTorchNorm)


def _gated_norm(self: Any, x: Tensor, z: Tensor | None = None) -> Tensor:
    if z is not None and not self.norm_before_gate:
        x = x * F.silu(z)
    size = x.shape[-1] if self.group_size is None else self.group_size
    parts = x.unflatten(-1, (-1, size)).float()
    parts = parts * torch.rsqrt(parts.square().mean(-1, keepdim=True) + self.eps)
    y = parts.flatten(-2).to(x.dtype) * self.weight
    return y * F.silu(z) if z is not None and self.norm_before_gate else y


def scan(
    x_BTHP: Tensor, dt_BTH: Tensor, A_H: Tensor, B_BTGN: Tensor, C_BTGN: Tensor, **options: Any
) -> Tensor | tuple[Tensor, Tensor]:
    """The recurrence of a selective state space, step by step: state ← state · exp(dt·A) + dt · x ⊗ B, y = state · C."""
    dt_BTH = dt_BTH + options["dt_bias"] if options.get("dt_bias") is not None else dt_BTH
    dt_BTH = F.softplus(dt_BTH) if options.get("dt_softplus") else dt_BTH
    each = x_BTHP.shape[2] // B_BTGN.shape[2]
    B_BTHN, C_BTHN = B_BTGN.repeat_interleave(each, 2), C_BTGN.repeat_interleave(each, 2)
    state, out = torch.zeros_like(x_BTHP[:, 0, :, :, None] * B_BTHN[:, 0, :, None]), []
    for t in range(x_BTHP.shape[1]):
        gain = torch.exp(dt_BTH[:, t] * A_H)[:, :, None, None]
        state = state * gain + (dt_BTH[:, t, :, None] * x_BTHP[:, t])[..., None] * B_BTHN[:, t, :, None]
        out.append((state * C_BTHN[:, t, :, None]).sum(-1))
    y = torch.stack(out, 1)
    if (D := options.get("D")) is not None:
        y = y + x_BTHP * (D[:, None] if D.dim() == 1 else D)
    y = y if options.get("z") is None else y * F.silu(options["z"])
    return (y, state) if options.get("return_final_states") else y


def _whole_mixer(
    zx_BTC: Tensor, weight: Tensor, bias: Tensor, dt_bias: Tensor, A_H: Tensor, *, D: Tensor, **options: Any
) -> Tensor:
    """Gate, convolution and scan in one, as the fused kernel has them."""
    heads, groups, width = dt_bias.shape[0], options.get("ngroups", 1), options.get("headdim")
    width = D.shape[1] if width is None else width
    z, xBC, dt = torch.split(zx_BTC, [heads * width, weight.shape[0], heads], -1)
    padded = F.pad(xBC.transpose(1, 2), (weight.shape[1] - 1, 0))
    xBC = F.silu(F.conv1d(padded, weight[:, None], bias, groups=weight.shape[0])).transpose(1, 2)
    x, (B, C) = xBC[..., : heads * width], xBC[..., heads * width :].chunk(2, -1)
    x, z = (t.unflatten(-1, (heads, width)) for t in (x, z))
    B, C = (t.unflatten(-1, (groups, -1)) for t in (B, C))
    y = scan(x, dt, A_H, B, C, D=D, z=z, dt_bias=dt_bias, dt_softplus=True)
    assert isinstance(y, Tensor)
    return y.flatten(2)
