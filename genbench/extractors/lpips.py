"""`lpips`: feature maps whose squared distance is LPIPS, the perceptual distance of two images.

Every position's channels are scaled to length 1, multiplied by the root of their learned weight, and divided by the
root of the number of positions: the squared Euclidean distance of two such vectors is the published sum over layers.
The maps of an image are larger than the image, so that pairs are compared as they come and only their distances are
kept. The learned weights, of a few kilobytes, are shipped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from genbench.contracts import Extractor
from genbench.errors import InputRejected, NotComparable, UsageError
from genbench.extractors.inference import blank, check, extractor
from genbench.weights import Card, State, load_into, load_state, resolve, sha256

VERSION = 1
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and deviation of the channels of images in [-1, 1], as the published weights were trained."""

_CUTS = {"alex": (2, 5, 8, 10, 12), "vgg": (4, 9, 16, 23, 30), "squeeze": (2, 5, 8, 10, 11, 12, 13)}
"""Where the network's layers are cut: a map is what comes out of the layer before."""
_SMALLEST = {"alex": 31, "vgg": 16, "squeeze": 17}
"""Pixels a side below which nothing is left for the last map."""
_NETWORKS = {
    "alex": ("alexnet", "alexnet-owt-7be5be79.pth", "7be5be79"),
    "vgg": ("vgg16", "vgg16-397923af.pth", "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"),
    "squeeze": ("squeezenet1_1", "squeezenet1_1-b8a52dc0.pth", "b8a52dc0"),
}
_LINEAR = {
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    "squeeze": "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
}
"""SHA-256 of `lpips/weights/v0.1/NETWORK.pth` of richzhang/PerceptualSimilarity."""


def card(network: str = "alex") -> Card:
    """Returns the card of torchvision's network, whose feature maps LPIPS compares.

    Raises:
        UsageError: an unknown network.
    """
    if network not in _NETWORKS:
        raise UsageError(f"lpips has the networks {', '.join(_NETWORKS)}; got {network!r}.")
    name, file, digest = _NETWORKS[network]
    return Card(
        name="lpips",
        file=file,
        url=f"https://download.pytorch.org/models/{file}",
        sha256=digest,
        licence="BSD-3-Clause",
        note=f"torchvision's {name}, IMAGENET1K_V1",
        fetch=f"lpips(network={network!r})",
    )


def linear_card(network: str) -> Card:
    """Returns the card of the learned weights of the channels, which are shipped."""
    return Card(
        name="lpips",
        file=f"lpips-{network}.pth",
        sha256=_LINEAR[network],
        licence="BSD-2-Clause",
        url=f"https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/{network}.pth",
        note="Zhang et al. 2018; notice in lpips.LICENSE beside it",
        fetch=f"lpips(network={network!r})",
    )


def load(
    *,
    device: str = "cpu",
    precision: str = "float32",
    weights: Path | None = None,
    network: str = "alex",
    size: int = 0,
) -> Extractor:
    """Loads the network.

    Args:
        precision: "float32" is channels last, "exact" is the plain network.
        weights: a state dict of the network with torchvision's names, to which the shipped weights of channels are
            added; or one of the whole of the package `lpips` (`net.slice1.0.weight`, ..., `lin0.model.1.weight`, ...).
        network: "alex" (AlexNet, what the authors evaluate with), "vgg" or "squeeze".
        size: side to which images are brought first, by the mean of areas or bilinearly (torch-fidelity takes 64),
            0 leaves them as they are, as the package `lpips` does.

    Returns:
        Of pairs, the tap "lpips", their distance (1). Of images, the tap "perceptual", the vectors. Its width, which
        `widths` gives for `size` (0 where that is 0), grows with the images: 128 KiB an image of 64x64 on "alex", 2 MiB
        on "vgg", 16 times as much at 256x256.

    Raises:
        UsageError, MissingAsset, InputRejected: of the arguments and the weights. Images that are too small.

    Source:
        Zhang et al. 2018 (arXiv:1801.03924) eq. 1; agrees with richzhang/PerceptualSimilarity 0.1 and with torchmetrics
        1.9, which keeps positions of length 0 from dividing by it with another constant (`tests/parity`).
    """
    published = card(network)
    check(precision)
    if size and size < _SMALLEST[network]:
        raise UsageError(f"lpips(network={network!r}) needs a size of at least {_SMALLEST[network]}; got {size}.")
    path = resolve(published, given=weights)
    backbone, linear = parts(load_state(path), origin=str(path))
    if linear is None:
        linear = linear_weights(load_state(resolve(linear_card(network))))
    import torchvision

    maps_of = blank(lambda: _Features(getattr(torchvision.models, _NETWORKS[network][0])().features))
    load_into(maps_of, backbone, origin=str(path))
    layout = torch.channels_last if precision == "float32" else torch.contiguous_format
    maps_of = maps_of.to(device).to(memory_format=layout)
    weighted = [w.to(device) for w in linear]
    shift, scale = (torch.tensor(v, device=device)[:, None, None] for v in (SHIFT, SCALE))

    def forward(images: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        if "lpips" in taps:
            raise UsageError("The tap 'lpips' is of pairs of images; that of images is 'perceptual'.")
        if min(images.shape[2:]) < _SMALLEST[network]:
            raise InputRejected(
                f"lpips(network={network!r}) needs images of at least {_SMALLEST[network]} pixels a side; "
                f"got {tuple(images.shape[2:])}. Give a size, such as lpips(size=64)."
            )
        x = images.float() if not size else _brought_to(images.float(), size)
        x = ((x / 127.5 - 1) - shift) / scale
        return {"perceptual": perceptual_vectors(maps_of.maps(x.contiguous(memory_format=layout), network), weighted)}

    width = 0
    if size:
        with torch.device("meta"):
            like = _Features(getattr(torchvision.models, _NETWORKS[network][0])().features)
            width = sum(m[0].numel() for m in like.maps(torch.empty(1, 3, size, size), network))
    learned = [[float(value) for value in w] for w in linear]
    made = extractor(
        "lpips",
        VERSION,
        weights=sha256(path),
        precision=precision,
        args={"network": network, "size": size, "linear": learned},
        widths={"perceptual": width, "lpips": 1},
        forward=forward,
        device=device,
        block=16 if network == "alex" else 8,
    )

    def compare(generated: Tensor, reference: Tensor, taps: Sequence[str]) -> Mapping[str, Tensor]:
        if not size and generated.shape != reference.shape:
            raise NotComparable(
                f"lpips compares images of one size; got {tuple(generated.shape[1:])} and "
                f"{tuple(reference.shape[1:])}. Give a size, such as lpips(size=64)."
            )
        x, y = (made.embed(images, ["perceptual"])["perceptual"] for images in (generated, reference))
        # Pair by pair, because float64 of all maps of a block would be twice as much again.
        return {"lpips": torch.stack([_squared_distance(a, b) for a, b in zip(x, y, strict=True)])[:, None]}

    return replace(made, compare=compare)


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    if a.device.type == "mps":  # which has no float64
        a, b = a.cpu(), b.cpu()
    return (a.double() - b.double()).square().sum().float()


def _brought_to(x: Tensor, size: int) -> Tensor:
    if min(x.shape[2:]) > size:
        return functional.interpolate(x, (size, size), mode="area")
    return functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)


