"""The rival: how far a patch lies from the nearest of many remembered normal ones.

    d_p = min_m ‖ s ⊙ f_p − m ‖₂

PatchCore's idea (Roth et al. 2022, "Towards Total Recall in Industrial Anomaly Detection"): m runs over a
memory of normal patches that a greedy coreset keeps (section 3.2 there), or over the centres of k-means. The
patches f_p are those of `local_centers.patches`: the two methods differ in what they remember and in how they
measure, not in what they see. Each layer has norm 1 in f_p, and s multiplies it by the root of its weight, so
that the layers share d² as `PatchSettings.weights` says. An image's score is the maximum of its smoothed map.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from anounet.feature_net import FeatureNet
from anounet.local_centers import PatchSettings, lloyd, nearest_mean, patches
from anounet.storage import WeightsError

METHODS = ("coreset", "kmeans")
PROJECTED = 64  # dimensions in which the coreset is chosen
_BATCH = 32  # images whose patches are made at once
_PAIRS = 2**23  # distances held at once: 32 MB
_SETTINGS = PatchSettings()


def coreset(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Chooses vectors that lie near all the others: k-centre greedy (Sener and Savarese 2018, algorithm 1).

    Each step takes the vector that is farthest from those taken so far; the first is drawn. As in PatchCore
    the choice is made after a random projection, which keeps distances roughly (Johnson and Lindenstrauss
    1984).

    Args:
        vectors: (N, D).
        count: how many to take; N at most.
        generator: on the CPU; draws the projection and the first vector.

    Returns:
        (min(count, N),) indices, no two alike, in the order they were taken: a shorter coreset begins a
        longer one.

    Raises:
        ValueError: no vectors, or a count below 1.
    """
    if not len(vectors) or count < 1:
        raise ValueError(f"A coreset needs vectors and a count of 1 or more, not {count} of {len(vectors)}.")
    with torch.no_grad():
        points = vectors.detach().float()
        depth = points.shape[1]
        if depth > PROJECTED:
            projection = torch.randn(depth, PROJECTED, generator=generator) / PROJECTED**0.5
            points = points @ projection.to(points)
        # ‖p − q‖² = ‖p‖² − 2 p·q + ‖q‖²: a step is one matrix times vector, and one minimum in place.
        norms = points.square().sum(dim=1)
        shortest = torch.full_like(norms, torch.inf)
        step = torch.empty_like(norms)
        taken = torch.empty(min(count, len(points)), dtype=torch.long, device=points.device)
        newest = torch.randint(len(points), (1,), generator=generator).to(points.device)[0]
        for place in range(len(taken)):
            taken[place] = newest
            torch.addmv(norms, points, points[newest], alpha=-2, out=step)
            torch.minimum(shortest, step.add_(norms[newest]), out=shortest)
            shortest[newest] = -torch.inf  # never again, however many vectors are equal
            newest = shortest.argmax()
    return taken


