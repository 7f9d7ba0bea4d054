"""BatchNorm over a batch whose images lie with several processes: the statistics are the whole batch's.

Ioffe and Szegedy 2015, with n values of each channel in the whole batch, over all processes r:

    μ = Σ n_r μ_r / n      σ² = Σ n_r (σ_r² + (μ_r − μ)²) / n      x̂ = (x − μ) / √(σ² + ε)      y = γ x̂ + β
    ∂L/∂x = γ / √(σ² + ε) · (g − Σ g / n − x̂ · Σ g x̂ / n),    g = ∂L/∂y, Σ over the whole batch

Variances are put together as Chan, Golub and LeVeque 1983 do: a mean of squares would lose the digits of a
small variance beside a large mean. PyTorch's `SyncBatchNorm` does the same, on GPUs alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from anounet.distributed.processes import world


class BatchNorm(_BatchNorm):
    """`nn.BatchNorm1d` and `2d` with the statistics of the whole batch, in training; in eval mode they."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) or (B, C, H, W), this process's share of the batch, B ≥ 0 → the same shape."""
        if not self.training or world() == 1:
            return super().forward(x)
        y, mean, variance, count = _Normalised.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            unbiased = variance * count / (count - 1).clamp_min(1)
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(unbiased, self.momentum)
        return y


def synchronised(net: nn.Module) -> nn.Module:
    """Has the BatchNorms that train look at the whole batch from now on, in place; names and weights stay."""
    for part in net.modules():
        if part.training and type(part) in (nn.BatchNorm1d, nn.BatchNorm2d):
            part.__class__ = BatchNorm
    return net


class _Normalised(torch.autograd.Function):
    """x, γ, β, ε → y, and the whole batch's μ, σ² and n; γ's and β's gradients are this process's share.

    PyTorch's kernels do what there is to do for each value: the rest is for each channel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        channels = x.shape[1]
        own = weight.new_zeros(2 * channels + 1)
        if x.numel():
            spare = torch.zeros_like(weight), torch.ones_like(weight)  # of bfloat16 too it gives float32 then
            statistics = torch.batch_norm_update_stats(x, *spare, 0.0)
            own = torch.cat([*statistics, own.new_tensor([x.numel() // channels])])
        every = own.new_empty(world() * len(own))
        distributed.all_gather_single(every, own)
        means, variances, counts = every.view(world(), -1).split([channels, channels, 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(dim=0) / count
        variance = (counts * (variances + (means - mean).square())).sum(dim=0) / count
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        y = nn.functional.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, slope: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        of_x, of_weight, of_bias = torch.zeros_like(x), torch.zeros_like(weight), torch.zeros_like(weight)
        if x.numel():  # as if μ and σ² did not depend on x
            of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
                slope, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
            )
        sums = torch.stack([of_bias, of_weight])
        distributed.all_reduce(sums)
        # γ / √(σ² + ε) · (Σ g / n + x̂ · Σ g x̂ / n), which is linear in x
        shift, tilt = sums / count * weight * (variance + ctx.eps).rsqrt()
        tilt = tilt * (variance + ctx.eps).rsqrt()
        along = (1, -1) + (1,) * (x.dim() - 2)
        shift, tilt = (part.to(of_x.dtype).view(along) for part in (shift - tilt * mean, tilt))
        return of_x.addcmul_(x, tilt, value=-1).sub_(shift), of_weight, of_bias, None
