"""Any pipeline of diffusers as a model: `diffusers(repo='google/ddpm-cifar10-32')`, or a folder of save_pretrained.

What a pipeline takes is read from the signature of its call: `class_labels` makes it class-conditional, `prompt`
text-conditional, neither unconditional. Weights are read from safetensors only, and no code of a repository is run.
diffusers is optional: `pip install diffusers`.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Generator, Tensor

Config = Mapping[str, Any]

_CODE = 1
"""Version of this code; part of every model's key."""
_PICKLED = {".bin", ".ckpt", ".pt", ".pth"}
_OTHER_FRAMEWORKS = {".h5", ".msgpack", ".onnx", ".pb", *_PICKLED}
_DENOISERS = ("unet", "transformer")
_AUTOENCODERS = ("vae", "vqvae", "movq")


@dataclass(frozen=True, kw_only=True)
class PipelineModel:
    """A pipeline ready to sample; what each attribute means stands in `genbench.contracts.Model`.

    Attributes:
        folder: of the repository on this machine.
        pipeline: class of diffusers.
        scheduler: class of the scheduler that takes the place of the repository's, None for its own.
        arguments: keywords of the pipeline's call that are the same for every image.
    """

    folder: Path
    pipeline: type
    scheduler: type | None
    arguments: Config
    device: str
    precision: str
    shape: tuple[int, int, int]
    classes: int
    takes: frozenset[str]
    evaluations: int

    @cached_property
    def key(self) -> str:
        """Digest of the files of the repository that are read and of the versions of this code and of diffusers."""
        import diffusers

        files = {str(path.relative_to(self.folder)): _sha256(path) for path in _read_files(self.folder)}
        return hashlib.sha256(json.dumps([files, diffusers.__version__, _CODE], sort_keys=True).encode()).hexdigest()

    def sample(
        self,
        seeds: NDArray[np.uint64],
        *,
        labels: NDArray[np.int64] | None = None,
        captions: Sequence[str] | None = None,
        watch: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Images of the given seeds and labels or captions, float32 (b, c, h, w) in [-1, 1], clipped as diffusers does.

        Every image has a generator of its own, seeded by its seed, on the CPU: so it depends neither on its batch nor
        on the device.
        """
        import torch

        generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        conditions: dict[str, Sequence[Any]] = {}
        if "labels" in self.takes and labels is not None:
            conditions["class_labels"] = [int(label) for label in labels]
        elif "captions" in self.takes and captions is not None:
            conditions["prompt"] = list(captions)
        if _takes_lists(self.pipeline):
            return self._call(generators, conditions, watch or (lambda done, total: None))
        # A pipeline that draws the noise of a whole batch from one generator would make an image depend on its place.
        images, count = [], len(generators)
        for i, generator in enumerate(generators):

            def report(done: int, total: int, before: int = i) -> None:
                if watch is not None:
                    watch(before * total + done, count * total)

            one = {name: values[i : i + 1] for name, values in conditions.items()}
            images.append(self._call([generator], one, report))
        return torch.cat(images)

    def _call(
        self, generators: list[Generator], conditions: Mapping[str, Sequence[Any]], report: Callable[[int, int], None]
    ) -> Tensor:
        import torch

        pipeline = _ready(self.folder, self.pipeline, self.scheduler, self.device)
        takes = inspect.signature(self.pipeline.__call__).parameters
        given = {**self.arguments, **conditions, "output_type": "pt"}
        if "batch_size" in takes:
            given["batch_size"] = len(generators)
        # Weights and states stay in float32 and only the layers that gain from it are cast: pipelines keep the noisy
        # image in the dtype of their weights, and a thousand steps of rounding to 8 bits are visible.
        fast = torch.autocast(
            self.device.partition(":")[0], dtype=getattr(torch, self.precision), enabled=self.precision != "float32"
        )
        with _stepping(pipeline.scheduler, generators, report), fast:
            images = pipeline(generator=generators if _takes_lists(self.pipeline) else generators[0], **given).images
        # Some pipelines know no "pt" and return an array (b, h, w, c); both are in [0, 1].
        if not isinstance(images, torch.Tensor):
            images = torch.from_numpy(images).permute(0, 3, 1, 2)
        return images.float() * 2 - 1


def load(
    *,
    dataset: str,
    device: str,
    precision: str,
    repo: str,
    steps: int | None = None,
    scale: float | None = None,
    scheduler: str | None = None,
    eta: float | None = None,
    size: int | None = None,
) -> PipelineModel:
    """A pipeline of diffusers: pixel or latent, unconditional, class-conditional or text-to-image.

    Args:
        dataset: without effect: the images are those of the pipeline.
        precision: of the layers of the networks by autocast; weights, the noisy image and autoencoders are float32.
        repo: a folder that save_pretrained made, or a name on the hub, which diffusers downloads into its own cache;
            with GENBENCH_OFFLINE or HF_HUB_OFFLINE set, only what lies there is used.
        steps, scale, eta: num_inference_steps, guidance_scale and eta of the call; None is the pipeline's default.
        scheduler: class of diffusers, made from the configuration of the repository's own, such as "DDIMScheduler".
        size: height and width, for pipelines that take them; None is the pipeline's default.

    Returns:
        The model. Files are found and checked here; weights are read with the first image. A safety checker is left
        out, because black images in place of refused ones would be measured as if the model had made them.

    Raises:
        FileNotFoundError: diffusers is not installed, no such folder, a hub that cannot be reached, missing files.
        ValueError: code or pickled weights in the repository, an argument that the pipeline does not take, or a
            pipeline that needs more than seeds, labels and captions.
    """
    if find_spec("diffusers") is None:
        raise FileNotFoundError("diffusers is not installed; install it with: pip install diffusers.")
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise ValueError(f"steps is a whole number from 1 on; got {steps!r}.")
    folder = _folder(repo)
    index = _json(folder / "model_index.json")
    pipeline = _pipeline_class(folder, index)
    _check_weights(folder, index)
    configs = {name: _config(folder / name) for name in _components(index)}
    takes = inspect.signature(pipeline.__call__).parameters
    denoiser = next((configs[name] for name in _DENOISERS if name in configs), None)
    if denoiser is None:
        raise ValueError(f"{pipeline.__name__} has none of {', '.join(_DENOISERS)}; it is no pipeline of one denoiser.")

    classes = denoiser.get("num_class_embeds") or denoiser.get("num_embeds_ada_norm") or 0
    condition = _condition(folder, pipeline, denoiser, classes)
    asked = {"num_inference_steps": ("steps", steps), "guidance_scale": ("scale", scale), "eta": ("eta", eta)}
    arguments = _arguments(pipeline, asked | {"height": ("size", size), "width": ("size", size)})
    swapped, taken = _scheduler(folder, index, pipeline, scheduler, arguments)
    guidance = arguments.get("guidance_scale", takes["guidance_scale"].default if "guidance_scale" in takes else 1.0)
    doubled = isinstance(guidance, int | float) and guidance > 1 and not denoiser.get("guidance_embeds")
    return PipelineModel(
        folder=folder,
        pipeline=pipeline,
        scheduler=swapped,
        arguments=arguments,
        device=device,
        precision=precision,
        shape=_shape(configs, denoiser, size),
        classes=classes if condition == "labels" else 0,
        takes=frozenset({condition} - {""}),
        evaluations=taken * (2 if doubled else 1),
    )


def _condition(folder: Path, pipeline: type, denoiser: Config, classes: int) -> str:
    """What a call takes beside generators: "labels", "captions" or nothing; one that needs more is refused."""
    takes, condition = inspect.signature(pipeline.__call__).parameters, ""
    if "class_labels" in takes and classes:
        condition = "labels"
    elif "prompt" in takes:
        condition = "captions"
    elif denoiser.get("num_class_embeds"):
        raise ValueError(f"The network of {folder.name} has classes, and {pipeline.__name__} takes no class_labels.")
    given = {"self", "generator", "batch_size", {"labels": "class_labels", "captions": "prompt"}.get(condition, "")}
    needed = [name for name, p in takes.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if wanted := [name for name in needed if name not in given] + ["image"] * ("image" in takes):
        raise ValueError(f"{pipeline.__name__} needs {', '.join(wanted)}; only seeds, labels and captions are given.")
    if "generator" not in takes:
        raise ValueError(f"{pipeline.__name__} takes no generator, so that its images cannot be repeated.")
    return condition


def _arguments(pipeline: type, asked: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Keywords of the call to values, of those that were asked for: keyword to (name here, value)."""
    takes, arguments = inspect.signature(pipeline.__call__).parameters, {}
    for name, (ours, value) in asked.items():
        if value is not None and name not in takes:
            raise ValueError(f"{pipeline.__name__} takes no {name}, which is {ours} here; leave it out.")
        if value is not None:
            arguments[name] = value
    return arguments


# --- the repository -------------------------------------------------------------------------------------------------


def _folder(repo: str) -> Path:
    """Where the files of a repository lie, downloaded if need be."""
    path = Path(repo).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").exists():
            raise FileNotFoundError(f"{path} has no model_index.json; a folder of save_pretrained of a pipeline does.")
        return path
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo) or repo.startswith("."):
        raise FileNotFoundError(f"There is no folder {repo}, and names on the hub are written OWNER/NAME.")
    from diffusers import DiffusionPipeline

    offline = os.environ.get("GENBENCH_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    try:
        with _quiet():
            found = DiffusionPipeline.download(repo, use_safetensors=True, local_files_only=offline)
    except OSError as error:
        # The hub's own errors are OSErrors too; a first sentence says what happened, the others what to read.
        reason = re.split(r"\n|\. ", str(error.__cause__ or error).strip())[0].rstrip(".") or type(error).__name__
        raise FileNotFoundError(f"{repo} is not in the cache of the hub and cannot be downloaded: {reason}.") from error
    return Path(found)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError) as error:
        raise FileNotFoundError(f"{path} is missing or is no JSON file.") from error
    if not isinstance(found, dict):
        raise FileNotFoundError(f"{path} holds no configuration.")
    return found


