"""Trains the networks of the diffusion models that the project ships, on `shapes`, into `baselines/weights`.

    python -m scripts.train_baselines pixel         # class-conditional, with label dropout and a learned variance
    python -m scripts.train_baselines classifier    # of noisy images
    python -m scripts.train_baselines autoencoder   # the first stage of latent diffusion
    python -m scripts.train_baselines latent        # its second stage, conditional on captions; needs the first
    python -m scripts.train_baselines equilibrium   # the multi-scale network of the first diffusion models
    python -m scripts.train_baselines subspace      # of images of half the side, for subspace diffusion
    python -m scripts.train_baselines patch-4       # of blocks of 4 x 4 pixels, to compare with patch-2 and patch-1
    python -m scripts.train_baselines vdm           # a variational diffusion model, from the weights of pixel
    python -m scripts.train_baselines cld           # critically-damped Langevin diffusion, likewise
    python -m scripts.train_baselines vlb           # the network of pixel, trained on by the variational bound alone

The first serves DDPM, DDIM and classifier-free guidance, and with the second ADM-G. Interrupted, the same command
continues from its checkpoint. Losses, a sample sheet per stop and the checkpoint go to --work.

    python -m scripts.train_baselines pixel --config ddpm-cifar10 --data PATH --steps 800000 --rate 2e-4 --decay none
        --warmup 5000 --average 0.9999 --precision float32

trains a published architecture, or that of a file of arguments, on images of one's own, of its size: a folder, a zip or
an npz, whose subfolders are classes where the architecture has classes. These are the settings of DDPM's paper.
Weights and card are written to --work, and `ddim(weights='PATH')` samples them.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from baselines import schedules
from baselines.damped import CriticallyDamped, hybrid_score_matching
from baselines.denoisers import denoiser
from baselines.equilibrium import divergence, equilibrium_loss, outside
from baselines.files import catalogue, text
from baselines.files.arguments import architecture, training
from baselines.guidance import classifier_free
from baselines.importance import Resampled, SecondMoment, bound_loss
from baselines.networks.autoencoder import AutoencoderConfig, AutoencoderKL, posterior
from baselines.networks.classifier import Classifier, ClassifierConfig
from baselines.networks.latent import TextUNet, TextUNetConfig
from baselines.networks.multiscale import MultiScale, MultiScaleConfig
from baselines.networks.transformer import TextEncoderConfig
from baselines.networks.unet import UNet, UNetConfig, zero_outputs
from baselines.networks.variational import VariationalConfig, VariationalNetwork
from baselines.noise import image_noise
from baselines.sampling import sample
from baselines.steps import ddim
from baselines.subspace import down, spread_of
from baselines.training import Loss, Recipe, classification_loss, diffusion_loss, first_stage_loss, fit
from baselines.variational import variational_loss
from genbench.arrays import Samples
from genbench.datasets import shapes
from genbench.generation import quantise
from genbench.images import open_images
from scripts.cards import write_card

HOME = Path(__file__).resolve().parent.parent / "baselines" / "weights"

PIXEL = UNetConfig(
    width=64,
    multipliers=(1, 1.25, 1),
    blocks=1,
    attention=(2, 4),
    heads=4,
    groups=16,
    out_channels=6,
    classes=len(shapes.CLASSES) + 1,
    patch=2,
)
PROCESS: dict[str, Any] = {
    "schedule": "cosine",
    "steps": 1000,
    "kind": "v",
    "learned_variance": True,
    "null_label": len(shapes.CLASSES),
}
SHAPE = (3, shapes.SIDE, shapes.SIDE)
BETA = schedules.betas(PROCESS["schedule"], PROCESS["steps"])
CLASSIFIER = ClassifierConfig(
    trunk=UNetConfig(width=32, multipliers=(1, 1, 2, 2), blocks=1, attention=(4,), heads=2, groups=16),
    classes=len(shapes.CLASSES),
    image_size=shapes.SIDE,
)
AUTOENCODER = AutoencoderConfig(width=32, multipliers=(1, 2, 2), blocks=1, groups=8)
WORDS = text.vocabulary(shapes.caption(shapes.factors("train", np.arange(2000))))
SUBSPACE = UNetConfig(
    width=48,
    multipliers=(1, 1.25, 1),
    blocks=1,
    attention=(2, 4),
    heads=4,
    groups=12,
    classes=len(shapes.CLASSES),
)
SUBSPACE_PROCESS: dict[str, Any] = {"schedule": "cosine", "steps": 1000, "kind": "v", "learned_variance": False}
PATCHES = {1: (4,), 2: (2, 4), 4: (1, 2)}
"""Side of the blocks of pixels to the factors of downsampling with attention: everywhere maps of 8 x 8 and 4 x 4."""
LATENT = TextUNetConfig(
    unet=UNetConfig(
        in_channels=4,
        out_channels=4,
        width=64,
        multipliers=(1, 1.25),
        blocks=1,
        attention=(2,),
        heads=4,
        groups=16,
        embedding_order="cos_sin",
        context=64,
    ),
    text=TextEncoderConfig(
        vocabulary=text.RESERVED + len(WORDS), length=12, width=64, layers=2, heads=2, head_width=32
    ),
)
LATENT_PROCESS: dict[str, Any] = {"schedule": "cosine", "steps": 1000, "kind": "v", "learned_variance": False}
BRIEF, EMPTY = 0.15, 0.10
"""Shares of the images whose caption is only that of their class, such as "a star", and is nothing."""


def batch(step: int, size: int) -> dict[str, torch.Tensor]:
    """New images every step: the train split does not end."""
    f = shapes.factors("train", np.arange(step * size, (step + 1) * size))
    return {"x0": pixels(f), "y": torch.from_numpy(f.label)}


def pixels(f: shapes.Factors) -> torch.Tensor:
    """Images in [-1, 1]."""
    images = torch.from_numpy(shapes.draw(f)).float() / 127.5 - 1
    return images.to(memory_format=torch.channels_last)


def picture(images: torch.Tensor, columns: int, path: Path) -> None:
    """Writes images in [-1, 1], row by row."""
    rows = quantise(images, "round").unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    Image.fromarray(rows.numpy()).save(path)


def pixel_sheet(network: torch.nn.Module, path: Path) -> None:
    """A picture of 8 samples of every class by 50 steps of DDIM."""
    network.eval()
    grid = schedules.discrete_grid(BETA, schedules.subsequence(50, len(BETA), "uniform"))
    noise = image_noise(torch.arange(80))
    x = noise(0, torch.empty(80, 3, shapes.SIDE, shapes.SIDE)).to(memory_format=torch.channels_last)
    predict = denoiser(network, PROCESS["kind"], learned_variance=True)
    condition = {"y": torch.arange(len(shapes.CLASSES)).repeat_interleave(8)}
    picture(sample(predict, ddim(), grid, x, noise, condition), 8, path)


def subspace_batch(step: int, size: int) -> dict[str, torch.Tensor]:
    """New images every step, in the subspace of sums of 2 x 2 pixels; (size, 3, 16, 16) in [-2, 2]."""
    whole = batch(step, size)
    return whole | {"x0": down(whole["x0"])}


def subspace_sheet(network: torch.nn.Module, path: Path) -> None:
    """A picture of 8 small samples of every class by 50 steps of DDIM."""
    network.eval()
    grid = schedules.discrete_grid(BETA, schedules.subsequence(50, len(BETA), "uniform"))
    noise = image_noise(torch.arange(80))
    x = noise(0, torch.empty(80, 3, shapes.SIDE // 2, shapes.SIDE // 2)).to(memory_format=torch.channels_last)
    condition = {"y": torch.arange(len(shapes.CLASSES)).repeat_interleave(8)}
    found = sample(denoiser(network, SUBSPACE_PROCESS["kind"]), ddim(), grid, x, noise, condition)
    picture(found / 2, 8, path)


@torch.no_grad()
def reconstruction_sheet(network: torch.nn.Module, path: Path) -> None:
    """A picture of test images and, below each row, what the autoencoder makes of them."""
    network.eval()
    x = pixels(shapes.factors("test", np.arange(32)))
    both = torch.stack([x.unflatten(0, (4, 8)), network(x).unflatten(0, (4, 8))], dim=1)
    picture(both.flatten(0, 2), 8, path)


@torch.no_grad()
def reconstruction_error(network: Any) -> dict[str, float]:
    """Peak signal-to-noise ratio, in decibels, of 1000 test images, and the standard deviation of their latents."""
    network.eval()
    x = pixels(shapes.factors("test", np.arange(1000)))
    error = (network(x).clamp(-1, 1) - x).square().mean(dim=(1, 2, 3)) / 4
    mean, std = posterior(network.encode(x))
    return {
        "psnr": round(float(-10 * error.log10().mean()), 3),
        "latent_std": round(float((mean.var() + std.square().mean()).sqrt()), 5),
    }


@torch.no_grad()
def classifier_accuracy(network: torch.nn.Module) -> dict[str, float]:
    """Accuracy on 1000 test images at four noise levels."""
    network.eval()
    f = shapes.factors("test", np.arange(1000))
    x0 = pixels(f)
    remaining = schedules.signal(BETA)
    found = {}
    for t in (0, 250, 500, 750):
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(t))
        x = float(remaining[t] ** 0.5) * x0 + float((1 - remaining[t]) ** 0.5) * eps
        logits = network(x, torch.full((len(x),), float(t)))
        found[f"accuracy_t{t}"] = round(float((logits.argmax(1) == torch.from_numpy(f.label)).float().mean()), 4)
    return found


def first_stage() -> tuple[AutoencoderKL, float]:
    """The shipped autoencoder and the factor that brings its latents to a standard deviation of 1."""
    network = AutoencoderKL(AUTOENCODER)
    network.load_state_dict({k: v.float() for k, v in load_file(HOME / "shapes-autoencoder.safetensors").items()})
    network.requires_grad_(requires_grad=False).eval().to(memory_format=torch.channels_last)
    return network, 1 / reconstruction_error(network)["latent_std"]


def brief(label: int) -> str:
    """The caption that says no more than the class."""
    return shapes.SHAPES.prompt.format(shapes.CLASSES[label])


@torch.no_grad()
def latent_batch(step: int, size: int, *, network: AutoencoderKL, scale: float) -> dict[str, torch.Tensor]:
    """Latents of new images, and the tokens of their captions; some captions are brief and some empty."""
    f = shapes.factors("train", np.arange(step * size, (step + 1) * size))
    random = np.random.default_rng([step, 1])
    share = random.random(size)
    captions = shapes.caption(f)
    captions = [
        "" if u < EMPTY else brief(label) if u < EMPTY + BRIEF else caption
        for u, label, caption in zip(share, f.label, captions, strict=True)
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moments = network.encode(pixels(f))
    mean, std = posterior(moments.float())
    z = mean + std * torch.from_numpy(random.standard_normal(mean.shape, dtype=np.float32))
    return {"x0": scale * z, "tokens": text.tokenize(captions, WORDS, LATENT.text.length)}


def latent_sheet(network: torch.nn.Module, path: Path, *, decode: AutoencoderKL, scale: float) -> None:
    """A picture of samples of 64 test captions by 50 guided steps of DDIM, in the order of their classes."""
    network.eval()
    f = shapes.factors("test", np.arange(64))
    captions = sorted(shapes.caption(f), key=lambda c: c.split()[3])
    beta = schedules.betas(LATENT_PROCESS["schedule"], LATENT_PROCESS["steps"])
    grid = schedules.discrete_grid(beta, schedules.subsequence(50, len(beta), "uniform"))
    noise = image_noise(torch.arange(64))
    side = shapes.SIDE // 4
    tokens = partial(text.tokenize, known=WORDS, length=LATENT.text.length)
    predict = classifier_free(denoiser(network, LATENT_PROCESS["kind"]), scale=2.0, null={"tokens": tokens([""])})
    z = sample(predict, ddim(), grid, noise(0, torch.empty(64, 4, side, side)), noise, {"tokens": tokens(captions)})
    with torch.no_grad():
        picture(decode.decode(z / scale), 8, path)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One network to train: how it is made, what it minimises, and what its card says.

    `kept` gives the part of what is trained that is written; `ships` says whether it goes into the package, and not
    beside the checkpoint; `learned` gives what training has made of the process.
    """

    make: Callable[[], torch.nn.Module]
    loss: Loss
    batch: Callable[[int, int], dict[str, torch.Tensor]] = batch
    summary: str
    card: Mapping[str, Any]
    report: Callable[[torch.nn.Module], dict[str, float]] = lambda network: {}
    picture: Callable[[torch.nn.Module, Path], None] | None = None
    data: Mapping[str, Any] | None = None
    kept: Callable[[Any], torch.nn.Module] = lambda network: network
    ships: bool = True
    learned: Callable[[torch.nn.Module], dict[str, float]] = lambda network: {}


