"""Draws the pictures of `leaderboards/pictures`: samples by class, caption and guidance scale, and the trade-off plot.

python -m scripts.draw_pictures             # everything
python -m scripts.draw_pictures guidance    # the plot alone, from leaderboards/shapes.csv (extra: plots)
python -m scripts.draw_pictures zoo         # images and plot of docs/zoo.md, from leaderboards/zoo.csv
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from baselines.systems import adm, cfg, ddim, ddpm, ldm
from genbench import generation, images, registry
from genbench.arrays import Images
from genbench.contracts import Model
from genbench.datasets import shapes
from genbench.images import pictures
from genbench.images.strips import About
from genbench.records import Ref
from scripts.render_zoo import rows_of, systems

HOME = Path(__file__).resolve().parent.parent / "leaderboards"
WHERE: dict[str, Any] = {"dataset": "shapes", "device": "cpu", "precision": "float32"}
SYSTEMS: dict[str, Callable[[], Model]] = {
    "ddpm": lambda: ddpm.load(**WHERE, steps=250, variance="learned"),
    "ddim": lambda: ddim.load(**WHERE, steps=50),
    "cfg": lambda: cfg.load(**WHERE, steps=50, scale=1.5),
    "adm-g": lambda: adm.load_guided(**WHERE, steps=50, sampler="ddim", scale=1.0),
    "ldm": lambda: ldm.load(**WHERE, steps=50, scale=1.5, spacing="uniform", last="clean", condition="label"),
}  # fmt: skip
SCALES: dict[str, tuple[float, ...]] = {
    "cfg": (0.0, 1.0, 1.5, 2.0, 3.0, 5.0),
    "adm-g": (0.0, 1.0, 2.0, 5.0, 10.0),
    "ldm": (0.0, 1.0, 1.5, 2.0, 3.0, 5.0),
}
PANELS = {"fid": "FID (lower is better)", "is": "Inception score", "precision": "precision", "recall": "recall"}


def drawn(model: Model, seed: int, **conditions: Any) -> Images:
    """8-bit images of the first seeds of a run."""
    (count,) = {len(value) for value in conditions.values()}
    made = model.sample(generation.image_seeds(seed, 0, count), **conditions)
    return generation.quantise(made).numpy()


def classes(folder: Path) -> None:
    """A row of 8 images a class, for every system; row by row, the classes of `shapes` in their order."""
    labels = np.repeat(np.arange(len(shapes.CLASSES)), 8)
    for name, make in SYSTEMS.items():
        images.write_grid(drawn(make(), 0, labels=labels), folder / f"{name}-classes.png")


def captions(folder: Path) -> None:
    """Every shape in every colour, asked for by caption: a row a shape, a column a colour."""
    texts = [f"a large {colour} {shape} on a grey background" for shape in shapes.CLASSES for colour in shapes.COLOURS]
    model = ldm.load(**WHERE, steps=50, scale=2.0, spacing="uniform", last="clean")
    images.write_grid(drawn(model, 0, captions=texts), folder / "ldm-captions.png", columns=len(shapes.COLOURS))


def scales(folder: Path) -> None:
    """The same seeds and classes under growing guidance: a row a scale, smallest first."""
    labels = np.arange(len(shapes.CLASSES))
    for name, row in SCALES.items():
        grid = []
        for scale in row:
            model = {
                "cfg": lambda s: cfg.load(**WHERE, steps=50, scale=s),
                "adm-g": lambda s: adm.load_guided(**WHERE, steps=50, sampler="ddim", scale=s),
                "ldm": lambda s: ldm.load(
                    **WHERE, steps=50, scale=s, spacing="uniform", last="clean", condition="label"
                ),
            }[name](scale)
            grid.append(drawn(model, 1, labels=labels))
        images.write_grid(np.concatenate(grid), folder / f"{name}-scales.png", columns=len(labels))


def trajectories(folder: Path) -> None:
    """How images come about: states above, predicted images below."""
    for name in ("ddpm", "ddim", "ldm"):
        seeds, labels = generation.image_seeds(0, 0, 3), np.array([4, 6, 8])
        shown = generation.frames(SYSTEMS[name](), seeds, 10, labels=labels)
        images.write_grid(pictures.rows(shown), folder / f"{name}-trajectory.png", columns=shown.shape[2])


def _pyplot() -> Any:
    """matplotlib's interface, with the look of all plots."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams |= {"svg.hashsalt": "genbench", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    from matplotlib import pyplot as plt

    return plt


