"""How the classifiers of the classification accuracy score are made: recipes, networks, augmentation, training.

A training depends on its images, their labels, the recipe and the seed alone: initial weights, order and augmentation
come from generators of its own, and the arithmetic is set here and not by the program around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from genbench.arithmetic import float32
from genbench.arrays import Images, Samples
from genbench.errors import GenbenchError, UsageError, nearest
from genbench.ranks import rank as number_of_process
from genbench.resize import centre_crop, resize_shorter


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a classifier is trained: stochastic gradient descent with momentum 0.9 and weight decay 1e-4.

    Attributes:
        epochs: passes over the training images.
        least: images to see in all at least, so that few images do not mean little training.
        batch_size: images a step.
        rate: learning rate at 256 images a step; that of another batch size B is rate * B / 256.
        drops: shares of the training after which the rate is divided by ten; without any it falls as half a cosine.
        crops: "shift" moves an image by up to 4 pixels a side, what comes in is mid-grey (He et al. 2016 sec. 4.2);
            "area" cuts out 8 to 100 % of the area at a ratio of 3:4 to 4:3 (Szegedy et al. 2015), and tests on the
            middle 7/8 of the shorter side.
        flip: whether half of the training images are mirrored, left to right.
    """

    epochs: int
    least: int = 0
    batch_size: int
    rate: float
    drops: tuple[float, ...] = ()
    crops: str
    flip: bool

    def steps(self, count: int) -> int:
        """Number of steps of the training on so many images."""
        return math.ceil(max(self.epochs * count, self.least) / self.batch_size)

    def rate_at(self, progress: float) -> float:
        """The learning rate after a share of the training, in [0, 1)."""
        highest = self.rate * self.batch_size / 256
        if not self.drops:
            return highest * (0.5 + 0.5 * math.cos(math.pi * progress))
        return highest * 0.1 ** sum(progress >= drop for drop in self.drops)


RECIPES = {
    "compact-cas": Recipe(epochs=20, least=51_200, batch_size=128, rate=0.1, crops="shift", flip=False),
    # 64,000 steps of 128 images at rate 0.1, which is 164 passes over 50,000; a tenth after 32,000 and 48,000.
    "resnet56": Recipe(epochs=164, batch_size=128, rate=0.2, drops=(0.5, 0.75), crops="shift", flip=True),
    "resnet50": Recipe(epochs=90, batch_size=256, rate=0.1, drops=(1 / 3, 2 / 3, 8 / 9), crops="area", flip=True),
}

_SHIFT = 4
_IN_MEMORY = 8 << 30  # bytes of training images; more are read one by one
_BLOCK = 250


def architecture_for(name: str, count: int, side: int) -> str:
    """The name of a recipe, and what "auto" means for so many training images of a longer side of so many pixels.

    Raises:
        UsageError: an unknown name.
    """
    if name == "auto":
        if side > 32:
            return "resnet50"
        return "compact-cas" if count < 20_000 else "resnet56"
    if name not in RECIPES:
        raise UsageError(f"cas has no architecture {name!r}. {nearest(name, ['auto', *RECIPES])}")
    return name


class _Compact(nn.Module):
    """Four convolutions, 0.13 M parameters, for images of any size that are as easy to tell apart as `shapes`."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for out, stride in ((32, 2), (64, 2), (64, 1), (128, 2)):
            layers += [nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        self.layers = nn.Sequential(*layers)
        self.classify = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.layers(x).mean(dim=(2, 3)))


class _Block(nn.Module):
    """Two convolutions beside a shortcut without parameters: every other pixel, new channels zero."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.stride, self.more = stride, out - channels

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
        return F.relu(h + shortcut)


class _ResNet56(nn.Module):
    """The residual network of CIFAR-10 with 9 blocks at each of 16, 32 and 64 channels, 0.85 M parameters.

    Source: He et al. 2016 sec. 4.2, with shortcuts of their kind A.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        blocks, width = [], 16
        for out in (16, 32, 64):
            for _ in range(9):
                blocks.append(_Block(width, out, 1 if out == width else 2))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.classify = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.blocks(F.relu(self.norm(self.conv(x)))).mean(dim=(2, 3)))


def network(architecture: str, channels: int, classes: int, seed: int) -> nn.Module:
    """An untrained classifier: float32 (b, channels, h, w) in [-1, 1] to logits (b, classes).

    Args:
        architecture: one of `RECIPES`.
        seed: of the initial weights. torch's global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if architecture == "resnet50":
            from torchvision.models import resnet50

            made: nn.Module = resnet50(num_classes=classes)
            if channels != 3:
                made.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
            return made
        made = _Compact(channels, classes) if architecture == "compact-cas" else _ResNet56(channels, classes)
        for module in made.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return made


@contextmanager
def arithmetic() -> Iterator[None]:
    """Gradients on, and the arithmetic of training: TensorFloat-32 on CUDA, where float32 proper would cost several
    times the time for no accuracy."""
    with float32(on_cuda="tf32"), torch.inference_mode(False), torch.enable_grad():
        yield