def from_identity(network: torch.nn.Module) -> torch.nn.Module:
    """The network with every residual branch at zero."""
    zero_outputs(network)
    return network


@dataclasses.dataclass(frozen=True, slots=True)
class Pictures:
    """Images of a user, as batches: drawn with replacement and mirrored by chance, the same ones at step k whenever."""

    samples: Samples
    seed: int
    labelled: bool

    def __call__(self, step: int, size: int) -> dict[str, torch.Tensor]:
        random = np.random.default_rng([self.seed, step, 2])
        chosen, mirrored = random.integers(self.samples.count, size=size), random.random(size) < 0.5
        images = np.stack([self.samples.read(i, i + 1)[0] for i in chosen.tolist()])
        images = np.where(mirrored[:, None, None, None], images[..., ::-1], images)
        found = {"x0": (torch.from_numpy(images).float() / 127.5 - 1).to(memory_format=torch.channels_last)}
        if self.labelled and self.samples.labels is not None:
            found["y"] = torch.from_numpy(self.samples.labels[chosen])
        return found


def pixel_of_pictures(args: argparse.Namespace) -> Task:
    """A published architecture, or one's own in a file of arguments, on images of one's own, with the process named."""
    arguments = dict(catalogue.arguments_of(args.config))
    network, told = architecture(arguments).network, training(arguments)
    if not isinstance(network, UNetConfig) or network.in_channels != 3 or told is None or told.side is None:
        raise SystemExit(f"--config {args.config} is no U-Net of images of a known size.")
    samples, shape = open_images(args.data), (3, told.side, told.side)
    if samples.shape != shape:
        raise SystemExit(f"{args.data} has images of {samples.shape}; {args.config} is for {shape}.")
    classes, null = len(samples.classes) if network.classes is not None else 0, None
    if network.classes is not None and (samples.labels is None or classes > network.classes):
        raise SystemExit(f"{args.config} has {network.classes} classes; {args.data} has {len(samples.classes)}.")
    if args.drop:
        # The row behind those of the classes means none.
        if network.classes is None or classes == network.classes:
            raise SystemExit(
                f"--drop {args.drop} needs a row of the network for no class; {args.config} has {network.classes} rows "
                f"for {classes} classes. Use --drop 0, or name num_classes in a file of arguments."
            )
        null = classes
    process = told.process
    if not isinstance(process, schedules.Discrete):
        raise SystemExit(f"--config {args.config} is of a process without timesteps, which is not trained here.")
    of_card = dataclasses.asdict(process) | {
        "kind": told.kind, "learned_variance": told.learned_variance, "null_label": null
    }  # fmt: skip
    return Task(
        make=lambda: from_identity(UNet(network)),
        loss=diffusion_loss(
            process.beta,
            told.kind,
            learned_variance=told.learned_variance,
            null_label=null,
            drop=args.drop,
            told=process.told,
        ),
        batch=Pictures(samples, args.seed, network.classes is not None),
        summary=f"{Path(args.config).stem}, trained on images of a user",
        card={
            "kind": "unet",
            "network": dataclasses.asdict(network),
            "process": of_card,
            "shape": shape,
            "classes": classes,
        },
        data={"name": Path(args.data).name, "digest": samples.fingerprint(), "images": samples.count},
    )


