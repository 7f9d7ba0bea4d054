"""How well `differ` finds defects from one, five and twenty reference images, of any place and of the same.

    python -m anounet bench difference [--split validation|test] [--references 1 5 20] [--pieces any|same]

Two kinds of data, both of the embedded textures. "any piece": references and images are different pieces of
one texture, which lie in no way alike. "same piece": the reference is the very piece that the image shows,
with a defect or without, taken anew: moved by up to two pixels, brighter or darker by up to 3 %, with noise
of 1 %; of several references each is taken anew. Nothing is trained, and F is the shipped one throughout.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from datetime import date
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anounet.bundle import SHIPPED, Bundle, load_bundle
from anounet.cli.common import table
from anounet.datasets import TextureSet, choose, textures
from anounet.difference import PLACES, References, distance_map, learn, learned
from anounet.feature_net import FeatureNet
from anounet.images import to_tensor
from anounet.metrics import image_auroc, pixel_auroc, pixel_average_precision

PIECES = ("any", "same")
FIRST = 10_000  # number of the first piece: none of the split's own
COLUMNS = ("pixel AUROC", "pixel AP", "image AUROC", "good with a place", "defective with a place")
Case = tuple[References, Tensor, np.ndarray]  # references, images, masks


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m anounet bench difference", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--bundle", default=SHIPPED, metavar="NAME", help=f"whose F (default: {SHIPPED})")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--textures", nargs="+", default=list(TextureSet.classes), metavar="NAME")
    parser.add_argument("--references", nargs="+", type=int, default=[1, 5, 20], metavar="N")
    parser.add_argument("--pieces", nargs="+", choices=PIECES, default=list(PIECES), help="of the data")
    parser.add_argument("--images", type=int, default=16, metavar="N", help="good ones of each texture")
    parser.add_argument("--pairs", type=int, default=4, metavar="N", help="same pieces of each texture")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the choice of references")
    given = parser.parse_args(arguments)
    bundle = load_bundle(given.bundle, "cpu")
    lines = []
    for kind, cases in (("any", _any_piece), ("same", _same_piece)):
        if kind not in given.pieces:
            continue
        for count in given.references:
            for place in PLACES:
                start = time.perf_counter()
                found = [
                    _figures(list(cases(bundle, texture, count, place, given)), bundle.f_net)
                    for texture in given.textures
                ]
                mean = dict(zip(COLUMNS, np.mean(found, axis=0), strict=True))
                line: dict[str, Any] = {"data": f"{kind} piece", "references": count, "place": place}
                lines.append(line | {name: f"{value:.3f}" for name, value in mean.items()})
                seconds = time.perf_counter() - start
                print(f"{lines[-1]}, {seconds:.0f} s", file=sys.stderr, flush=True)
    print(
        f"{date.today()}, {len(given.textures)} textures, {given.split} split: {given.images} good and as "
        f"many defective images of each, {given.pairs} same pieces; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads\n\n{table(lines)}"
    )
    return 0


def _any_piece(
    bundle: Bundle, texture: str, count: int, place: str, given: argparse.Namespace
) -> Iterator[Case]:
    train, images = TextureSet("train"), TextureSet(given.split)
    chosen = choose(train.where(texture, defective=False), count, given.seed)
    references = torch.cat(list(train.batches(chosen, bundle.size)))
    good = choose(images.where(texture, defective=False), given.images)
    bad = choose(images.where(texture, defective=True), given.images)
    x = torch.cat(list(images.batches(good + bad, bundle.size)))
    yield learned(learn(references, bundle.f_net, place)), x, images.masks(good + bad, bundle.size)


def _same_piece(
    bundle: Bundle, texture: str, count: int, place: str, given: argparse.Namespace
) -> Iterator[Case]:
    for number in range(FIRST, FIRST + given.pairs):
        generator = torch.Generator().manual_seed(number + given.seed)
        drawn = [
            textures.sample(texture, given.split, number, size=bundle.size, defective=defective)[:2]
            for defective in (False, True)
        ]
        whole, broken = (to_tensor(pixels)[0] for pixels, _ in drawn)
        truth = torch.from_numpy(drawn[1][1].copy()).float()
        references = torch.stack([whole] + [_anew(whole, generator) for _ in range(count - 1)])
        with_mask = _anew(torch.cat([broken, truth[None]]), generator)
        x = torch.stack([_anew(whole, generator), with_mask[:3]])
        masks = np.stack([np.zeros(truth.shape, bool), with_mask[3].numpy() > 0.5])
        yield learned(learn(references, bundle.f_net, place)), x, masks


def _anew(image: Tensor, generator: torch.Generator) -> Tensor:
    """The image taken anew; a fourth channel, its mask, is only moved."""
    dx, dy = torch.randint(-2, 3, (2,), generator=generator).tolist()
    side = image.shape[-1]
    moved = functional.pad(image[None], (2,) * 4, mode="reflect")[0]
    moved = moved[:, 2 - dy : 2 - dy + side, 2 - dx : 2 - dx + side].clone()
    brighter = float(torch.rand(1, generator=generator)) * 0.06 - 0.03
    noise = 0.01 * torch.randn(3, side, side, generator=generator)
    moved[:3] = (moved[:3] + brighter + noise).clamp(0, 1)
    return moved


def _figures(cases: list[Case], f_net: FeatureNet) -> tuple[float, ...]:
    """Of all cases of a texture, each in units of its own limit, which no image has a say in."""
    found = []
    for references, x, _ in cases:
        found.append(distance_map(x, references, f_net) / references.limit)
    maps = torch.cat(found).numpy()
    masks = np.concatenate([m for *_, m in cases])
    peaks, labels = maps.max(axis=(1, 2)), masks.any(axis=(1, 2))
    return (
        pixel_auroc(maps, masks),
        pixel_average_precision(maps, masks),
        image_auroc(peaks, labels),
        float((peaks[~labels] > 1).mean()),
        float((peaks[labels] > 1).mean()),
    )


if __name__ == "__main__":
    sys.exit(main())
