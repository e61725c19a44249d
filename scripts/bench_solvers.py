"""Measures what samplers cost without their network, beside diffusers' schedulers and k-diffusion.

    python -m scripts.bench_solvers            # into leaderboards/benchmark_solvers.csv
    python -m scripts.bench_solvers --quick    # one round of few steps, to see that it runs; writes no table

The "network" halves its input, so that what is measured is the arithmetic of the steps: microseconds an evaluation of a
batch. A row of the shipped network shows what an evaluation of it costs. `by_ddim` is the ratio to this project's
`ddim` in the same round, `by_peer` that of the peer with the same method to this project, above 1 where this project is
faster; both are medians over rounds. All take the same number of evaluations from the same noise, and a test holds
their results together. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from genbench import tables
from genbench.display import columns
from scripts import benchmarking
from scripts.benchmarking import Measured, as_text, median_ratio, quiet

if TYPE_CHECKING:
    from torch import Tensor

TABLE = benchmarking.LEADERBOARDS / "benchmark_solvers.csv"
COLUMNS = (
    "method", "tool", "microseconds", "by_ddim", "by_peer", "batch", "evaluations", "rounds", "threads", "device",
    "date", "versions",
)  # fmt: skip
OWN = "genbench"
NETWORK = "the network of shapes"
BATCH, SIDE = 64, 32
Run = Callable[[], "Tensor"]


def k_diffusion() -> Any:
    """The samplers of k-diffusion, without the rest of the package, whose libraries may be missing.

    Raises:
        ImportError: it cannot be imported.
    """
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        raise ImportError("k-diffusion is not installed")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations or ())
    before = sys.modules.get("k_diffusion")
    sys.modules["k_diffusion"] = package
    try:
        with quiet():
            return importlib.import_module("k_diffusion.sampling")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "k_diffusion"]:
            del sys.modules[name]
        if before is not None:
            sys.modules["k_diffusion"] = before


def tools(evaluations: int) -> dict[tuple[str, str], Run]:
    """Every method by every tool that has it, each with that many evaluations; this project's first."""
    import torch

    from baselines import multistep, steps
    from baselines.denoisers import Condition, Prediction
    from baselines.files.cards import release
    from baselines.files.weights import Weights
    from baselines.sampling import walk
    from baselines.schedules import EDM, Discrete, Level, Process, karras_ratios, ratio_grid

    noise = torch.randn(BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def denoise(x: Tensor, p: Level, condition: Condition) -> Prediction:
        x0 = (0.5 / p.alpha) * x  # the same function of x / alpha on every process
        return Prediction(x0, (x - p.alpha * x0) / p.sigma)

    def own(make_step: Callable[[], steps.Step], process: Process, count: int) -> Run:
        grid = ratio_grid(process, karras_ratios(count, low=0.011))
        sampler, start = walk(make_step, grid), grid[0].sigma * noise
        return lambda: sampler(denoise, start, lambda draw, like, stream=0: like, {})

    def of_k_diffusion(name: str, count: int) -> Run:
        sample = getattr(k_diffusion(), name)
        sigmas = torch.tensor([*karras_ratios(count, low=0.011), 0.0])
        return lambda: sample(lambda x, sigma: 0.5 * x, 80.0 * noise, sigmas, disable=True)

    def of_diffusers(name: str, **settings: Any) -> Run:
        import diffusers

        grid = ratio_grid(Discrete(), karras_ratios(evaluations, low=0.011))

        def run() -> Tensor:
            scheduler = getattr(diffusers, name)(
                prediction_type="sample", final_sigmas_type="zero", lower_order_final=True, **settings
            )
            scheduler.set_timesteps(evaluations)
            scheduler.sigmas = torch.tensor([p.ratio for p in grid])
            x = grid[0].sigma * noise
            for t, p in zip(scheduler.timesteps, grid, strict=False):
                x = scheduler.step((0.5 / p.alpha) * x, t, x).prev_sample
            return x

        return run

    def network() -> Tensor:
        for _ in range(evaluations):
            x = shipped(noise, EDM.at(1.0)._replace(t=500.0, alpha=0.7, sigma=0.7), {"y": labels}).x0
        return x

    shipped = Weights(release=release("shapes-pixel"), device="cpu", precision="float32").denoiser()
    labels = torch.zeros(BATCH, dtype=torch.int64)
    half = (evaluations + 1) // 2  # Heun's method evaluates twice on every level but the last
    discrete = Discrete()
    found: dict[tuple[str, str], Run] = {
        ("ddim", OWN): own(steps.ddim, EDM, evaluations),
        ("ddim", "k-diffusion"): lambda: of_k_diffusion("sample_euler", evaluations)(),
        ("dpm-solver++ 2M", OWN): own(multistep.dpm_solver, discrete, evaluations),
        ("dpm-solver++ 2M", "diffusers"): of_diffusers("DPMSolverMultistepScheduler", solver_order=2),
        ("dpm-solver++ 2M", "k-diffusion"): lambda: of_k_diffusion("sample_dpmpp_2m", evaluations)(),
        ("unipc-2", OWN): own(lambda: multistep.unipc(2), discrete, evaluations),
        ("unipc-2", "diffusers"): of_diffusers("UniPCMultistepScheduler", solver_order=2),
        ("heun", OWN): own(steps.heun, EDM, half),
        ("heun", "k-diffusion"): lambda: of_k_diffusion("sample_heun", half)(),
        (NETWORK, OWN): network,
    }
    try:
        k_diffusion()
    except ImportError as error:
        print(f"k-diffusion cannot be imported ({error}); its rows are left out.", file=sys.stderr)
        return {key: run for key, run in found.items() if key[1] != "k-diffusion"}
    return found


def measure(rounds: int, evaluations: int) -> dict[tuple[str, str], Measured]:
    """Runs in a process of its own: all take turns, after a call each that is not counted."""
    import torch

    with quiet():
        every = tools(evaluations)
        found = {key: Measured() for key in every}
        with torch.no_grad():
            for number in range(rounds + 1):
                for key, run in every.items():
                    started = time.perf_counter()
                    run()
                    if number:
                        found[key].seconds.append(time.perf_counter() - started)
    return found


def rows(found: dict[tuple[str, str], Measured], rounds: int, threads: int, evaluations: int) -> list[dict[str, str]]:
    """One row a method and tool, as texts."""
    table = []
    for (method, tool), one in found.items():
        seconds = sorted(one.seconds)[len(one.seconds) // 2]
        base, own = found["ddim", OWN], found[method, OWN]
        table.append(
            {
                "method": method,
                "tool": tool,
                "microseconds": as_text(1e6 * seconds / evaluations),
                "by_ddim": as_text(median_ratio(one, base), ".3g"),
                "by_peer": as_text(None if tool == OWN else median_ratio(one, own), ".3g"),
                "batch": str(BATCH),
                "evaluations": str(evaluations),
                "rounds": str(rounds),
                "threads": str(threads),
                "device": benchmarking.processor(),
                "date": benchmarking.today(),
                "versions": benchmarking.versions(tool),
            }
        )
    return table


def main() -> None:
    quick = "one round of five evaluations; writes no table"
    parser = benchmarking.options(__doc__, TABLE, rounds=30, quick=quick)
    args = parser.parse_args()
    benchmarking.use_threads(args.threads)
    rounds, evaluations = args.rounds or (1 if args.quick else 30), 5 if args.quick else 19
    found = benchmarking.fresh(measure, rounds, evaluations)
    table = rows(found, rounds, args.threads, evaluations)
    shown = COLUMNS[:5]
    print(columns([shown, *(tuple(row[name] for name in shown) for row in table)]))
    output = args.output or (None if args.quick else TABLE)
    if output is not None:
        tables.merge(
            output,
            COLUMNS,
            table,
            identity=lambda row: (row["device"], row["threads"]),
            order=lambda row: (row["device"], row["threads"]),
        )


if __name__ == "__main__":
    main()
