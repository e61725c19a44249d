"""Measures the rows of `leaderboards/shapes.csv`, each as `genbench run --leaderboard` would.

python -m scripts.measure_leaderboard          # every row; those that are there are not sampled again
python -m scripts.measure_leaderboard steps    # one group
"""

from __future__ import annotations

import argparse
from pathlib import Path

from genbench import display, pipeline, report
from genbench.protocols import protocol
from genbench.records import Measurement, Ref, RunSpec
from scripts.benchmarking import LEADERBOARDS

BOARD = LEADERBOARDS / "shapes.csv"
QUALITY = ("fid", "sfid", "is", "precision", "recall", "top1")
ALL = (*QUALITY, "clip-score", "cas")

GROUPS: dict[str, list[tuple[str, tuple[str, ...]]]] = {
    "systems": [
        ("ddim(steps=50)", ALL),
        ("cfg(scale=1.5, steps=50)", ALL),
        ("adm-g(scale=1.0, steps=50, sampler='ddim')", ALL),
        ("ldm(scale=1.5, steps=50)", ALL),
        ("ddpm(steps=1000, variance='large')", ALL),
    ],
    "steps": [(f"ddim(steps={steps})", QUALITY) for steps in (10, 20, 50, 100)],
    "cfg": [(f"cfg(scale={scale}, steps=50)", QUALITY) for scale in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)],
    "adm-g": [
        (f"adm-g(scale={scale}, steps=50, sampler='ddim')", QUALITY) for scale in (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
    ],
    "ldm": [(f"ldm(scale={scale}, steps=50)", QUALITY) for scale in (0.0, 1.0, 1.5, 2.0, 3.0, 5.0)],
    "ancestral": [
        *((f"ddpm(steps={steps}, variance='{kind}')", QUALITY) for steps in (10, 100) for kind in ("small", "large")),
        ("ddpm(steps=100, variance='learned')", QUALITY),
        ("ddim(steps=50, eta=1.0)", QUALITY),
        ("ddim(steps=20, spacing='quadratic')", QUALITY),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", choices=[*GROUPS, []], help="which rows; all without one")
    parser.add_argument("--num-samples", type=int, default=1000, help="images of a row")
    parser.add_argument("--seed", type=int, default=0, help="of the runs")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of the runs")
    parser.add_argument("--board", type=Path, default=BOARD, help="table to write (leaderboards/shapes.csv)")
    args = parser.parse_args()
    for group in args.groups or GROUPS:
        for model, metrics in GROUPS[group]:
            spec = RunSpec(model=Ref.parse(model), dataset=Ref("shapes"), num_samples=args.num_samples, seed=args.seed)
            outcome = pipeline.run(
                spec, [Measurement.parse(m) for m in metrics], protocol=protocol("embedded"), output=args.output
            )
            report.merge_leaderboard(args.board, outcome.results)
            print(f"{model}\n{display.table_text(outcome.results)}\n", flush=True)


if __name__ == "__main__":
    main()
