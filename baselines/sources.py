"""From the files that a release names to networks on a device, verified and kept: every batch asks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import nn

from baselines.checkpoints import load_network
from baselines.configurations import arguments_of
from baselines.networks.autoencoder import AutoencoderConfig, AutoencoderKL
from baselines.networks.classifier import Classifier, ClassifierConfig
from baselines.networks.latent import TextUNet, TextUNetConfig
from baselines.networks.transformer import TextEncoderConfig
from baselines.networks.unet import UNet, UNetConfig
from baselines.published import PUBLISHED, Card
from baselines.releases import Release, card, described, file_of

Fetch = Callable[[Card], Path]
"""fetch(card) is the path of a published file on this machine, downloaded if need be."""


def locate(file: str, fetch: Fetch | None) -> Path:
    """Path of the file that a release names.

    Raises:
        FileNotFoundError: neither shipped, nor published and at hand, nor a path that exists.
    """
    if described(file):
        return file_of(file)
    if file in PUBLISHED:
        about = PUBLISHED[file]
        if fetch is not None:
            return fetch(about)
        raise FileNotFoundError(f"{file} is published at {about.url}; download it and give its path as weights=.")
    if not Path(file).expanduser().is_file():
        raise FileNotFoundError(
            f"There are no weights {file!r}: neither a file that exists nor the name of published weights, such as "
            f"{next(iter(PUBLISHED))!r}."
        )
    return Path(file).expanduser()


def sha256(file: str, fetch: Fetch | None) -> str:
    """Digest of the content of a file of a release."""
    if described(file):
        return card(file)["sha256"]
    path = locate(file, fetch)
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def network(release: Release, role: str, device: str, precision: str, fetch: Fetch | None) -> Any:
    """The module of a role, in evaluation mode, without gradients of weights, in channels_last memory.

    Raises:
        FileNotFoundError: a file that is not there, or shipped weights of another digest than their card's.
        ValueError: a file that does not hold the network.
    """
    file = release.networks[role]
    if described(file):
        return _of_card(file, role, device, precision, card(file)["sha256"])
    path = locate(file, fetch)
    status = path.stat()
    return _of_file(path, release.configuration(role), device, precision, status.st_size, status.st_mtime_ns)


def latent_scale(release: Release, unet: Any) -> float:
    """Factor between the latents of the first stage and what the U-Net, the module of that role, sees.

    Raises:
        ValueError: the release leaves it to its file, and the file holds none.
    """
    assert release.latent is not None
    if release.latent.scale is not None:
        return release.latent.scale
    found = unet.origin.latent_scale
    if found is None:
        raise ValueError(f"{release.networks['unet']} holds no scale_factor, and nothing else says how latents scale.")
    return float(found)


def _ready(network: nn.Module, device: str, precision: str) -> nn.Module:
    network = network.requires_grad_(requires_grad=False).eval()
    return network.to(device=device, dtype=getattr(torch, precision)).to(memory_format=torch.channels_last)


@cache
def _of_file(path: Path, configuration: str, device: str, precision: str, size: int, changed: int) -> nn.Module:
    if not configuration:
        raise ValueError(
            f"Nothing says what network {path.name} holds; name its configuration, such as config='adm-imagenet64'."
        )
    return _ready(load_network(path, arguments_of(configuration)), device, precision)


@cache
def _of_card(file: str, role: str, device: str, precision: str, digest: str) -> nn.Module:
    whole = _ready(_described(file), device, precision)
    if isinstance(whole, TextUNet):
        return whole.unet if role == "unet" else whole.text
    return whole


def _described(file: str) -> nn.Module:
    about, path = card(file), file_of(file)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise FileNotFoundError(f"{path} is not the file its card describes: the digests differ.")
    found = _made(about["network"])
    found.load_state_dict({k: v.float() for k, v in load(content).items()})
    return found


def _made(told: Mapping[str, Any]) -> nn.Module:
    """The network that a card describes; what is in the description tells which kind it is."""
    settings = _tuples(told)
    if "trunk" in settings:
        return Classifier(ClassifierConfig(**settings | {"trunk": UNetConfig(**_tuples(settings["trunk"]))}))
    if "text" in settings:
        unet, text = UNetConfig(**_tuples(settings["unet"])), TextEncoderConfig(**_tuples(settings["text"]))
        return TextUNet(TextUNetConfig(unet=unet, text=text))
    if "latent_channels" in settings:
        return AutoencoderKL(AutoencoderConfig(**settings))
    return UNet(UNetConfig(**settings))


def _tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has lists where a configuration has tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
