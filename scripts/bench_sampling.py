"""Measures sampling side by side with diffusers and k-diffusion: speed, memory, and what fast arithmetic costs.

python -m scripts.bench_sampling                      # into leaderboards/benchmark_sampling.csv, on a GPU if there is
python -m scripts.bench_sampling --only ddpm-cifar10  # some tasks; rows of the others, and of other devices, are kept
python -m scripts.bench_sampling --quick              # one round of few images, to see that it runs

Every tool has the same random weights: they are drawn for the network of diffusers, saved by it, and read by this
project's own loader of checkpoints (`baselines.load_network`), which knows diffusers' names of weights. All take the
same number of steps over the same timesteps, limit the predicted image to [-1, 1] in every step, and end with images in
memory. diffusers is its own pipeline as it comes: DDIMPipeline or DDPMPipeline in float32, with output_type="pt", which
spares it the way through NumPy. k-diffusion is its `sample_euler`, which is DDIM on other axes, on genbench's network
in float32, so that the row is about the loop; without k-diffusion the row is left out. "bfloat16" is what
`--precision bfloat16` does.

Tools take turns in one process, A B A B, after one call each that is not counted (`first_seconds`: with what is
compiled or chosen then). `speed` is the median over rounds of diffusers' seconds by those of the tool in the same
round; above 1 the tool is faster than diffusers in float32. Memory is that of a call in a process of its own beyond
what was there before it: the largest resident size on a CPU, what the allocator gave out on a GPU.

Numerics: from the same noise, `levels` is the largest difference of two images in grey levels of 255, `share` that of
values which differ by more than one level; of genbench in float32 from diffusers, and of all fast rows from genbench in
float32. A random network in few long steps sends neighbouring images apart, so that its fast rows are an upper end;
"shapes, trained" has the weights that are shipped and as many steps as they are used with, and no peer, so that its
`speed` is that over genbench in float32. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbench import tables
from genbench.display import columns
from scripts import benchmarking
from scripts.benchmarking import as_text, fresh, processor, quiet, resident, restart_peak

if TYPE_CHECKING:
    from torch import Tensor, nn

TABLE = benchmarking.LEADERBOARDS / "benchmark_sampling.csv"
COLUMNS = (
    "task", "tool", "images_per_second", "speed", "levels", "share", "extra_mib", "first_seconds", "batch", "steps",
    "rounds", "threads", "device", "date", "versions",
)  # fmt: skip
BASE = "diffusers"
LEVELS = 127.5
"""Grey levels in a unit of [-1, 1]."""


# What is compared


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A network of diffusers and how it is sampled.

    Attributes:
        kind: class of diffusers; `settings` are its arguments. "trained": the model of `shapes`, without a peer.
        images: of one batch on a CPU and on a GPU; none on a CPU: not there, unless it is asked for.
        classes, context: what the network is told beside the timestep: a label below `classes`, or random tokens of
            (number, width).
        steps: unless asked for otherwise; None chooses by device.
    """

    name: str
    sampler: str
    kind: str
    settings: Mapping[str, Any]
    images: tuple[int, int]
    classes: int = 0
    context: tuple[int, int] | None = None
    steps: int | None = None