def pixel(args: argparse.Namespace) -> Task:
    if args.data is not None:
        return pixel_of_pictures(args)
    return Task(
        make=lambda: from_identity(UNet(PIXEL)),
        loss=diffusion_loss(
            BETA, PROCESS["kind"], learned_variance=True, null_label=PROCESS["null_label"], drop=args.drop
        ),
        summary="class-conditional U-Net with label dropout and a learned variance",
        card={"kind": "unet", "network": dataclasses.asdict(PIXEL), "process": PROCESS, "shape": SHAPE},
        picture=pixel_sheet,
    )


@torch.no_grad()
def widened(network: UNet, *, head: bool) -> None:
    """Gives a network like the shipped one of pixels its weights; those of further inputs are zero.

    Args:
        head: whether the output is that of the shipped network, or zero.
    """
    known = load_file(HOME / "shapes-pixel.safetensors")
    for name, value in network.state_dict().items():
        if name == "encoder.0.0.weight":
            value.zero_()[:, : known[name].shape[1]] = known[name].float()
        elif name.startswith("head."):
            value.copy_(known[name][: len(value)].float() if head else torch.zeros_like(value))
        else:
            value.copy_(known[name].float())


def partly_labelled(step: int, size: int) -> dict[str, torch.Tensor]:
    """New images, a tenth of which have the label that means none."""
    found = batch(step, size)
    dropped = torch.from_numpy(np.random.default_rng([step, 4]).random(size) < 0.1)
    return found | {"y": torch.where(dropped, PROCESS["null_label"], found["y"])}