def _config(folder: Path) -> dict[str, Any]:
    """The configuration of a component; tokenizers and their like have none that matters here."""
    return _json(folder / "config.json") if (folder / "config.json").exists() else {}


def _components(index: Config) -> dict[str, tuple[str, str]]:
    """Name of a component to its library and class; absent ones and arguments of the pipeline are left out."""
    pairs = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and not k.startswith("_")}
    return {k: (v[0], v[1]) for k, v in pairs.items() if isinstance(v[0], str) and isinstance(v[1], str)}


def _pipeline_class(folder: Path, index: Config) -> type:
    """The class of the pipeline, after making sure that nothing in the repository is code."""
    import diffusers

    name = index.get("_class_name")
    found = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(found, type) and issubclass(found, diffusers.DiffusionPipeline)):
        raise ValueError(
            f"{folder.name} asks for the pipeline {name!r}, which diffusers {diffusers.__version__} does not have; "
            "pipelines that come as code of their repository are not run."
        )
    for part, (library, kind) in _components(index).items():
        known = library in ("diffusers", "transformers") or hasattr(diffusers.pipelines, library)
        if not known or (folder / part / f"{library}.py").exists():
            raise ValueError(
                f"The component {part} of {folder.name} is {library}.{kind}, which is code of its repository and is "
                "not run; components are those of diffusers and transformers."
            )
        if library == "transformers" and find_spec("transformers") is None:
            raise FileNotFoundError(f"{name} needs transformers; install it with: pip install transformers.")
    return found


