"""The f-Net F: MobileNetV2 features, pooled and put on a sphere; a `Backbone` trains, F is frozen."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from anounet._torchvision import mobilenet_v2
from anounet.storage import WeightsError, check_state, fingerprint, load_state_file, rounded

FEATURES = 1280
WIDTHS = (0.5, 1.0)


@dataclass(frozen=True)
class BackboneSettings:
    """What a net of features is, apart from its weights."""

    width: float = 1.0  # MobileNetV2's width multiplier
    alpha: float = 5.0  # norm of F(x); L2-softmax needs 4.3 or more for 10 classes (Ranjan et al. 2017)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)  # input normalisation of the starting weights,
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)  # for images in [0, 1]; 0.5, 0.5 gives [−1, 1]

    def __post_init__(self) -> None:
        if self.width not in WIDTHS:
            raise ValueError(f"MobileNetV2's width is one of {WIDTHS}, not {self.width}.")
        if not 0 < self.alpha <= 100:
            raise ValueError(f"α is a norm between 0 and 100, not {self.alpha}.")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> BackboneSettings:
        return cls(float(value["width"]), float(value["alpha"]), tuple(value["mean"]), tuple(value["std"]))


class Backbone(nn.Module):
    """The trainable net: images → (B, 1280) of norm α."""

    def __init__(self, settings: BackboneSettings = BackboneSettings()) -> None:
        super().__init__()
        self.settings = settings
        self.features = mobilenet_v2(width_mult=settings.width).features

    @classmethod
    def thaw(cls, f_net: FeatureNet, settings: BackboneSettings, source: Path | str) -> Backbone:
        """A net to train on from a frozen F: F's weights and input normalisation, α of `settings`.

        Raises:
            WeightsError: F has another width than `settings`; the sentence calls F `source`.
        """
        own = f_net.settings
        if own.width != settings.width:
            raise WeightsError(
                f"{source} has width {own.width:g} and not {settings.width:g}: choose that width, or name a "
                "file of starting weights."
            )
        backbone = cls(replace(own, alpha=settings.alpha))
        backbone.load_state(f_net.state(), source)
        return backbone

    def pooled(self, x: Tensor) -> Tensor:
        """f, the pooled features of x as they are, before any norm: (B, 3, H, W) in [0, 1] → (B, 1280)."""
        return self.features(_normalise(x, self.settings)).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """α · f / ‖f‖₂ per sample, f the pooled features of x: (B, 3, H, W) in [0, 1] → (B, 1280).

        L2-softmax: Ranjan, Castillo, Chellappa 2017, equation 3.
        """
        return self.settings.alpha * nn.functional.normalize(self.pooled(x), dim=1, eps=1e-8)

    def state(self) -> dict[str, Tensor]:
        """The weights by torchvision's names, without BatchNorm's counters."""
        return _without_counters(self.features.state_dict())

    def load_state(self, state: Mapping[str, Tensor], source: Path | str) -> None:
        state = _without_counters(state)
        check_state(source, state, self.state())
        self.features.load_state_dict(state, strict=False)


class FeatureNet(nn.Module):
    """F, frozen by construction: eval mode always, no parameter takes a gradient, `train()` cannot thaw it.

    BatchNorm is folded into the convolutions (the same function, fewer operations), and the weights are the
    float16-rounded ones that a file holds, so a net is the same before saving and after loading.

    Attributes:
        settings: width, α and input normalisation.
        fingerprint: SHA-256 of the weights; a `Center` names the F it was made from by it.
    """

    def __init__(self, state: Mapping[str, Tensor], settings: BackboneSettings, source: Path | str = "f-Net"):
        super().__init__()
        backbone = Backbone(settings)
        self._state = rounded(_without_counters(state))
        backbone.load_state(self._state, source)
        self.settings = settings
        self.fingerprint = fingerprint(self._state)
        self.features = _folded(backbone.features.eval())
        self.requires_grad_(False)
        super().train(False)

    @classmethod
    def freeze(cls, backbone: Backbone) -> FeatureNet:
        """A frozen copy of a net in training; the net itself goes on unchanged."""
        return cls(copy.deepcopy(backbone.state()), backbone.settings)

    def train(self, mode: bool = True) -> FeatureNet:
        """Does nothing: F is in eval mode always (in training mode BatchNorm would hide the content)."""
        return self

    def state(self) -> dict[str, Tensor]:
        """The weights as saved, BatchNorm not folded."""
        return self._state

    def meta(self) -> dict[str, Any]:
        return asdict(self.settings)

    def pooled(self, x: Tensor) -> Tensor:
        """f, the pooled features of x as they are, before any norm: (B, 3, H, W) in [0, 1] → (B, 1280)."""
        return self.features(_normalise(x, self.settings)).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """F(x): (B, 3, H, W) in [0, 1] → (B, 1280), each of norm α."""
        return self.settings.alpha * nn.functional.normalize(self.pooled(x), dim=1, eps=1e-8)

    def feature_maps(self, x: Tensor, layers: Sequence[int] = (3, 6, 13)) -> list[Tensor]:
        """Outputs of the blocks named: (B, 3, H, W) in [0, 1] → [(B, channels, H/stride, W/stride), …]."""
        maps, x = [], _normalise(x, self.settings)
        for index, block in enumerate(self.features[: max(layers) + 1]):
            x = block(x)
            if index in layers:
                maps.append(x)
        return maps


def starting_backbone(
    source: str | Path | None, settings: BackboneSettings, fallback: FeatureNet | None = None
) -> tuple[Backbone, str]:
    """A net to begin training from, and where its weights came from (for the checkpoint's provenance).

    Args:
        source: a local state dict of MobileNetV2 features in torchvision's layout, with inputs in the range
            that `settings` says; "download" for torchvision's ImageNet weights (width 1.0); None for the
            first that can be had: torchvision's, then `fallback`.
        settings: width, α and, for a local file, its input normalisation.
        fallback: the f-Net to start from when there is no network (the shipped one).

    Raises:
        WeightsError: no weights can be had; the sentence says how to get some.
    """
    if source is not None and str(source) != "download":
        backbone = Backbone(settings)
        backbone.load_state(load_state_file(Path(source)), source)
        return backbone, f"local file {Path(source).name}"
    failure = "torchvision has ImageNet weights for width 1.0 only"
    if settings.width == 1.0:
        try:
            return _torchvision_imagenet(settings), "torchvision MobileNet_V2_Weights.IMAGENET1K_V2"
        except (OSError, RuntimeError) as error:
            failure = f"torchvision's ImageNet weights could not be downloaded ({type(error).__name__})"
    if source is None and fallback is not None:
        backbone = Backbone.thaw(fallback, settings, f"{failure}, and the shipped f-Net")
        return backbone, f"shipped f-Net {fallback.fingerprint[:12]}"
    raise WeightsError(f"{failure}: name a local file of starting weights (--start FILE).")


def _torchvision_imagenet(settings: BackboneSettings) -> Backbone:
    from anounet._torchvision import MobileNet_V2_Weights

    weights = MobileNet_V2_Weights.IMAGENET1K_V2
    transform = weights.transforms()
    state = weights.get_state_dict(progress=True, check_hash=True)
    backbone = Backbone(
        BackboneSettings(settings.width, settings.alpha, tuple(transform.mean), tuple(transform.std))
    )
    prefix = "features."
    features = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    backbone.load_state(features, "torchvision's MobileNetV2")
    return backbone


def _normalise(x: Tensor, settings: BackboneSettings) -> Tensor:
    mean, std = (_constant(values, x.device, x.dtype) for values in (settings.mean, settings.std))
    return (x - mean) / std


@lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """One number a channel, (1, C, 1, 1). Kept: to make it anew, a GPU would be waited for at every pass."""
    return torch.tensor(values, device=device, dtype=dtype).view(1, -1, 1, 1)


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def _folded(module: nn.Module) -> nn.Module:
    """A copy in which every convolution has taken in the BatchNorm that follows it."""
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        names = list(parent._modules)
        for first, second in pairwise(names):
            conv, norm = parent._modules[first], parent._modules[second]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent._modules[first] = fuse_conv_bn_eval(conv, norm)
                parent._modules[second] = nn.Identity()
    return module