def cld(args: argparse.Namespace) -> Task:
    dynamics = CriticallyDamped()
    told = schedules.Discrete(schedule=PROCESS["schedule"], steps=PROCESS["steps"])
    network = dataclasses.replace(PIXEL, in_channels=6, out_channels=3)

    def make() -> UNet:
        made = UNet(network)
        widened(made, head=False)
        return made

    return Task(
        make=make,
        loss=hybrid_score_matching(dynamics, told, end=dynamics.time(told.lowest)),
        batch=partly_labelled,
        summary="U-Net that predicts the noise of velocities, for critically-damped Langevin diffusion",
        card={
            "kind": "unet",
            "network": dataclasses.asdict(network),
            "process": PROCESS | {"kind": "velocity", "learned_variance": False},
            "shape": SHAPE,
            "start": "shapes-pixel",
        },
    )


def vdm(args: argparse.Namespace) -> Task:
    network = VariationalConfig(unet=dataclasses.replace(PIXEL, in_channels=15, out_channels=3))

    def make() -> VariationalNetwork:
        made = VariationalNetwork(network)
        widened(made.denoiser.unet, head=True)
        return made

    return Task(
        make=make,
        loss=variational_loss("v"),
        batch=partly_labelled,
        summary="U-Net with Fourier features and its learned schedule, trained by the bound of a variational model",
        card={
            "kind": "variational",
            "network": dataclasses.asdict(network),
            "process": {"kind": "v", "null_label": PROCESS["null_label"]},
            "shape": SHAPE,
            "start": "shapes-pixel",
        },
        learned=ends_of,
    )