def _scaled(images: Tensor) -> Tensor:
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _side(images: Tensor) -> int:
    """Pixels a side that the network sees of images under "area", such as 224 of 256 and 112 of 128."""
    return min(224, min(images.shape[2:]) * 7 // 8)


def _shifted(images: Tensor, rng: np.random.Generator) -> Tensor:
    count, _, height, width = images.shape
    # 127.5 is the 0 of the network's scale, and lies between two 8-bit values.
    padded = F.pad(images.float(), [_SHIFT] * 4, value=127.5).permute(0, 2, 3, 1)
    down, right = torch.from_numpy(rng.integers(0, 2 * _SHIFT + 1, size=(2, count, 1))).to(images.device)
    rows, columns = (torch.arange(size, device=images.device) for size in (height, width))
    image = torch.arange(count, device=images.device)[:, None, None]
    return padded[image, (down + rows)[:, :, None], (right + columns)[:, None, :]].permute(0, 3, 1, 2)


def _areas(images: Tensor, rng: np.random.Generator) -> Tensor:
    side, (height, width) = _side(images), images.shape[2:]
    cut = []
    for image in images.float():
        h = w = min(height, width)
        for _ in range(10):
            area, ratio = rng.uniform(0.08, 1) * height * width, math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < high <= height:
                h, w = high, wide
                break
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        piece = image[None, :, top : top + h, left : left + w]
        cut.append(F.interpolate(piece, (side, side), mode="bilinear", antialias=True))
    return torch.cat(cut)


def _augmented(images: Tensor, recipe: Recipe, rng: np.random.Generator) -> Tensor:
    """Randomly cropped and mirrored copies of uint8 images, scaled to [-1, 1]."""
    x = _shifted(images, rng) if recipe.crops == "shift" else _areas(images, rng)
    if recipe.flip:
        mirrored = torch.from_numpy(rng.random(len(x)) < 0.5).to(x.device)
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    return _scaled(x)


def _tested(images: Tensor, recipe: Recipe) -> Tensor:
    """What the network is tested on, scaled to [-1, 1]."""
    if recipe.crops == "area":
        side = _side(images)
        images = centre_crop(resize_shorter(images, round(side * 8 / 7), "pil-bilinear"), side)
    return _scaled(images)


def _reader(samples: Samples) -> Callable[[NDArray[np.int64]], Images]:
    """A function of indices to images; from memory where they fit."""
    if samples.count * math.prod(samples.shape) <= _IN_MEMORY:
        images = np.concatenate(list(samples.batches(1024)))
        return lambda chosen: images[chosen]
    return lambda chosen: np.concatenate([samples.read(int(i), int(i) + 1) for i in chosen])


def train(
    classifier: nn.Module,
    samples: Samples,
    labels: NDArray[np.int64],
    recipe: Recipe,
    *,
    seed: int,
    device: str,
    advance: Callable[[int], None] = lambda done: None,
) -> None:
    """Trains a classifier in place, on the device where it is.

    Args:
        recipe: of at most as many images a step as there are.
        advance: called with 0 after every step.

    Raises:
        GenbenchError: the loss is not finite.
    """
    read, rng = _reader(samples), np.random.default_rng(seed)
    optimiser = torch.optim.SGD(classifier.parameters(), lr=0.0, momentum=0.9, weight_decay=1e-4)
    targets, steps = torch.from_numpy(labels).to(device), recipe.steps(samples.count)
    waiting = np.empty(0, dtype=np.int64)
    classifier.train()
    told = f"classifier on {samples.count:,} images"
    bar = tqdm(range(steps), desc=told, unit="step", disable=True if number_of_process() else None, leave=False)
    for step in bar:
        if len(waiting) < recipe.batch_size:
            # Batches run on from one pass into the next, so that none is smaller and batch statistics stay alike.
            waiting = np.concatenate([waiting, rng.permutation(samples.count)])
        chosen, waiting = waiting[: recipe.batch_size], waiting[recipe.batch_size :]
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate_at(step / steps)
        x = _augmented(torch.from_numpy(read(chosen)).to(device), recipe, rng)
        value = F.cross_entropy(classifier(x), targets[torch.from_numpy(chosen).to(device)])
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        advance(0)
        if step % 100 == 99 or step == steps - 1:
            loss = float(value.detach())
            if not math.isfinite(loss):
                raise GenbenchError(f"The classifier of cas diverged at step {step + 1}; give a smaller batch_size.")
            bar.set_postfix(loss=f"{loss:.3f}")


@torch.no_grad()
def ranks(
    classifier: nn.Module, samples: Samples, labels: NDArray[np.int64], recipe: Recipe, *, device: str
) -> NDArray[np.int64]:
    """How many classes a classifier, on the device, thinks more probable than the right one: int64 (n,), 0 if none."""
    classifier.eval()
    found, start = [], 0
    for images in samples.batches(_BLOCK):
        logits = classifier(_tested(torch.from_numpy(images).to(device), recipe))
        right = logits.gather(1, torch.from_numpy(labels[start : start + len(images)]).to(device)[:, None])
        # Ties count against the network, and so do values that are no numbers: it knows nothing then.
        found.append(((~(logits < right)).sum(dim=1) - 1).cpu().numpy())
        start += len(images)
    return np.concatenate(found)
