"""The trained networks of a system on this machine: files verified, networks on a device, and what they are told."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn

from baselines.denoisers import Condition, Denoiser, Output, denoiser, rescaled
from baselines.files import cards, catalogue
from baselines.files.arguments import architecture
from baselines.files.checkpoints import load_network
from baselines.networks import NetworkConfig
from baselines.records import Part, PublishedFile, Release
from baselines.schedules import Discrete, Level, Trained

_CODE = 1
"""Version of the sampling code; part of every key."""

Fetch = Callable[[PublishedFile], Path]
"""fetch(file) is the path of a published file on this machine, downloaded if need be."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The networks of a release, ready on a device. Files are read when a network is asked for, and kept.

    Attributes:
        precision: of the networks, "float32", "bfloat16" or "float16". What conditions and guides is always in float32.
        compiled: whether torch compiles the denoising networks, for every number of images once.
        fetch: finds published files, None where there is nobody who has a cache.
        own: whether a user named the file and its configuration, instead of the paper's.
    """

    release: Release
    device: str
    precision: str
    fetch: Fetch | None = None
    compiled: bool = False
    own: bool = False
    _ready: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def of(self, release: Release) -> Weights:
        """The same place with other networks, such as those of another system or fewer of them."""
        return replace(self, release=release, _ready={})

    @property
    def roles(self) -> frozenset[str]:
        """The roles of its networks."""
        return frozenset(self.release.parts)

    @property
    def trained(self) -> Trained:
        """The process that the denoising network was trained for.

        Raises:
            ValueError: there is none.
        """
        part = self.release.parts.get("unet")
        if part is None or part.process is None:
            raise ValueError(f"These weights have no process of noise; they are of {', '.join(self.release.parts)}.")
        return part.process

    @property
    def process(self) -> Discrete:
        """The same, where it has timesteps.

        Raises:
            ValueError: it has none.
        """
        if not isinstance(self.trained, Discrete):
            others = "lsgm" if self.release.latent is not None else "vdm, edm, dpm-solver or score-sde"
            raise ValueError(f"These weights know no timesteps, but levels of noise; use {others}.")
        return self.trained

    @cached_property
    def key(self) -> str:
        """Digest of the files, of what is said of them where that is not part of this package, and of this code.

        Raises:
            FileNotFoundError: a file that is not there.
        """
        parts = sorted(self.release.parts.items())
        digests = [f"{role} {self._sha256(part.file)}" for role, part in parts]
        told: list[Any] = [
            [role, self._arguments(role), _plain(part.process), part.kind, part.learned_variance]
            for role, part in parts
            if not cards.shipped(part.file)
        ]
        if told:
            r = self.release
            told.append([r.shape, r.classes, r.null, r.latent and asdict(r.latent), r.tokenizer, r.words])
        text = f"{digests} {_CODE}" + (json.dumps(told, sort_keys=True, default=str) if told else "")
        return hashlib.sha256(text.encode()).hexdigest()

    def network(self, role: str, precision: str | None = None) -> Any:
        """The module of a role, in evaluation mode, without gradients of weights, in channels_last memory.

        Raises:
            FileNotFoundError: a file that is not there, or shipped weights of another digest than their description's.
            ValueError: a file that does not hold the network, or a role that these weights do not have.
        """
        if role not in self.release.parts:
            raise ValueError(f"These weights have no network for {role!r}, only for {', '.join(self.release.parts)}.")
        file, precision = self.release.parts[role].file, precision or self.precision
        # One file of a description may hold the networks of several roles.
        key = (file, precision) if cards.described(file) else (file, precision, role)
        if key not in self._ready:
            self._ready[key] = self._prepared(self._read(role), precision)
        whole = self._ready[key]
        roles = getattr(whole, "roles", {})
        return roles.get(role, whole)

    def output(self, role: str = "unet") -> Output:
        """A network as a function of (x, t, condition), float32 of the shape that it has: what it says, not what of.

        It is given of a condition what it takes.
        """
        dtype = getattr(torch, self.precision)
        network = self.network(role)
        call = self._compiled(role) if self.compiled else network

        def output(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
            missing = [name for name in network.takes if name not in condition]
            if missing:
                raise ValueError(f"The network for {role!r} needs {', '.join(missing)}, which this model is not given.")
            given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in condition.items() if k in network.takes}
            x = x if getattr(network, "exact_input", False) else x.to(dtype)
            # Steps that add noise leave another memory format behind, in which convolutions take twice the time.
            return call(x.contiguous(memory_format=torch.channels_last), t, **given).float()

        return output

    def denoiser(self, role: str = "unet") -> Denoiser:
        """The denoiser of a network, on the levels of the process of these weights.

        It is given of a condition what its network takes. A network of another process than that of "unet" is told
        what its own process says of a level.
        """
        part, output = self.release.parts[role], self.output(role)

        def predict(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
            return output(x, t, condition)

        found = denoiser(predict, part.kind, learned_variance=part.learned_variance)
        if part.process is None or part.process == self.trained:
            return found
        return rescaled(found, part.process)

    def _compiled(self, role: str) -> Callable[..., Tensor]:
        """The module of a role, compiled by torch when it is first called."""
        key = ("compiled", role)
        if key not in self._ready:
            # On a GPU the launches of many small kernels are recorded once and replayed.
            mode = "reduce-overhead" if self.device.startswith("cuda") else "default"
            compiled = torch.compile(self.network(role), mode=mode, dynamic=False)

            def call(*args: Tensor, **given: Tensor) -> Tensor:
                # A recorded graph writes every result to the same memory, and samplers keep results.
                result: Tensor = compiled(*args, **given)
                return result.clone()

            self._ready[key] = call
        made: Callable[..., Tensor] = self._ready[key]
        return made

    def log_probability(self, role: str = "classifier") -> Callable[[Tensor, Level, Condition], Tensor]:
        """log p(y | x, t) of a classifier of noisy images, (b,), in float32 whatever the precision of the denoiser."""
        network, process = self.network(role, "float32"), self.release.parts[role].process

        def log_probability(x: Tensor, p: Level, condition: Condition) -> Tensor:
            level = p if process is None or process == self.trained else process.at(p.ratio)
            logits = network(x, torch.full((len(x),), level.t, device=x.device))
            return logits.log_softmax(dim=-1).gather(1, condition["y"][:, None])[:, 0]

        return log_probability

    def decode(self, z: Tensor) -> Tensor:
        """Images of states: themselves, or decoded latents, float32."""
        if self.release.latent is None:
            return z
        with torch.no_grad():
            return self.network("first_stage").decode(z / self._latent_scale()).float()

    def path(self, role: str) -> Path:
        """Path of the file of a role.

        Raises:
            FileNotFoundError: neither shipped, nor published and at hand, nor a path that exists.
        """
        return self._locate(self.release.parts[role].file)

    def _latent_scale(self) -> float:
        """Factor between the latents of the first stage and what the denoising network sees."""
        assert self.release.latent is not None
        if self.release.latent.scale is not None:
            return self.release.latent.scale
        found = self.network("unet").origin.latent_scale
        if found is None:
            file = self.release.parts["unet"].file
            raise ValueError(f"{file} holds no scale_factor, and nothing else says how latents scale.")
        return float(found)

    def _locate(self, file: str) -> Path:
        if cards.described(file):
            return cards.file_of(file)
        if file in catalogue.files():
            about = catalogue.files()[file]
            if about.pickled:
                raise FileNotFoundError(
                    f"{file} is published at {about.url} as a pickle of Python objects, which would run code and is "
                    "not opened; download it, convert it as docs/models.md says, and give weights='PATH'."
                )
            if self.fetch is not None:
                return self.fetch(about)
            raise FileNotFoundError(f"{file} is published at {about.url}; download it and give its path as weights=.")
        if not Path(file).expanduser().is_file():
            raise FileNotFoundError(
                f"There are no weights {file!r}: neither a file that exists nor the name of published weights, such as "
                f"{next(iter(catalogue.files()))!r}."
            )
        return Path(file).expanduser()

    def _sha256(self, file: str) -> str:
        if cards.described(file):
            return str(cards.description(file)["sha256"])
        path = self._locate(file)
        status = path.stat()
        return _sha256(path, status.st_size, status.st_mtime_ns)

    def _arguments(self, role: str) -> Mapping[str, Any]:
        """The arguments of a network, none where nothing names them."""
        config = catalogue.configuration_of(self.release.parts[role], role)
        return catalogue.arguments_of(config) if config else {}

    def _read(self, role: str) -> nn.Module:
        part, arguments = self.release.parts[role], self._arguments(role)
        if not arguments:
            raise ValueError(
                f"Nothing says what network {part.file!r} holds; name its configuration, such as "
                "config='adm-imagenet64'."
            )
        if cards.described(part.file):
            return _described(part.file, architecture(arguments).network)
        return load_network(self._locate(part.file), arguments)

    def _prepared(self, network: nn.Module, precision: str) -> nn.Module:
        network = network.requires_grad_(requires_grad=False).eval()
        return network.to(device=self.device, dtype=getattr(torch, precision)).to(memory_format=torch.channels_last)


def _plain(process: Any) -> dict[str, Any] | None:
    """The fields of a process, which is a dataclass."""
    return None if process is None else asdict(process)


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _described(file: str, config: NetworkConfig) -> nn.Module:
    about, path = cards.description(file), cards.file_of(file)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise FileNotFoundError(f"{path} is not the file its card describes: the digests differ.")
    network = config.build()
    try:
        network.load_state_dict({k: v.float() for k, v in load(content).items()})
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the network its description names: {error}") from error
    return network


def network_of(part: Part, role: str) -> NetworkConfig | None:
    """The configuration of a part's network, None where nothing says it.

    Raises:
        ValueError: arguments that mean no network.
    """
    config = catalogue.configuration_of(part, role)
    arguments: Mapping[str, Any] = catalogue.arguments_of(config) if config else {}
    keys = ["input_blocks."] if role == "classifier" else ["input_blocks.", "output_blocks."]
    return architecture(arguments, keys=keys).network if arguments else None