@dataclass(frozen=True)
class NearestPatch:
    """Remembered normal patches.

    Attributes:
        memory: (M, D) patches, each multiplied by `scales`.
        scales: (D,) s, the root of each layer's weight, repeated for its channels.
        settings: what a patch is.
        f_net: fingerprint of the F they belong to.
    """

    memory: Tensor
    scales: Tensor
    settings: PatchSettings
    f_net: str

    def to(self, device: torch.device | str) -> NearestPatch:
        return NearestPatch(self.memory.to(device), self.scales.to(device), self.settings, self.f_net)

    @torch.no_grad()
    def distance(self, features: Tensor) -> Tensor:
        """d_p, the module's formula, of `local_centers.patches`: (B, D, h, w) → (B, h, w) ≥ 0.

        At most 32 MB of distances are held at a time, whatever B, h and w are (more only beyond 8 million
        remembered patches).
        """
        batch, depth, *grid = features.shape
        vectors = features.permute(0, 2, 3, 1).reshape(-1, depth) * self.scales
        # The fast search finds the nearest; its distance is computed apart, without the search's rounding.
        found = [
            torch.linalg.vector_norm(chunk - self.memory[nearest_mean(chunk, self.memory)], dim=1)
            for chunk in vectors.split(max(1, _PAIRS // len(self.memory)))
        ]
        return torch.cat(found).view(batch, *grid)

    def check(self, f_net: FeatureNet, source: Path | str = "These remembered patches") -> NearestPatch:
        """Refuses an f-Net that the patches were not made with."""
        if self.f_net != f_net.fingerprint:
            raise WeightsError(
                f"{source} were made with another f-Net ({self.f_net[:12]}) than the one given "
                f"({f_net.fingerprint[:12]}): build the memory anew with this f-Net."
            )
        return self


@torch.no_grad()
def build_memory(
    f_net: FeatureNet,
    images: Tensor,
    settings: PatchSettings = _SETTINGS,
    count: int = 10_000,
    method: str = "coreset",
    patches: int = 60_000,
    seed: int = 0,
) -> NearestPatch:
    """Remembers `count` normal patches, or all there are where there are fewer.

    Args:
        images: (N, 3, H, W) uint8, normal ones.
        settings: what a patch is, and for "kmeans" how many iterations; its other fields play no part.
        count: how many patches to remember.
        method: "coreset", or "kmeans": `count` means, of the k-means that local centres are made by.
        patches: normal patches to choose from at most, drawn evenly from all images.
        seed: of the draws.

    Raises:
        ValueError: an unknown method, no images, images that are not uint8, or a number below 1.
    """
    if method not in METHODS:
        raise ValueError(f"Unknown method {method!r}: choose one of {', '.join(METHODS)}.")
    if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
        raise ValueError(
            f"A memory needs one normal image or more, uint8 (N, 3, H, W), not {images.dtype} "
            f"{tuple(images.shape)}."
        )
    if count < 1 or patches < 1:
        raise ValueError(f"A memory needs 1 patch or more, not {count} of {patches}.")
    generator = torch.Generator().manual_seed(seed)
    vectors, scales = _sample(f_net, images, settings, patches, generator)
    vectors = vectors * scales
    if count >= len(vectors):
        memory = vectors
    elif method == "coreset":
        memory = vectors[coreset(vectors, count, generator)]
    else:
        memory = vectors[torch.randperm(len(vectors), generator=generator)[:count]]
        for _ in range(settings.iterations):
            memory, _ = lloyd(vectors, memory, generator)
    device = next(f_net.parameters()).device
    return NearestPatch(memory, scales, settings, f_net.fingerprint).to(device)


@torch.no_grad()
def maps(x: Tensor, f_net: FeatureNet, nearest: NearestPatch) -> Tensor:
    """d_p brought to the image's size: (B, 3, H, W) in [0, 1] → (B, H, W) ≥ 0, not yet smoothed."""
    nearest.check(f_net)
    distances = nearest.distance(patches(x, f_net, nearest.settings))[:, None]
    return functional.interpolate(distances, size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


def _sample(
    f_net: FeatureNet, images: Tensor, settings: PatchSettings, most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """At most `most` patches, as many from each image, and `scales`: (N, D) and (D,), on the CPU."""
    device = next(f_net.parameters()).device
    an_image = -(-most // len(images))
    taken = []
    for batch in images.split(_BATCH):
        x = batch.to(device).float() / 255
        for vectors in patches(x, f_net, settings).cpu().permute(0, 2, 3, 1).flatten(1, 2):
            taken.append(vectors[torch.randperm(len(vectors), generator=generator)[:an_image]])
    vectors = torch.cat(taken)
    if len(vectors) > most:
        vectors = vectors[torch.randperm(len(vectors), generator=generator)[:most]]
    channels = [layer.shape[1] for layer in f_net.feature_maps(x[:1], settings.layers)]
    parts = [torch.full((n,), w**0.5) for n, w in zip(channels, settings.weights, strict=True)]
    return vectors, torch.cat(parts)