def _check_weights(folder: Path, index: Config) -> None:
    """Refuses pickles and incomplete files before anything is sampled. A header is read, the weights are not."""
    import diffusers
    from safetensors import SafetensorError, safe_open

    for part, (library, kind) in _components(index).items():
        files = list((folder / part).glob("*"))
        safe = [path for path in files if path.suffix == ".safetensors"]
        pickled = sorted(path.name for path in files if path.suffix in _PICKLED)
        if pickled and not safe:
            raise ValueError(
                f"{folder.name} has {part}/{pickled[0]} and no safetensors; pickled weights can run code and are not "
                "read. Save the pipeline anew with save_pretrained, which writes safetensors."
            )
        model = getattr(diffusers, kind, None) if library == "diffusers" else None
        if isinstance(model, type) and issubclass(model, diffusers.ModelMixin) and not safe:
            raise FileNotFoundError(f"{folder / part} holds no weights; is the repository complete?")
        for path in safe:
            try:
                with safe_open(path, framework="pt"):
                    pass
            except (SafetensorError, OSError) as error:
                raise FileNotFoundError(f"{path} is no complete safetensors file: {error}") from error


def _read_files(folder: Path) -> list[Path]:
    """The files that decide about an image: the index, and what lies in the folders of the components."""
    parts = _components(_json(folder / "model_index.json"))
    inside = [path for part in parts for path in (folder / part).rglob("*") if path.is_file()]
    return sorted([folder / "model_index.json", *(p for p in inside if p.suffix not in _OTHER_FRAMEWORKS)])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shape(configs: Mapping[str, Config], denoiser: Config, size: int | None) -> tuple[int, int, int]:
    """(c, h, w) of the images, from the configurations alone."""
    channels, factor = denoiser.get("in_channels"), 1
    for name in _AUTOENCODERS:
        if name in configs:
            channels = configs[name].get("out_channels", 3)
            factor = 2 ** (len(configs[name].get("block_out_channels", [0])) - 1)
    side = size or denoiser.get("sample_size")
    height, width = side if isinstance(side, list | tuple) else (side, side)
    if not isinstance(channels, int) or not isinstance(height, int) or not isinstance(width, int):
        raise ValueError("The configuration does not say how large the images are; give size=..., such as size=512.")
    factor = 1 if size else factor
    return channels, height * factor, width * factor


