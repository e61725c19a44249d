"""Writes docs/zoo.md, the samplers and distilled networks of `shapes` side by side, from leaderboards/zoo.csv.

python -m scripts.draw_pictures zoo     # their pictures and the plot, into leaderboards/pictures
python -m scripts.render_zoo
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from genbench import registry
from genbench.display import rounded
from genbench.records import Ref

HOME = Path(__file__).resolve().parent.parent
TABLE = HOME / "leaderboards" / "zoo.csv"
METRICS = {
    "fid": "FID", "precision": "precision", "recall": "recall", "nll": "bits a dimension, exact",
    "nll-bound": "bits a dimension, bound",
}  # fmt: skip
"""Metric to the head of its column, which is left out where nothing has the metric."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a reader should know of a system: its paper, its equation, and what it teaches on `shapes`."""

    paper: str
    equation: str
    teaches: str


LESSONS: Mapping[str, Lesson] = {
    "ddim": Lesson(
        "Song et al. 2021, eq. 12",
        "x_q = alpha_q x0 + sigma_q eps",
        "Evenly spaced timesteps from the start of the process waste a short walk; `spacing='respaced'` does not.",
    ),
    "edm": Lesson(
        "Karras et al. 2022, Alg. 2",
        "d(x / alpha) / d(sigma / alpha) = eps, by Heun's rule",
        "Where the levels lie matters more than the order of the rule.",
    ),
    "dpm-solver": Lesson(
        "Lu et al. 2022",
        "x_q = (sigma_q / sigma_p) x - alpha_q (e^-h - 1) D, with D extrapolated from the step before",
        "A step that remembers the last one is of second order at the price of the first.",
    ),
    "unipc": Lesson(
        "Zhao et al. 2023",
        "the step of DPM-Solver++, corrected by the evaluation that the next step needs anyway",
        "A corrector can be had for nothing.",
    ),
    "analytic-dpm": Lesson(
        "Bao et al. 2022, Theorem 1",
        "variance = small + c^2 (sigma_p / alpha_p)^2 (1 - Gamma_p)",
        "The best variance of a step follows from how much noise the network predicts.",
    ),
    "progressive-distillation": Lesson(
        "Salimans and Ho 2022, Alg. 2",
        "one step of the student = two of the teacher",
        "What a sampler does in many steps can be taught to a network, half of them at a time.",
    ),
    "consistency": Lesson(
        "Song et al. 2023, eq. 5",
        "f(x, s) = c_skip x + c_out F, with f(x, smallest s) = x",
        "Every point of a trajectory can be taught to name its end.",
    ),
    "ddss": Lesson(
        "Watson et al. 2022, eq. 5",
        "x_q = mu_0 x0 + sum of mu_j x_j over all states before it + sigma z",
        "The coefficients of a sampler can be learned like weights. These were tuned on the metric's features, so "
        "their FID is no neutral judgement.",
    ),
    "ddgan": Lesson(
        "Xiao et al. 2022, eq. 4",
        "x_q ~ q(x_q | x_p, x0 = G(x_p, z))",
        "A large step back is not Gaussian; a generator that draws the clean image need not pretend that it is.",
    ),
    "lsgm": Lesson(
        "Vahdat et al. 2021, eq. 10",
        "eps = (1 - a) sigma x + a eps of the network",
        "A prior that only corrects a normal one, and an autoencoder that learns what the prior can tell, make one "
        "model with one bound.",
    ),
    "noise-equilibrium": Lesson(
        "Sohl-Dickstein et al. 2015, eq. 5",
        "x_q = sqrt(1 - beta) x + sqrt(beta) f(x) + sqrt(Sigma(x)) z",
        "The first diffusion model has all the parts but the network and the loss that make them good.",
    ),
    "gotta-go-fast": Lesson(
        "Jolicoeur-Martineau et al. 2021, Alg. 1",
        "accept a step if |x_Heun - x_Euler| is within tolerance",
        "Every image takes as many steps as it needs.",
    ),
    "score-sde": Lesson(
        "Song et al. 2021, eq. 6",
        "dx = [f x - g^2 score] dt + g dw",
        "One network serves every Gaussian process, forward in noise or backward, stochastic or not.",
    ),
    "ncsn": Lesson(
        "Song and Ermon 2019, 2020, Alg. 1",
        "x <- x + a score + sqrt(2 a) z on every level",
        "Langevin dynamics alone samples too, at hundreds of evaluations.",
    ),
    "subspace": Lesson(
        "Jing et al. 2022, eq. 9",
        "x = U^T y + (1 - U^T U) n, with n of variance sigma^2 + alpha^2 s^2",
        "Where noise covers the details, small images are enough. The walk is then as good as their network is.",
    ),
    "patched-unet": Lesson(
        "Luhman and Luhman 2022, sec. 3",
        "blocks of P x P pixels become channels",
        "A network of equal width costs P^2 times less, and most of a walk does not miss the pixels.",
    ),
    "cld": Lesson(
        "Dockhorn et al. 2022, Alg. 1",
        "dx = v / M beta dt, dv = (-x - Gamma v / M) beta dt + sqrt(2 Gamma beta) dw",
        "Only velocities are noised, and images follow. What a position and its velocity say of the image is one noisy "
        "image, so that a network of images alone knows their score.",
    ),
    "vdm": Lesson(
        "Kingma et al. 2021, eq. 17",
        "loss = E[gamma'(t) / 2 |eps - eps^|^2]",
        "In continuous time the bound depends on the ends of the schedule alone. Its interior is free, and learns to "
        "make the loss vary least. The bound reads pixels off by the model's own last step. The exact number of the "
        "same network makes them continuous by uniform noise, of which the network knows nothing, and is higher.",
    ),
    "iddpm": Lesson(
        "Nichol and Dhariwal 2021, eq. 15",
        "log variance = v log beta + (1 - v) log beta-tilde",
        "The variance of a step can be learned with the mean.",
    ),
}


