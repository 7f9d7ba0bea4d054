"""The U-Net G: an image in, the same image redrawn out (Ronneberger et al. 2015, padded convolutions)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NORMS = ("instance", "group")


class UNet(nn.Module):
    """U-Net with `depth` levels of `width · 2^level` channels.

    A level is two 3×3 convolutions, each followed by normalisation and ReLU; levels are joined by 2×2
    max-pooling going down and 2×2 transposed convolutions going up, with skip concatenation; a 1×1
    convolution and a sigmoid end it. `UNet(64, 5, "instance")` is the article's net (31 M parameters),
    `UNet(16, 5, "group")` the small one (1.9 M).

    Both normalisations look at one image alone. On a batch of one, instance normalisation *is* the
    article's BatchNorm in training mode; unlike BatchNorm it gives an image the same result in any batch
    and keeps no running statistics, so the picture shown is the picture that was optimised.

    With `image_skip` the net draws a change of x rather than x: y = sigmoid(logit(x) + head(…)).
    """

    inputs = outputs = 3

    def __init__(
        self, width: int = 64, depth: int = 5, norm: str = "instance", image_skip: bool = False
    ) -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"Unknown normalisation {norm!r}: choose one of {', '.join(NORMS)}.")
        if width < 8 or width % 8 or depth < 2:
            raise ValueError(
                f"A U-Net's width is a multiple of 8, its depth 2 or more, not {width}, {depth}."
            )
        self.width, self.depth, self.norm, self.image_skip = width, depth, norm, image_skip
        channels = [width * 2**level for level in range(depth)]
        self.down = nn.ModuleList(
            _level(before, after, norm)
            for before, after in zip([self.inputs, *channels], channels, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * c, c, kernel_size=2, stride=2) for c in reversed(channels[:-1])
        )
        self.merge = nn.ModuleList(_level(2 * c, c, norm) for c in reversed(channels[:-1]))
        self.head = nn.Conv2d(width, self.outputs, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Redraws x: (B, 3, H, W) in [0, 1] → (B, 3, H, W) in (0, 1); 2^(depth − 1) divides H and W."""
        drawn = self._drawn(x)
        if self.image_skip:  # black and white have no logit: half a grey level inside stands for them
            drawn = drawn + torch.logit(x, eps=0.5 / 255)
        return torch.sigmoid(drawn)

    def _drawn(self, x: Tensor) -> Tensor:
        """What the head draws, before the sigmoid: (B, inputs, H, W) → (B, outputs, H, W)."""
        skips = []
        for level in self.down[:-1]:
            x = level(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.down[-1](x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat((skip, up(x)), dim=1))
        return self.head(x)

    @staticmethod
    def fresh(
        width: int, depth: int, norm: str, generator: torch.Generator, image_skip: bool = False
    ) -> UNet:
        """A U-Net with random weights drawn from `generator` (a CPU generator) and from nothing else.

        Normal with standard deviation √(2 / fan-in), biases zero: Ronneberger et al. 2015, section 3.
        """
        with torch.device("meta"):  # no draw from the global generator, no work done twice
            net = UNet(width, depth, norm, image_skip)
        return _drawn_at_random(net, generator)

    @staticmethod
    def identity(width: int, depth: int, generator: torch.Generator) -> UNet:
        """A small U-Net that redraws every image unchanged: image skip, random features, a head of zeros."""
        net = UNet.fresh(width, depth, "group", generator, image_skip=True)
        nn.init.zeros_(net.head.weight)
        return net


class GatedUNet(UNet):
    """A small U-Net that decides where to redraw, and draws there: y = x + a · (paint − x).

    It sees the image and, beside it, how far each patch lies from the normal ones; it draws a paint and a
    gate a, both in (0, 1). Where the gate is shut the image passes through untouched, which no net that draws
    every pixel anew can do; where it is open the paint owes nothing to what was there. (A gate over two
    sources: Srivastava et al. 2015, highway networks.)
    """

    inputs = outputs = 4

    def __init__(self, width: int = 16, depth: int = 4) -> None:
        super().__init__(width, depth, "group")

    def forward(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Redraws x: (B, 3, H, W) in [0, 1] and (B, 1, H, W) → y, (B, 3, H, W), and the gate's logits.

        2^(depth − 1) divides H and W; the gate is the sigmoid of the logits, (B, 1, H, W).
        """
        together = torch.cat((x, seen), dim=1)
        drawn = self._drawn(together)
        gate = drawn[:, 3:]
        paint, opened = (torch.sigmoid(part).to(x.dtype) for part in (drawn[:, :3], gate))  # of autocast
        return torch.lerp(x, paint, opened), gate

    @staticmethod
    def shut(width: int, depth: int, colour: Tensor, generator: torch.Generator) -> GatedUNet:
        """Random weights and an almost shut gate (a = 0.05) over paint of one colour, (3,) in (0, 1)."""
        with torch.device("meta"):
            net = GatedUNet(width, depth)
        _drawn_at_random(net, generator)
        with torch.no_grad():
            net.head.weight.zero_()
            net.head.bias.copy_(torch.cat((torch.logit(colour, eps=0.01), torch.tensor([-3.0]))))
        return net


def _drawn_at_random(net: nn.Module, generator: torch.Generator) -> nn.Module:
    net.to_empty(device="cpu")
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # Each output of a 2×2 transposed convolution of stride 2 sees one input pixel.
                taps = 1 if isinstance(module, nn.ConvTranspose2d) else math.prod(module.kernel_size)
                std = math.sqrt(2 / (module.in_channels * taps))
                module.weight.normal_(0.0, std, generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.GroupNorm | nn.InstanceNorm2d):
                module.weight.fill_(1.0)
                module.bias.zero_()
    return net


def _level(before: int, after: int, norm: str) -> nn.Sequential:
    def normalise() -> nn.Module:
        if norm == "group":
            return nn.GroupNorm(8, after)
        return nn.InstanceNorm2d(after, affine=True, track_running_stats=False)

    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1),
        normalise(),
        nn.ReLU(inplace=True),
        nn.Conv2d(after, after, 3, padding=1),
        normalise(),
        nn.ReLU(inplace=True),
    )