def _scheduler(
    folder: Path, index: Config, pipeline: type, name: str | None, arguments: Config
) -> tuple[type | None, int]:
    """The class that replaces the repository's scheduler, if one does, and how often a call evaluates the network."""
    import diffusers

    default = inspect.signature(pipeline.__call__).parameters["num_inference_steps"].default
    steps = arguments.get("num_inference_steps", default)
    own = getattr(diffusers, _components(index).get("scheduler", ("", ""))[1], None)
    if own is None:
        raise ValueError(f"diffusers has no scheduler {index.get('scheduler')!r}, which {folder.name} asks for.")
    swapped: Any = None
    if name is not None:
        swapped = getattr(diffusers, name, None)
        if not (isinstance(swapped, type) and issubclass(swapped, diffusers.SchedulerMixin)):
            known = [known for known in dir(diffusers) if known.endswith("Scheduler")]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else "They are named such as 'DDIMScheduler'."
            raise ValueError(f"diffusers has no scheduler {name!r}. {hint}")
    with _quiet():
        made = own.from_pretrained(folder, subfolder="scheduler")
        if swapped is not None:
            made = swapped.from_config(made.config)
    if "eta" in arguments and "eta" not in inspect.signature(made.step).parameters:
        raise ValueError(f"{type(made).__name__} takes no eta; leave it out, or choose scheduler='DDIMScheduler'.")
    if made.config.get("use_dynamic_shifting"):  # its timesteps depend on the image, which exists in the call only
        return swapped, int(steps)
    made.set_timesteps(steps)
    start = float(getattr(made, "init_noise_sigma", 1.0))
    if swapped is not None and abs(start - 1) > 1e-3 and "init_noise_sigma" not in inspect.getsource(pipeline):
        raise ValueError(
            f"{pipeline.__name__} starts from noise of standard deviation 1 and {name} from {start:.4g}, so that its "
            "images would be noise; DDIMScheduler and DPMSolverMultistepScheduler start from 1."
        )
    return swapped, len(made.timesteps)


# --- running it -----------------------------------------------------------------------------------------------------


@cache
def _ready(folder: Path, pipeline: Any, scheduler: Any, device: str) -> Any:
    """The pipeline with its weights on the device; kept, because every batch asks for it."""
    import torch

    more = {"safety_checker": None, "requires_safety_checker": False}
    known = inspect.signature(pipeline).parameters
    with _quiet():
        made = pipeline.from_pretrained(
            folder,
            use_safetensors=True,
            # Without accelerate this is what it does anyway, after a warning.
            low_cpu_mem_usage=find_spec("accelerate") is not None,
            **{name: value for name, value in more.items() if name in known},
        ).to(device)
        if scheduler is not None:
            made.scheduler = scheduler.from_config(made.scheduler.config)
    made.set_progress_bar_config(disable=True)
    for name in _AUTOENCODERS:
        if (autoencoder := getattr(made, name, None)) is not None:
            autoencoder.decode = _in_float32(autoencoder.decode, torch.device(device).type)
    return made


def _in_float32(decode: Callable[..., Any], device: str) -> Callable[..., Any]:
    """One pass of the autoencoder costs little beside the steps, and pipelines hand its output to NumPy."""
    import torch

    @wraps(decode)
    def decoded(z: Tensor, *args: Any, **given: Any) -> Any:
        with torch.autocast(device, enabled=False):
            return decode(z.float(), *args, **given)

    return decoded


@contextmanager
def _stepping(scheduler: Any, generators: list[Generator], report: Callable[[int, int], None]) -> Iterator[None]:
    """Stands between a pipeline and its scheduler, for what holds for all pipelines although most do not offer it.

    Progress: only some pipelines take `callback_on_step_end`, all call `scheduler.step`. Noise: pipelines that forget
    to hand their generators on would draw from the global one. Keywords: a scheduler that replaces another need not
    take the other's. Precision: what a network under autocast returns is cast to that of the state.
    """
    step, done = scheduler.step, 0
    takes = inspect.signature(step).parameters

    @wraps(step)
    def watched(output: Tensor, timestep: Any, sample: Tensor, *args: Any, **given: Any) -> Any:
        nonlocal done
        if "generator" in takes and given.get("generator") is None:
            # Guidance doubles the batch in some pipelines; the second half is dropped, its noise must only exist.
            given["generator"] = generators * (len(sample) // len(generators))
        given = {name: value for name, value in given.items() if name in takes}
        result = step(output.to(sample.dtype), timestep, sample, *args, **given)
        done += 1
        report(done, len(scheduler.timesteps))
        return result

    scheduler.step = watched
    try:
        yield
    finally:
        del scheduler.step


def _takes_lists(pipeline: type) -> bool:
    """Whether the call takes one generator an image; some take one for the whole batch only."""
    return "list" in str(inspect.signature(pipeline.__call__).parameters["generator"].annotation).lower()


@contextmanager
def _quiet() -> Iterator[None]:
    """diffusers tells of deprecations, of libraries that are not there and of its progress on its own."""
    from diffusers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
