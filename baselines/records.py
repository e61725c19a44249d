"""What a system's file says as data: where its weights are, what they hold, and what its paper did with them.

The records look nothing up: `baselines.files.catalogue` finds them by name. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from baselines.schedules import Trained

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The arguments of a published architecture.

    Attributes:
        arguments: in the names of the repository that published it, those of the process included, see
            `baselines.files.arguments`.
        parameters: in millions, as printed in the source or counted from its code. The tests count this package's.
        source: where the arguments stand.
    """

    arguments: Mapping[str, Any] = field(repr=False)
    parameters: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """A file of weights that its authors published.

    Attributes:
        name: by which this package knows it.
        url: address of the file. Some are pages that lead to it (Google Drive).
        networks: role ("unet", "classifier", "first_stage", "condition", ...) to name of the configuration, for
            `baselines.load_network(path, name)`.
        dataset: what it was trained on.
        licence: SPDX name, or that of the source.
        weights: "average" where `load_network` finds or the source names a moving average, "raw" for the trained
            weights, "unspecified" where the source does not say.
        copies: how often the file holds its U-Net; 2 where an average lies beside the trained weights.
        member: file to extract, where the address is that of an archive.
        bytes: exact size, None if not published.
        sha256, md5: published digests.
        pickled: whether it is a pickle of Python objects, which is never opened: the user converts it, as
            docs/models.md says, and names the converted file.
        source: who names the address.
        mirrors: other addresses of the same weights, possibly in another layout.
        estimated_bytes: size of the networks in float32, as `sized` counts it.
    """

    name: str
    url: str
    networks: Mapping[str, str]
    dataset: str
    licence: str
    source: str
    weights: Literal["average", "raw", "unspecified"] = "unspecified"
    copies: int = 1
    member: str | None = None
    pickled: bool = False
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    mirrors: tuple[str, ...] = ()
    estimated_bytes: int = 0


def sized(files: Iterable[PublishedFile], configurations: Mapping[str, Configuration]) -> dict[str, PublishedFile]:
    """Name to file, with the size that its networks have in float32."""

    def size(file: PublishedFile) -> int:
        copies = {role: file.copies if role == "unet" else 1 for role in file.networks}
        return sum(round(4e6 * configurations[name].parameters) * copies[role] for role, name in file.networks.items())

    return {file.name: replace(file, estimated_bytes=size(file)) for file in files}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One network of a system.

    Attributes:
        file: name of shipped weights, name of a published file, or a path.
        configuration: what network it holds: a name, the path of a .json or .yaml file of arguments, or the arguments.
            Empty where the published file says it.
        process: how noise was added where a network was trained on noise, else None.
        kind: what a denoising network predicts, see `baselines.denoisers.from_output`; or "velocity", the noise of the
            velocities of `baselines.damped`, for which it is given images and velocities.
        learned_variance: whether half of its output channels belong to the variance.
        variance: the fixed variance of ancestral steps that its arguments name, empty where they name none.
    """

    file: str
    configuration: str | Mapping[str, Any] = ""
    process: Trained | None = None
    kind: str = "eps"
    learned_variance: bool = False
    variance: Literal["", "small", "large"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """The space of a latent model.

    Attributes:
        channels: of the latents.
        factor: of downsampling.
        scale: factor from the first stage's latents to what the denoising network sees, None where its file holds it.
    """

    channels: int
    factor: int
    scale: float | None = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A trained system: its networks, and what must be known to use them.

    Attributes:
        parts: role to network. Systems here have the roles "unet", "unconditional" (a second network for guidance),
            "classifier", "first_stage" (of latents), "condition" (what makes context tokens) and "vocabulary" (a file
            of the tokenizer). Another system names its own.
        shape: of the images, (c, h, w).
        name: by which it is asked for, empty for a system of a user.
        classes: that labels choose among, 0 without labels.
        null: the label that means none, None if the network was not trained with one.
        latent: None for a model of pixels.
        tokenizer: of captions: "words", "clip" or "bert", empty without captions.
        words: the vocabulary of the tokenizer "words".
        class_captions: for each class, the caption that names only the class.
    """

    parts: Mapping[str, Part]
    shape: tuple[int, int, int]
    name: str = ""
    classes: int = 0
    null: int | None = None
    latent: Latent | None = None
    tokenizer: Literal["", "words", "clip", "bert"] = ""
    words: tuple[str, ...] = ()
    class_captions: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Returns every file of the release once."""
        return tuple(dict.fromkeys(part.file for part in self.parts.values()))

    @property
    def state(self) -> tuple[int, int, int]:
        """Shape of what is sampled: latents, or the images themselves."""
        c, h, w = self.shape
        latent = self.latent
        return (c, h, w) if latent is None else (latent.channels, h // latent.factor, w // latent.factor)

    @property
    def takes(self) -> frozenset[str]:
        """The conditions that the networks were trained with, in the words of genbench."""
        return frozenset({"captions"} if self.tokenizer else {"labels"} if self.classes else ())

    def with_parts(self, **parts: Part) -> Release:
        """The same system with other or further networks."""
        return replace(self, parts={**self.parts, **parts})

    def without(self, *roles: str) -> Release:
        """The same system without networks that are not used."""
        return replace(self, parts={role: part for role, part in self.parts.items() if role not in roles})


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How a paper sampled and evaluated a system on a data set.

    Attributes:
        release: the weights.
        arguments: of the system, where the paper's differ from its defaults.
        num_samples, protocol, quantise: of the evaluation, None leaves them to the data set and its protocol.
        differs: sentences: what this project does otherwise than the paper although the preset is kept.
        source: where the paper says so.
        base: the system of the small images that `release` enlarges, for cascades.
        rows: the rows of `leaderboards/reported.csv` that a run on this data set stands beside, best first: columns of
            that file to their values. "{steps}" as a value stands for the argument of that name, and * in a text for
            anything. "when" are arguments of the system of which the row holds.
    """

    release: Release
    arguments: Mapping[str, Scalar] = field(default_factory=dict)
    num_samples: int | None = None
    protocol: str | None = None
    quantise: str | None = None
    differs: tuple[str, ...] = ()
    source: str = ""
    base: Release | None = None
    rows: tuple[Mapping[str, Any], ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """The files of the release, and of the one below it."""
        return (*(self.base.files if self.base else ()), *self.release.files)


def named(releases: Mapping[str, Release]) -> dict[str, Release]:
    """The releases, each of which knows its name."""
    return {name: replace(release, name=name) for name, release in releases.items()}


def square(side: int) -> tuple[int, int, int]:
    """Shape of colour images of a side."""
    return (3, side, side)