class _Features(nn.Module):
    """The convolutional part of one of torchvision's networks."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def maps(self, x: Tensor, network: str) -> list[Tensor]:
        """The maps that LPIPS compares, float32 (n, c, h, w) each."""
        found, start = [], 0
        layers = list(self.features.children())
        for cut in _CUTS[network]:
            for layer in layers[start:cut]:
                # A rectifier in place would change the map before it, which is kept.
                x = torch.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
            found.append(x)
            start = cut
        return found


def perceptual_vectors(maps: Sequence[Tensor], linear: Sequence[Tensor]) -> Tensor:
    """One vector an image, whose squared distances are LPIPS.

    Args:
        maps: one a layer, float (n, c_l, h_l, w_l).
        linear: one vector a layer, (c_l,), not negative.

    Returns:
        (n, sum of c_l h_l w_l).

    Raises:
        InputRejected: numbers of layers or channels that do not fit.
    """
    if [m.shape[1] for m in maps] != [len(w) for w in linear]:
        raise InputRejected(
            f"LPIPS has weights of {[len(w) for w in linear]} channels for maps of {[m.shape[1] for m in maps]}."
        )
    vectors = []
    for values, weights in zip(maps, linear, strict=True):
        lengths = values.square().sum(1, keepdim=True).sqrt() + 1e-10
        factors = (weights.to(values) / (values.shape[2] * values.shape[3])).sqrt()
        vectors.append((values / lengths * factors[:, None, None]).flatten(1))
    return torch.cat(vectors, dim=1)


_LIN = re.compile(r"lin(\d+)\.model\.\d+\.weight")
_SLICE = re.compile(r"net\.(?:slice|slices\.)\d+\.(.+)")
"""torchmetrics keeps the slices of SqueezeNet in a list."""


def parts(state: State, *, origin: str = "The state dict") -> tuple[dict[str, Tensor], list[Tensor] | None]:
    """The network, with torchvision's names, and the weights of channels, None where the file has none.

    Raises:
        InputRejected: neither torchvision's names nor those of the package `lpips`.
    """
    sliced = {f"features.{match[1]}": value for name, value in state.items() if (match := _SLICE.fullmatch(name))}
    if sliced:
        return sliced, linear_weights({name: value for name, value in state.items() if _LIN.fullmatch(name)})
    own = {name: value for name, value in state.items() if name.startswith("features.")}
    if not own:
        raise InputRejected(
            f"{origin} is neither a network of torchvision (features.0.weight ...) nor a state dict of the package "
            f"lpips (net.slice1.0.weight ...); found {', '.join(list(state)[:5])}."
        )
    return own, None


def linear_weights(state: State) -> list[Tensor]:
    """The weights of channels of a published LPIPS file (`lpips/weights/v0.1/{alex,vgg,squeeze}.pth`).

    Args:
        state: `lin0.model.1.weight` (1, c, 1, 1) and so on.

    Returns:
        One float32 (c,) a layer, in order.

    Raises:
        InputRejected: other contents, or a negative weight, of which there is no root.
    """
    found = {int(match[1]): value for name, value in state.items() if (match := _LIN.fullmatch(name))}
    whole = len(found) == len(state) > 0 and sorted(found) == list(range(len(found)))
    if not whole or any(v.ndim != 4 or v.shape != (1, v.numel(), 1, 1) for v in found.values()):
        raise InputRejected(
            "LPIPS weights are lin0.model.1.weight (1, c, 1, 1), lin1.model.1.weight and so on; found "
            f"{', '.join(list(state)[:10]) or 'nothing'}."
        )
    if any(float(v.min()) < 0 for v in found.values()):
        raise InputRejected("LPIPS weights are not negative; these are, and no distance comes of them.")
    return [found[i].detach().float().reshape(-1) for i in range(len(found))]