def rows_of(path: Path = TABLE) -> list[dict[str, str]]:
    """The rows of the leaderboard.

    Raises:
        FileNotFoundError: it was not measured.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def systems(rows: Sequence[Mapping[str, str]]) -> dict[str, dict[str, Mapping[str, str]]]:
    """Model to metric to row, those with fewer evaluations first."""
    found: dict[str, dict[str, Mapping[str, str]]] = {}
    for row in sorted(rows, key=lambda row: (float(row["evaluations"] or "inf"), row["model"])):
        found.setdefault(row["model"], {})[row["metric"].partition("(")[0].partition("@")[0]] = row
    return found


def page(rows: Sequence[Mapping[str, str]]) -> str:
    """The page, as Markdown."""
    found = systems(rows)
    first = rows[0]
    floor = next(row["floor"] for row in rows if row["metric"].startswith("fid("))
    lines = [
        "# The zoo: systems side by side on one data set",
        "",
        f"{first['num_samples']} images of seed {first['seed']}, FID under the protocol `{first['protocol']}`, +- one "
        f"standard error. The floor, which is the FID of as many real images, is {float(floor):.2g}. Systems without a",
        "network of their own sample `shapes-pixel`, so that what differs is the sampler. The numbers are those of",
        "`leaderboards/zoo.csv`, which `genbench bench` measures with `leaderboards/zoo.toml`, `zoo-long.toml`,",
        "`zoo-likelihood.toml` and `zoo-exact.toml`.",
        "",
        "![FID against evaluations](../leaderboards/pictures/evaluations.png)",
        "",
    ]
    shown_metrics = [name for name in METRICS if any(name in metrics for metrics in found.values())]
    heads = ["model", "network", "evaluations an image", *(METRICS[name] for name in shown_metrics)]
    lines += [f"| {' | '.join(heads)} |", f"|---|---|{'---:|' * (len(heads) - 2)}"]
    for model, metrics in found.items():
        cells = [_cell(metrics.get(metric)) for metric in shown_metrics]
        evaluations = next((row["evaluations"] for row in metrics.values() if row["evaluations"]), "")
        count = rounded(float(evaluations), None) if evaluations else ""
        load, ref = registry.bind("model", Ref.parse(model))
        made = load(dataset=Ref.parse(first["dataset"]).name, device="cpu", precision="float32", **ref.args)
        networks = ", ".join(made.weights.release.files)
        lines.append(f"| `{ref.brief()}` | {networks} | {count} | {' | '.join(cells)} |")
    lines += ["", "## What each of them is", ""]
    lines += ["The pictures show the same sixteen seeds, under the arguments with the most evaluations.", ""]
    shown = dict.fromkeys(model.partition("(")[0] for model in found)
    for name in shown:
        lesson = LESSONS[name]
        lines += [f"**{name}** ({lesson.paper}): {lesson.equation}. {lesson.teaches}", ""]
        if (HOME / "leaderboards" / "pictures" / f"zoo-{name}.png").exists():
            lines += [f"![sixteen images of {name}](../leaderboards/pictures/zoo-{name}.png)", ""]
    return "\n".join(lines)


def _cell(row: Mapping[str, str] | None) -> str:
    if row is None:
        return ""
    value = float(row["value"])
    return f"{value:.3g} +- {float(row['stderr']):.2g}" if row["stderr"] else f"{value:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE, help="rows of a leaderboard")
    parser.add_argument("--output", type=Path, default=HOME / "docs" / "zoo.md", help="page that is written")
    args = parser.parse_args()
    args.output.write_text(page(rows_of(args.table)), encoding="utf-8")


if __name__ == "__main__":
    main()