_SHAPES = {
    "sample_size": 16, "in_channels": 12, "out_channels": 12, "block_out_channels": [64, 80, 64], "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"], "norm_num_groups": 16,
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "attention_head_dim": 16, "norm_eps": 1e-6,
    "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
}  # fmt: skip
"""A network as large as that of `shapes` on pixels folded 2 x 2, with heads of 16 channels where that one has 4."""
_CIFAR10 = {
    "sample_size": 32, "block_out_channels": [128, 256, 256, 256], "layers_per_block": 2, "attention_head_dim": None,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], "norm_eps": 1e-6,
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "downsample_padding": 0,
    "flip_sin_to_cos": False, "freq_shift": 1,
}  # fmt: skip
"""google/ddpm-cifar10-32, 35.7 million parameters."""
_ADM_64 = {
    "sample_size": 64, "block_out_channels": [192, 384, 576, 768], "layers_per_block": 3, "attention_head_dim": 64,
    "down_block_types": ["ResnetDownsampleBlock2D", *["AttnDownBlock2D"] * 3], "downsample_type": "resnet",
    "up_block_types": [*["AttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"], "upsample_type": "resnet",
    "attn_norm_num_groups": 32, "num_class_embeds": 1000, "resnet_time_scale_shift": "scale_shift",
}  # fmt: skip
"""ADM on ImageNet 64, 295.9 million parameters, as openai/diffusers-cd_imagenet64_l2 has it: without the variance."""
_LDM = {
    "sample_size": 64, "in_channels": 3, "out_channels": 3, "block_out_channels": [192, 384, 576, 960],
    "layers_per_block": 2, "cross_attention_dim": 512, "attention_head_dim": 1,
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"],
}  # fmt: skip
"""The class-conditional latent U-Net of ImageNet 256, 400.9 million parameters; one token of context an image."""

TASKS = {
    task.name: task
    for task in (
        Task(name="shapes, trained", sampler="ddim", kind="trained", settings={}, images=(32, 1024), steps=50),
        Task(name="shapes ddim", sampler="ddim", kind="UNet2DModel", settings=_SHAPES, images=(64, 1024)),
        Task(name="ddpm-cifar10 ddim", sampler="ddim", kind="UNet2DModel", settings=_CIFAR10, images=(16, 256)),
        Task(name="ddpm-cifar10 ddpm", sampler="ddpm", kind="UNet2DModel", settings=_CIFAR10, images=(16, 256)),
        Task(
            name="adm-imagenet64 ddim", sampler="ddim", kind="UNet2DModel", settings=_ADM_64, images=(0, 64),
            classes=1000,
        ),
        Task(
            name="ldm-4-imagenet256 ddim", sampler="ddim", kind="UNet2DConditionModel", settings=_LDM, images=(0, 32),
            context=(1, 512),
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How much, and where.

    Attributes:
        compiled: whether rows of compiled networks are added.
    """

    images: int
    steps: int
    device: str
    threads: int
    compiled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A sampler of float (b, c, h, w) in [-1, 1].

    Attributes:
        run: what is timed: a whole batch, as the tool is used.
        same_noise: the same from the noise that all tools share.
        against: tool whose images these are compared with, None for none.
    """

    run: Callable[[], Tensor]
    same_noise: Callable[[], Tensor] | None = None
    against: str | None = None


def randomise(network: nn.Module) -> nn.Module:
    """Weights that keep activations at about unit size; those of construction would leave out every attention."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.normal_(generator=generator)
            value.mul_(0.2 if value.ndim == 1 else value[0].numel() ** -0.5)
            if value.ndim == 1 and name.endswith("weight"):
                value.add_(1.0)
    return network.eval().requires_grad_(requires_grad=False)


def networks(task: Task) -> tuple[nn.Module, nn.Module]:
    """The network of diffusers and that of genbench with the same weights, through a file."""
    import diffusers
    from safetensors.torch import save_file

    import baselines

    theirs = randomise(getattr(diffusers, task.kind)(**task.settings))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save_file({name: value.contiguous() for name, value in theirs.state_dict().items()}, path)
        return theirs, baselines.load_network(path, {"_class_name": task.kind, **task.settings})


def conditions(task: Task, setting: Setting, names: tuple[str, str]) -> dict[str, Tensor]:
    """What a network is told beside image and timestep, under its own names of labels and of context."""
    import torch

    generator, given = torch.Generator().manual_seed(1), {}
    if task.classes:
        given[names[0]] = torch.randint(task.classes, (setting.images,), generator=generator).to(setting.device)
    if task.context:
        given[names[1]] = torch.randn(setting.images, *task.context, generator=generator).to(setting.device)
    return given


def tools(task: Task, setting: Setting) -> dict[str, Tool]:
    """What is compared, the base first."""
    import torch

    torch.set_num_threads(setting.threads)
    if task.kind == "trained":
        return trained(setting)
    theirs, ours = networks(task)
    theirs = theirs.to(setting.device)
    found = {BASE: pipeline(task, setting, theirs)}
    exact = genbench(task, setting, ours, "float32")
    found["genbench, float32"] = Tool(run=exact[0], same_noise=exact[1], against=BASE)
    fast = genbench(task, setting, ours, "bfloat16")
    found["genbench, bfloat16"] = Tool(run=fast[0], same_noise=fast[1], against="genbench, float32")
    if setting.compiled:
        for precision in ("float32", "bfloat16"):
            run, same = genbench(task, setting, ours, precision, compiled=True)
            found[f"genbench, {precision}, compiled"] = Tool(run=run, same_noise=same, against="genbench, float32")
    if task.sampler == "ddim" and not lacks_k_diffusion():
        found["k-diffusion"] = Tool(run=k_diffusion(task, setting, ours))
    return found


def trained(setting: Setting) -> dict[str, Tool]:
    """`ddim` on shapes as the command line runs it, in both precisions."""
    import numpy as np

    from baselines.systems import ddim

    def run(precision: str) -> Tensor:
        model = ddim.load(dataset="shapes", device=setting.device, precision=precision, steps=setting.steps)
        labels = np.arange(setting.images) % model.classes
        return model.sample(np.arange(setting.images, dtype=np.uint64), labels=labels)

    exact, fast = partial(run, "float32"), partial(run, "bfloat16")
    return {
        "genbench, float32": Tool(run=exact, same_noise=exact),
        "genbench, bfloat16": Tool(run=fast, same_noise=fast, against="genbench, float32"),
    }


def lacks_k_diffusion() -> str:
    """Why k-diffusion cannot be imported, empty if it can; it brings libraries along of which any may be missing."""
    with quiet():
        try:
            import_module("k_diffusion.sampling")
        except ImportError as error:
            return str(error)
    return ""


def state_shape(task: Task, setting: Setting) -> tuple[int, int, int, int]:
    size = task.settings["sample_size"]
    return setting.images, task.settings.get("in_channels", 3), size, size


def seeds(setting: Setting) -> list[int]:
    return list(range(setting.images))


def pipeline(task: Task, setting: Setting, network: nn.Module) -> Tool:
    """DDIMPipeline or DDPMPipeline; neither knows labels or tokens, which the network is given behind its back."""
    import torch
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler

    given = conditions(task, setting, ("class_labels", "encoder_hidden_states"))
    if given:
        network.forward = partial(network.forward, **given)
    made: Any = (
        DDIMPipeline(network, DDIMScheduler()) if task.sampler == "ddim" else DDPMPipeline(network, DDPMScheduler())
    )
    made.set_progress_bar_config(disable=True)

    def run() -> Tensor:
        generators = [torch.Generator(setting.device).manual_seed(seed) for seed in seeds(setting)]
        images: Tensor = made(
            batch_size=setting.images, generator=generators, num_inference_steps=setting.steps, output_type="pt"
        ).images
        return images * 2 - 1

    return Tool(run=run, same_noise=run)


def genbench(
    task: Task, setting: Setting, network: nn.Module, precision: str, *, compiled: bool = False
) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Sampling by the parts that every model here is made of; on its own noise, and on that of diffusers."""
    import torch

    from baselines import guidance, sampling, schedules, steps
    from baselines.denoisers import denoiser
    from baselines.noise import Noise, image_noise

    network, dtype = ready(network, setting, precision), getattr(torch, precision)
    if compiled:
        # On a GPU the launches of many small kernels are recorded once and replayed.
        how = "reduce-overhead" if setting.device.startswith("cuda") else "default"
        network = torch.compile(network, mode=how)  # type: ignore[assignment]
    timesteps = schedules.subsequence(setting.steps, 1000, "uniform")
    grid = schedules.discrete_grid(schedules.betas("linear"), timesteps)
    step = steps.ddim() if task.sampler == "ddim" else steps.ddpm("small")

    def predict(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in condition.items()}
        return network(x.to(dtype).contiguous(memory_format=torch.channels_last), t, **given).float()

    denoise = guidance.on_x0(denoiser(predict, "eps"), guidance.clip, rederive=task.sampler == "ddpm")
    condition = conditions(task, setting, ("y", "context"))
    shape = state_shape(task, setting)

    def sample(noise: Noise) -> Tensor:
        x = noise(0, torch.empty(shape, device=setting.device)).contiguous(memory_format=torch.channels_last)
        return sampling.sample(denoise, step, grid, x, noise, condition)

    def same_noise() -> Tensor:
        generators = [torch.Generator(setting.device).manual_seed(seed) for seed in seeds(setting)]

        def drawn(draw: int, like: Tensor, stream: int = 0) -> Tensor:
            return torch.cat([torch.randn(like[:1].shape, generator=g, device=g.device) for g in generators])

        return sample(drawn)

    return lambda: sample(image_noise(torch.tensor(seeds(setting), device=setting.device))), same_noise


def ready(network: nn.Module, setting: Setting, precision: str) -> nn.Module:
    """A copy as models here prepare their networks."""
    import copy

    import torch

    copied = copy.deepcopy(network).to(device=setting.device, dtype=getattr(torch, precision))
    return copied.to(memory_format=torch.channels_last)


def k_diffusion(task: Task, setting: Setting, network: nn.Module) -> Callable[[], Tensor]:
    """`sample_euler` of k-diffusion over the same noise levels."""
    import torch
    from k_diffusion.external import DiscreteEpsDDPMDenoiser
    from k_diffusion.sampling import sample_euler

    from baselines import schedules
    from baselines.noise import image_noise

    network = ready(network, setting, "float32")
    remaining = torch.from_numpy(schedules.signal(schedules.betas("linear"))).float().to(setting.device)
    denoise = DiscreteEpsDDPMDenoiser(network, remaining, quantize=True)
    timesteps = schedules.subsequence(setting.steps, 1000, "uniform")[::-1]
    sigmas = torch.cat([denoise.sigmas[torch.tensor(timesteps)], denoise.sigmas.new_zeros(1)])
    condition = conditions(task, setting, ("y", "context"))

    def limited(x: Tensor, sigma: Tensor, **given: Tensor) -> Tensor:
        return denoise(x.contiguous(memory_format=torch.channels_last), sigma, **given).clamp(-1, 1)

    @torch.no_grad()
    def run() -> Tensor:
        noise = image_noise(torch.tensor(seeds(setting), device=setting.device))
        x = noise(0, torch.empty(state_shape(task, setting), device=setting.device)) * (1 + sigmas[0] ** 2) ** 0.5
        return sample_euler(limited, x, sigmas, extra_args=condition, disable=True)

    return run


# Measuring


@dataclass(slots=True)
class Measured(benchmarking.Measured):
    """What came of one tool, with the seconds of its first call and how far its images are from those of another."""

    first: float | None = None
    levels: float | None = None
    share: float | None = None


def timed(run: Callable[[], Tensor], device: str) -> float:
    """Seconds of one call, until the device has finished."""
    import torch

    gc.collect()
    started = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measure(task: Task, setting: Setting, rounds: int) -> dict[str, Measured]:
    """Runs in a process of its own: times of all tools in turn, and how far their images are from each other."""
    import torch

    with quiet():
        every = tools(task, setting)
        found = {name: Measured() for name in every}
        images: dict[str, Tensor] = {}
        for name, tool in every.items():
            try:
                found[name].first = timed(tool.run, setting.device)
                if tool.same_noise is not None:
                    images[name] = tool.same_noise().clamp(-1, 1).float().cpu()
            except (RuntimeError, ImportError, torch._dynamo.exc.TorchDynamoException) as error:
                # Such as no compiler, or too little memory: a row, not the end.
                found[name].failure = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            if tool.against in images and name in images:
                apart = (images[name] - images[tool.against]).abs() * LEVELS
                found[name].levels, found[name].share = float(apart.max()), float((apart > 1).float().mean())
        for _ in range(rounds):
            for name, tool in every.items():
                if not found[name].failure:
                    found[name].seconds.append(timed(tool.run, setting.device))
    return found


def memory(task: Task, setting: Setting, name: str) -> float | None:
    """Runs in a process of its own: MiB that a call needs beyond the networks."""
    import torch

    with quiet():
        tool = tools(task, setting)[name]
        gc.collect()
        if setting.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(setting.device)
            before = torch.cuda.memory_allocated(setting.device)
            tool.run()
            return (torch.cuda.max_memory_allocated(setting.device) - before) / 2**20
        # What was freed while the networks were made is given back first, or the call would hide in it.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        started = restart_peak()
        tool.run()
        return None if started is None else (resident("VmHWM:") - started) / 1024


# The table


def rows(task: Task, setting: Setting, found: Mapping[str, Measured], rounds: int) -> list[dict[str, str]]:
    """One row a tool, as texts; what is not known is empty."""
    table = []
    base = next(iter(found))
    for name, one in found.items():
        known = {
            "images_per_second": setting.images / statistics.median(one.seconds) if one.seconds else None,
            "speed": benchmarking.median_ratio(found[base], one) if name != base else None,
            "levels": one.levels,
            "share": one.share,
            "extra_mib": one.extra_mib,
            "first_seconds": one.first,
        }
        table.append(
            {
                "task": task.name,
                "tool": name,
                **{key: as_text(value) for key, value in known.items()},
                "batch": str(setting.images),
                "steps": str(setting.steps),
                "rounds": str(rounds),
                "threads": str(setting.threads),
                "device": device_name(setting.device),
                "date": benchmarking.today(),
                "versions": benchmarking.versions(name),
            }
        )
    return table


def device_name(device: str) -> str:
    """The name of the processor or the card."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else processor()


def write(path: Path, new: Sequence[Mapping[str, str]]) -> None:
    """Writes rows in place of those of the same task on the same device with as many threads."""
    order = list(TASKS)
    tables.merge(
        path,
        COLUMNS,
        new,
        identity=lambda row: (row["task"], row["device"], row["threads"]),
        order=lambda row: (row["device"], row["threads"], order.index(row["task"])),
    )


def table_text(table: Sequence[Mapping[str, str]], found: Mapping[str, Measured]) -> str:
    """What a person reads."""
    shown = ("tool", "images_per_second", "speed", "levels", "share", "extra_mib", "first_seconds")
    lines: list[tuple[str, ...]] = [("task", *shown, "")]
    return columns(lines + [(r["task"], *(r[key] for key in shown), found[r["tool"]].failure) for r in table])


def main() -> None:
    quick = "one round of two images in two steps; writes no table"
    parser = benchmarking.options(__doc__, TABLE, rounds=5, quick=quick)
    parser.add_argument("--device", help="cpu, cuda or cuda:INDEX (a GPU if there is one)")
    parser.add_argument("--images", type=int, help="of a batch (by task and device)")
    parser.add_argument("--steps", type=int, help="of a sample (3 on a CPU, 20 on a GPU)")
    parser.add_argument("--compile", action="store_true", help="rows of networks under torch.compile as well")
    args = parser.parse_args()
    benchmarking.use_threads(args.threads)
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    on_gpu = device.startswith("cuda")
    usual = {name: task for name, task in TASKS.items() if args.only or task.images[on_gpu]}
    wanted = benchmarking.chosen(parser, args.only, usual)
    output = args.output or (None if args.quick else TABLE)
    rounds = args.rounds or (1 if args.quick else 5)
    if reason := fresh(lacks_k_diffusion):
        print(f"k-diffusion cannot be imported ({reason}); its rows are left out.", file=sys.stderr)
    for task in wanted.values():
        setting = Setting(
            images=args.images or (2 if args.quick else task.images[on_gpu] or 1),
            steps=args.steps or (2 if args.quick else task.steps or (20 if on_gpu else 3)),
            device=device,
            threads=args.threads,
            compiled=args.compile,
        )
        print(f"{task.name}: {setting.images} images, {setting.steps} steps", file=sys.stderr, flush=True)
        found: dict[str, Measured] = fresh(measure, task, setting, rounds)
        for name, one in found.items():
            if not (one.failure or args.no_memory):
                one.extra_mib = fresh(memory, task, setting, name)
        table = rows(task, setting, found, rounds)
        print(table_text(table, found), flush=True)
        if output is not None:
            write(output, table)


if __name__ == "__main__":
    main()
