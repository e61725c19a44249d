"""The Inception network of 2015-12-05, on which FID, KID, IS, sFID and ADM's precision and recall are defined.

It differs from torchvision's `inception_v3` in three ways that all move FID: the average pooling of the pool branches
leaves the padding out of the mean, the last block pools by the maximum, and there are 1008 classes, of which 1..1000
are those of ImageNet. Parameters carry the names of the public files.

Source: Szegedy et al. 2016 (arXiv:1512.00567) fig. 5-7 and 10; the graph `inception-2015-12-05`, as ported by
pytorch-fid and torch-fidelity, with whose networks this agrees (`tests/parity`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genbench.extractors.inference import fold

SIDE = 299
CLASSES = 1008
POOLED = 2048
SPATIAL_CHANNELS = 7
_EPSILON = 1e-3

Kernel = int | tuple[int, int]


@dataclass(frozen=True, slots=True)
class Unit:
    """A convolution without bias, its normalisation and a rectifier."""

    name: str
    channels: int
    kernel: Kernel = 1
    stride: int = 1
    padding: Kernel = 0


@dataclass(frozen=True, slots=True)
class Block:
    """Branches on one input, whose outputs are concatenated, that of the pool branch last.

    Attributes:
        branches: each a chain of stages. The units of one stage share their input and their outputs are concatenated.
        pool: how the pool branch pools 3x3: "average" and "maximum" keep the size and are followed by `projection`;
            "halving" is the maximum with stride 2, without a convolution.
    """

    branches: tuple[tuple[tuple[Unit, ...], ...], ...]
    pool: Literal["average", "maximum", "halving"]
    projection: Unit | None = None


def _chain(*units: Unit) -> tuple[tuple[Unit, ...], ...]:
    return tuple((unit,) for unit in units)


def _mixed_5(pool: int) -> Block:
    return Block(
        (
            _chain(Unit("branch1x1", 64)),
            _chain(Unit("branch5x5_1", 48), Unit("branch5x5_2", 64, 5, padding=2)),
            _chain(
                Unit("branch3x3dbl_1", 64),
                Unit("branch3x3dbl_2", 96, 3, padding=1),
                Unit("branch3x3dbl_3", 96, 3, padding=1),
            ),
        ),
        "average",
        Unit("branch_pool", pool),
    )


def _across(name: str, channels: int) -> Unit:
    return Unit(name, channels, (1, 7), padding=(0, 3))


def _down(name: str, channels: int) -> Unit:
    return Unit(name, channels, (7, 1), padding=(3, 0))


def _mixed_6(width: int) -> Block:
    return Block(
        (
            _chain(Unit("branch1x1", 192)),
            _chain(Unit("branch7x7_1", width), _across("branch7x7_2", width), _down("branch7x7_3", 192)),
            _chain(
                Unit("branch7x7dbl_1", width),
                _down("branch7x7dbl_2", width),
                _across("branch7x7dbl_3", width),
                _down("branch7x7dbl_4", width),
                _across("branch7x7dbl_5", 192),
            ),
        ),
        "average",
        Unit("branch_pool", 192),
    )


def _mixed_7(pool: Literal["average", "maximum"]) -> Block:
    def split(name: str) -> tuple[Unit, ...]:
        return (Unit(f"{name}a", 384, (1, 3), padding=(0, 1)), Unit(f"{name}b", 384, (3, 1), padding=(1, 0)))

    return Block(
        (
            _chain(Unit("branch1x1", 320)),
            ((Unit("branch3x3_1", 384),), split("branch3x3_2")),
            ((Unit("branch3x3dbl_1", 448),), (Unit("branch3x3dbl_2", 384, 3, padding=1),), split("branch3x3dbl_3")),
        ),
        pool,
        Unit("branch_pool", 192),
    )


_STEM: tuple[tuple[Unit, ...], ...] = (
    (
        Unit("Conv2d_1a_3x3", 32, 3, stride=2),
        Unit("Conv2d_2a_3x3", 32, 3),
        Unit("Conv2d_2b_3x3", 64, 3, padding=1),
    ),
    (Unit("Conv2d_3b_1x1", 80), Unit("Conv2d_4a_3x3", 192, 3)),
)
"""Two groups of units, each followed by maximum pooling 3x3 with stride 2."""

_BLOCKS: dict[str, Block] = {
    "Mixed_5b": _mixed_5(32),
    "Mixed_5c": _mixed_5(64),
    "Mixed_5d": _mixed_5(64),
    "Mixed_6a": Block(
        (
            _chain(Unit("branch3x3", 384, 3, stride=2)),
            _chain(
                Unit("branch3x3dbl_1", 64),
                Unit("branch3x3dbl_2", 96, 3, padding=1),
                Unit("branch3x3dbl_3", 96, 3, stride=2),
            ),
        ),
        "halving",
    ),
    "Mixed_6b": _mixed_6(128),
    "Mixed_6c": _mixed_6(160),
    "Mixed_6d": _mixed_6(160),
    "Mixed_6e": _mixed_6(192),
    "Mixed_7a": Block(
        (
            _chain(Unit("branch3x3_1", 192), Unit("branch3x3_2", 320, 3, stride=2)),
            _chain(
                Unit("branch7x7x3_1", 192),
                _across("branch7x7x3_2", 192),
                _down("branch7x7x3_3", 192),
                Unit("branch7x7x3_4", 192, 3, stride=2),
            ),
        ),
        "halving",
    ),
    "Mixed_7b": _mixed_7("average"),
    "Mixed_7c": _mixed_7("maximum"),
}

_STEM_ENDS = tuple(group[-1].name for group in _STEM)
_POOLED_AFTER = {_STEM_ENDS[0]: "pool64", _STEM_ENDS[1]: "pool192", "Mixed_6e": "pool768", "Mixed_7c": "pooled"}
WIDTHS = {
    "pooled": POOLED,
    "pool64": 64,
    "pool192": 192,
    "pool768": 768,
    "spatial": 17 * 17 * SPATIAL_CHANNELS,
    "logits": CLASSES,
    "logits_biased": CLASSES,
}


class _Unit(nn.Module):
    def __init__(self, inputs: int, unit: Unit) -> None:
        super().__init__()
        self.stride, self.padding = unit.stride, unit.padding
        self.conv = nn.Conv2d(inputs, unit.channels, unit.kernel, unit.stride, unit.padding, bias=False)
        self.bn = nn.BatchNorm2d(unit.channels, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Block(nn.Module):
    def __init__(self, inputs: int, block: Block) -> None:
        super().__init__()
        self.block, self.channels = block, 0
        self.projects_first = False
        for branch in block.branches:
            channels = inputs
            for stage in branch:
                for unit in stage:
                    self.add_module(unit.name, _Unit(channels, unit))
                channels = sum(unit.channels for unit in stage)
            self.channels += channels
        if block.projection is None:
            self.channels += inputs
        else:
            self.add_module(block.projection.name, _Unit(inputs, block.projection))
            self.channels += block.projection.channels

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.block.branches:
            y = x
            for stage in branch:
                parts = [self.get_submodule(unit.name)(y) for unit in stage]
                y = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
            outputs.append(y)
        if self.block.projection is None:
            return torch.cat([*outputs, _pool(x, self.block.pool)], 1)
        projection = self.get_submodule(self.block.projection.name)
        if self.projects_first:
            return torch.cat([*outputs, F.relu_(_pool(projection(x), self.block.pool))], 1)
        return torch.cat([*outputs, projection(_pool(x, self.block.pool))], 1)


def _pool(x: Tensor, how: str) -> Tensor:
    if how == "average":
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    if how == "maximum":
        return F.max_pool2d(x, 3, stride=1, padding=1)
    return F.max_pool2d(x, 3, stride=2)


class InceptionNetwork(nn.Module):
    """The network as it is defined: the slow reference, and the holder of the parameters."""

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        for group in _STEM:
            for unit in group:
                self.add_module(unit.name, _Unit(channels, unit))
                channels = unit.channels
        for name, block in _BLOCKS.items():
            module = _Block(channels, block)
            self.add_module(name, module)
            channels = module.channels
        self.fc = nn.Linear(POOLED, CLASSES)

    def forward(self, x: Tensor, taps: Iterable[str]) -> dict[str, Tensor]:
        """Runs the network as far as the last tap that was asked for.

        Args:
            x: float32 (b, 3, 299, 299), scaled.
            taps: of `WIDTHS`.

        Returns:
            At least the taps, float32 (b, width): "pool64", "pool192", "pool768" and "pooled" are means over the image
            after the two poolings of the stem, Mixed_6e and Mixed_7c; "spatial" is the first 7 channels of Mixed_6d, in
            (h, w, c) order; "logits" is the classifier without its bias, as the Inception score takes it, and
            "logits_biased" with it.
        """
        wanted, found = set(taps), dict[str, Tensor]()
        for name, stage in self.named_children():
            if stage is self.fc or wanted <= found.keys():
                break
            x = stage(x)
            if name in _STEM_ENDS:
                x = _pool(x, "halving")
            if name == "Mixed_6d" and "spatial" in wanted:
                # TensorFlow's mixed_6/conv is the 1x1 branch of this block, and its layout is channels last.
                found["spatial"] = x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
            if _POOLED_AFTER.get(name) in wanted or name == "Mixed_7c":
                found[_POOLED_AFTER[name]] = x.mean(dim=(2, 3))
        if not wanted <= found.keys():
            found["logits"] = F.linear(found["pooled"], self.fc.weight)
            found["logits_biased"] = found["logits"] + self.fc.bias
        return found


class _FoldedUnit(nn.Module):
    """A convolution with the normalisation in its weights, in the layout that is fastest: channels last."""

    weight: Tensor
    bias: Tensor

    def __init__(self, unit: _Unit, *, rectify: bool) -> None:
        super().__init__()
        weight, bias = fold(unit.conv.weight, unit.bn)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias)
        self.stride, self.padding, self.rectify = unit.stride, unit.padding, rectify

    def forward(self, x: Tensor) -> Tensor:
        if not self.rectify:
            return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        if x.device.type == "cpu" and _rectifies():
            return torch.ops.mkldnn._convolution_pointwise(
                x, self.weight, self.bias, _pair(self.padding), _pair(self.stride), (1, 1), 1, "relu", [], ""
            )
        return F.relu_(F.conv2d(x, self.weight, self.bias, self.stride, self.padding))


def _pair(size: Kernel) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


@cache
def _rectifies() -> bool:
    """Whether oneDNN's convolution with a rectifier can be called. It is a third faster than the two one after the
    other.

    The operator is what `torch.compile` emits and is not part of torch's public interface, hence the trial.
    """
    x = torch.ones(1, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    try:
        y = torch.ops.mkldnn._convolution_pointwise(
            x, -x, torch.tensor([1.0]), (0, 0), (1, 1), (1, 1), 1, "relu", [], ""
        )
    except (AttributeError, RuntimeError, TypeError):
        return False
    return bool((y == 0).all())


def folded(network: InceptionNetwork) -> InceptionNetwork:
    """The same network, changed in place, for images in the channels-last layout; agrees to 1e-5 relative or better."""
    averaged = set()
    for name, module in network.named_children():
        if isinstance(module, _Block) and module.block.pool == "average" and module.block.projection is not None:
            # A mean commutes with a convolution of one pixel, and after that there are fewer channels.
            module.projects_first = True
            averaged.add(f"{name}.{module.block.projection.name}")
    for name, module in list(network.named_modules()):
        if isinstance(module, _Unit):
            network.set_submodule(name, _FoldedUnit(module, rectify=name not in averaged))
    return network