def guidance(folder: Path) -> None:
    """The trade-off of fidelity and diversity: metrics against the scale, with 95 % intervals and the floor."""
    plt = _pyplot()
    with (HOME / "shapes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    figure, axes = plt.subplots(len(SCALES), len(PANELS), figsize=(11, 2.4 * len(SCALES)), constrained_layout=True)
    for line, name in zip(axes, SCALES, strict=True):
        neutral = 0.0 if name == "adm-g" else 1.0
        for axis, (metric, title) in zip(line, PANELS.items(), strict=True):
            points = sorted(_points(rows, name, metric))
            if not points:
                continue
            x, value, low, high, floor = (np.array(column) for column in zip(*points, strict=True))
            axis.fill_between(x, low, high, alpha=0.25, linewidth=0)
            axis.plot(x, value, marker="o", markersize=3)
            axis.axhline(floor[0], color="0.5", linestyle="--", linewidth=0.8)
            axis.axvline(neutral, color="0.8", linewidth=0.8)
            axis.set_title(title if name == next(iter(SCALES)) else "", fontsize=9)
            axis.set_xlabel(f"scale of {name}")
            if metric == "fid":
                axis.set_yscale("log")
    figure.savefig(folder / "guidance.png", dpi=110, metadata={"Software": None})


def _points(rows: list[dict[str, str]], name: str, metric: str) -> list[tuple[float, ...]]:
    """(scale, value, low, high, floor) of the rows of 50 steps."""
    found = []
    for row in rows:
        model, measured = Ref.parse(row["model"]), Ref.parse(row["metric"])
        if model.name == name and measured.name == metric and model.args.get("steps") == 50:
            low, high = row["ci_low"] or row["value"], row["ci_high"] or row["value"]
            numbers = (float(text) for text in (row["value"], low, high, row["floor"] or "nan"))
            found.append((float(str(model.args["scale"])), *numbers))
    return found


def zoo(folder: Path) -> None:
    """Sixteen images of the same seeds and labels by every system of the zoo, and FID against evaluations."""
    found = systems(rows_of())
    shown: dict[str, str] = {}
    for model in found:  # the variant with the most evaluations, which comes last
        shown[model.partition("(")[0]] = model
    seeds = generation.image_seeds(0, 0, 16)
    labels = generation.image_labels(seeds, len(shapes.CLASSES))
    for name, text in shown.items():
        load, ref = registry.bind("model", Ref.parse(text))
        model = load(**WHERE, **ref.args)
        classes = [shapes.CLASSES[label] for label in labels]
        captions = [shapes.SHAPES.prompt.format(shape) for shape in classes]
        given = {k: v for k, v in {"labels": labels, "captions": captions}.items() if k in model.takes}
        told = classes if "labels" in given else captions if given else [""] * len(classes)
        about = About(model=text, dataset="shapes(seed=0)", seed=0, conditions=tuple(told))
        made = model.sample(seeds, **given)
        images.write_strip(generation.quantise(made).numpy(), folder / f"zoo-{name}.png", about)
    evaluations(folder, found)


def evaluations(folder: Path, found: Mapping[str, Mapping[str, Mapping[str, str]]]) -> None:
    """FID against evaluations an image, both on a logarithmic axis, with 95 % intervals and the floor.

    Points of the same number of evaluations stand a little beside each other.
    """
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(8.5, 4.6), constrained_layout=True)
    by_system: dict[str, list[tuple[float, float, float, float]]] = {}
    floor, beside = math.nan, Counter[float]()
    for model, metrics in found.items():
        if (row := metrics.get("fid")) is None:
            continue
        value, floor = float(row["value"]), float(row["floor"] or "nan")
        low, high = float(row["ci_low"] or value), float(row["ci_high"] or value)
        count = float(row["evaluations"])
        by_system.setdefault(model.partition("(")[0], []).append((count * 1.025 ** beside[count], value, low, high))
        beside[count] += 1
    for number, (name, points) in enumerate(by_system.items()):
        x, y, least, most = (np.array(column) for column in zip(*sorted(points), strict=True))
        marker = "osD^vP*Xp<>h"[number % 12]
        axis.errorbar(x, y, yerr=(y - least, most - y), fmt=marker, markersize=5, capsize=2, label=name)
    axis.axhline(floor, color="0.5", linestyle="--", linewidth=0.8, label="FID of as many real images")
    axis.set(xscale="log", yscale="log", xlabel="evaluations of the network an image", ylabel="FID on shapes")
    for column, place in enumerate((axis.set_xticks, axis.set_yticks)):
        numbers = [point[column] for points in by_system.values() for point in points] + [floor] * column
        ticks = [t for t in _TICKS if min(numbers) / 1.3 <= t <= 1.3 * max(numbers)]
        place(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    figure.legend(fontsize=7, frameon=False, loc="outside right center")
    figure.savefig(folder / "evaluations.png", dpi=110, metadata={"Software": None})


_TICKS = [factor * 10.0**power for power in range(-1, 4) for factor in (1, 2, 5)]


DRAW = {
    "classes": classes, "captions": captions, "scales": scales, "trajectories": trajectories, "guidance": guidance,
    "zoo": zoo,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*DRAW, []], help="which pictures; all without one")
    parser.add_argument("--folder", type=Path, default=HOME / "pictures", help="to write to (leaderboards/pictures)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for what in args.what or DRAW:
        DRAW[what](args.folder)


if __name__ == "__main__":
    main()