def vlb(args: argparse.Namespace) -> Task:
    def make() -> Resampled:
        network = UNet(PIXEL)
        network.load_state_dict({k: v.float() for k, v in load_file(HOME / "shapes-pixel.safetensors").items()})
        return Resampled(network, SecondMoment(PROCESS["steps"]))

    return Task(
        make=make,
        loss=bound_loss(BETA, PROCESS["kind"]),
        batch=partly_labelled,
        summary="class-conditional U-Net of pixels, trained on by the variational bound with importance sampling",
        card={
            "kind": "unet",
            "network": dataclasses.asdict(PIXEL),
            "process": PROCESS,
            "shape": SHAPE,
            "start": "shapes-pixel",
        },
        kept=lambda both: both.network,
        ships=False,
    )


def ends_of(network: Any) -> dict[str, float]:
    """gamma at times 0 and 1 after training."""
    low, high = network.schedule.ends.tolist()
    return {"low": round(low, 4), "high": round(high, 4)}


def classifier(args: argparse.Namespace) -> Task:
    return Task(
        make=lambda: Classifier(CLASSIFIER),
        loss=classification_loss(BETA),
        summary="classifier of noisy images with attention pooling",
        card={"kind": "classifier", "network": dataclasses.asdict(CLASSIFIER), "process": PROCESS},
        report=classifier_accuracy,
    )


def autoencoder(args: argparse.Namespace) -> Task:
    return Task(
        make=lambda: from_identity(AutoencoderKL(AUTOENCODER)),
        loss=first_stage_loss(args.divergence),
        summary="KL autoencoder, f = 4, the first stage of latent diffusion",
        card={"kind": "autoencoder", "network": dataclasses.asdict(AUTOENCODER)},
        report=reconstruction_error,
        picture=reconstruction_sheet,
    )


def subspace(args: argparse.Namespace) -> Task:
    return Task(
        make=lambda: from_identity(UNet(SUBSPACE)),
        loss=diffusion_loss(BETA, SUBSPACE_PROCESS["kind"], learned_variance=False, null_label=None),
        batch=subspace_batch,
        summary="class-conditional U-Net of sums of 2 x 2 pixels, the small network of subspace diffusion",
        card={
            "kind": "unet",
            "network": dataclasses.asdict(SUBSPACE),
            "process": SUBSPACE_PROCESS,
            "shape": (3, shapes.SIDE // 2, shapes.SIDE // 2),
            "classes": len(shapes.CLASSES),
            "spread": round(spread_of(pixels(shapes.factors("train", np.arange(2000)))), 5),
        },
        picture=subspace_sheet,
    )


def patched(args: argparse.Namespace, *, patch: int) -> Task:
    network = dataclasses.replace(
        PIXEL, patch=patch, attention=PATCHES[patch], out_channels=3, classes=len(shapes.CLASSES)
    )
    return Task(
        make=lambda: from_identity(UNet(network)),
        loss=diffusion_loss(BETA, SUBSPACE_PROCESS["kind"], learned_variance=False, null_label=None),
        summary=f"class-conditional U-Net of blocks of {patch} x {patch} pixels",
        card={
            "kind": "unet",
            "network": dataclasses.asdict(network),
            "process": SUBSPACE_PROCESS,
            "shape": SHAPE,
            "classes": len(shapes.CLASSES),
        },
        ships=False,
    )


EQUILIBRIUM = MultiScaleConfig()
EQUILIBRIUM_PROCESS: dict[str, Any] = {
    "schedule": "inverse", "steps": EQUILIBRIUM.steps, "kind": "eps", "learned_variance": True,
}  # fmt: skip
MOMENTS = (-0.277, 0.462)
"""Mean and standard deviation of the pixel values of `shapes`, in [-1, 1]."""


def dequantised_batch(step: int, size: int) -> dict[str, torch.Tensor]:
    """New images without labels, of continuous values, zero mean and unit variance."""
    f = shapes.factors("train", np.arange(step * size, (step + 1) * size))
    uniform = np.random.default_rng([step, 3]).random((size, *SHAPE), dtype=np.float32)
    mean, std = MOMENTS
    images = pixels(f) + (torch.from_numpy(uniform) - 0.5) / 127.5
    return {"x0": ((images - mean) / std).contiguous(memory_format=torch.channels_last)}


@torch.no_grad()
def equilibrium_bits(network: torch.nn.Module) -> dict[str, float]:
    """Upper bound of bits a pixel value, and how many fewer than of a normal distribution, of 100 test images."""
    beta = schedules.betas("inverse", EQUILIBRIUM.steps)
    x0 = dequantised_batch(0, 100)["x0"]
    generator, total = torch.Generator().manual_seed(0), 0.0
    for start in range(1, len(beta), 100):
        t = torch.arange(start, min(start + 100, len(beta)))
        eps = torch.randn(x0[: len(t)].shape, generator=generator)
        total += float(divergence(network, beta, x0[: len(t)], t, eps).sum())
    less = (total + outside(beta)) / math.log(2)
    cell = math.log2(127.5 * MOMENTS[1])  # of an 8-bit value, in standard deviations
    return {"bits": round(less + 0.5 * math.log2(2 * math.pi * math.e) + cell, 4), "bits_less_normal": round(less, 4)}


def equilibrium(args: argparse.Namespace) -> Task:
    return Task(
        make=lambda: MultiScale(EQUILIBRIUM),
        loss=equilibrium_loss(schedules.betas("inverse", EQUILIBRIUM.steps)),
        batch=dequantised_batch,
        summary="multi-scale network of the first diffusion models, without labels",
        card={
            "kind": "multiscale",
            "network": dataclasses.asdict(EQUILIBRIUM),
            "process": EQUILIBRIUM_PROCESS,
            "shape": SHAPE,
            "moments": MOMENTS,
        },
        report=equilibrium_bits,
    )


def latent(args: argparse.Namespace) -> Task:
    network, scale = first_stage()
    beta = schedules.betas(LATENT_PROCESS["schedule"], LATENT_PROCESS["steps"])
    return Task(
        make=lambda: from_identity(TextUNet(LATENT)),
        loss=diffusion_loss(beta, LATENT_PROCESS["kind"], learned_variance=False, null_label=None),
        batch=partial(latent_batch, network=network, scale=scale),
        summary="U-Net of latents and the text encoder it attends to, trained together with dropped captions",
        card={
            "kind": "text-unet",
            "network": dataclasses.asdict(LATENT),
            "process": LATENT_PROCESS,
            "shape": SHAPE,
            "vocabulary": WORDS,
            "class_captions": [brief(label) for label in range(len(shapes.CLASSES))],
            "first_stage": "shapes-autoencoder",
            "latent_scale": scale,
        },
        picture=partial(latent_sheet, decode=network, scale=scale),
    )


TASKS: dict[str, Callable[[argparse.Namespace], Task]] = {
    "pixel": pixel,
    "classifier": classifier,
    "autoencoder": autoencoder,
    "latent": latent,
    "equilibrium": equilibrium,
    "vdm": vdm,
    "cld": cld,
    "vlb": vlb,
    "subspace": subspace,
    **{f"patch-{patch}": partial(patched, patch=patch) for patch in PATCHES},
}


def train(name: str, args: argparse.Namespace) -> None:
    """Trains one network, or exports one whose training is complete."""
    task = TASKS[name](args)
    recipe = Recipe(
        steps=args.steps,
        batch_size=args.batch_size,
        rate=args.rate,
        decay=args.decay,
        warmup=args.warmup,
        average=args.average,
        seed=args.seed,
        bfloat16=args.precision == "bfloat16",
    )
    # What the weights depend on beside the recipe; a checkpoint of anything else is not continued.
    about = {"network": task.card["network"], "process": task.card.get("process"), "data": task.data or {}}
    about |= {"drop": args.drop, "divergence": args.divergence, "first_stage": task.card.get("latent_scale")}
    torch.manual_seed(args.seed)  # of the initial weights; everything else depends on (seed, step)
    network, average = (task.make().to(args.device).to(memory_format=torch.channels_last) for _ in range(2))
    args.work.mkdir(parents=True, exist_ok=True)
    started, measured, images = time.time(), {}, args.steps * args.batch_size
    if args.export:
        known = torch.load(args.work / f"{name}.pt", map_location=args.device, weights_only=True)
        average.load_state_dict(known["average"])
        measured, images = {"loss": round(known["loss"], 5), "step": known["step"]}, known["step"] * args.batch_size
    training = (
        ()
        if args.export
        else fit(
            network,
            average,
            task.loss,
            lambda step: task.batch(step, args.batch_size),
            recipe,
            checkpoint=args.work / f"{name}.pt",
            every=args.every,
            about=about,
        )
    )
    for state in training:
        measured = {"loss": round(state.loss, 5)}
        seconds = time.time() - started
        print(f"step {state.step:6d}  loss {state.loss:.5f}  {seconds:.0f} s", flush=True)
        with (args.work / f"{name}.csv").open("a", encoding="utf-8") as log:
            log.write(f"{state.step},{state.loss:.6f},{seconds:.0f}\n")
        if task.picture is not None:
            # Sheets are drawn on the CPU, wherever the network is trained.
            task.picture(copy.deepcopy(task.kept(average)).cpu(), args.work / f"{name}.png")
    own, kept = task.data is not None, task.kept(average).cpu()
    stem = Path(args.config).stem if own else f"shapes-{name}"
    output = (HOME if task.ships and not own else args.work) / f"{stem}.safetensors"
    output.parent.mkdir(parents=True, exist_ok=True)
    kind = torch.float32 if own else torch.float16
    save_file({key: value.to(kind).contiguous() for key, value in kept.state_dict().items()}, output)
    special = ("config", "data", "drop") if own else ("drop", "divergence")
    options = ("steps", "batch_size", "rate", "decay", "warmup", "average", "precision", "seed", *special)
    given = " ".join(f"--{key.replace('_', '-')} {getattr(args, key)}" for key in options)
    write_card(
        output,
        summary=task.summary,
        command=f"python -m scripts.train_baselines {name} {given}",
        data=dict(task.data or {"name": "shapes", "version": shapes.VERSION, "images": images}),
        seconds=time.time() - started if measured and not args.export else None,
        measured=measured | task.report(kept),
        averaged=True,
        recipe=dataclasses.asdict(recipe),
        **({"licence": "of whoever trained it"} if own else {}),
        **_described(task, kept),
        **({"note": args.note} if args.note else {}),
    )


def _described(task: Task, network: torch.nn.Module) -> dict[str, Any]:
    """What the card says of the network, with what training has made of its process."""
    card = dict(task.card)
    return card | ({"process": {**card["process"], **task.learned(network)}} if "process" in card else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=TASKS, help="network to make")
    parser.add_argument("--steps", type=int, default=4500, help="of the training")
    parser.add_argument("--batch-size", type=int, default=128, help="images a step")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--average", type=float, default=0.999, help="decay of the moving average of the weights")
    parser.add_argument("--decay", choices=("cosine", "none"), default="cosine", help="of the rate")
    parser.add_argument("--warmup", type=int, default=500, help="steps over which the rate rises")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16", help="of the layers")
    parser.add_argument(
        "--drop", type=float, help="pixel: share of labels replaced by the null label; 0.1 on shapes, else 0"
    )
    parser.add_argument("--divergence", type=float, default=3e-3, help="autoencoder: weight of the divergence")
    parser.add_argument(
        "--config", default="ddpm-cifar10", help="pixel, with --data: a published architecture, or a .json or .yaml"
    )
    parser.add_argument("--data", type=Path, help="pixel: images of one's own instead of shapes")
    parser.add_argument("--seed", type=int, default=0, help="of the training")
    parser.add_argument("--every", type=int, default=250, help="steps between two checkpoints")
    parser.add_argument("--export", action="store_true", help="write the weights of a training that is not complete")
    parser.add_argument("--note", default="", help="for the card, such as how an earlier part of the run was made")
    parser.add_argument("--device", default="cpu", help="where the network computes")
    parser.add_argument("--work", type=Path, default=Path("training"), help="folder of checkpoints and losses")
    args = parser.parse_args()
    if args.data is not None and args.what != "pixel":
        parser.error("--data is for pixel")
    if args.drop is None:
        args.drop = 0.0 if args.data is not None else 0.1
    try:
        train(args.what, args)
    except ValueError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
