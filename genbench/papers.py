"""What the papers report: the published number beside a measured one, and whether the two may be compared.

`leaderboards/reported.csv` holds one published number a row; `leaderboards/README.md` explains its columns. Nothing
here needs more than the csv module, so that listing and planning stay light.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from genbench import tables
from genbench.errors import InputRejected, MissingAsset
from genbench.records import Measurement, Ref, Result, Scalar

TIERS = ("read", "secondary", "digitised", "recalled")
"""How well a number is verified, best first: read in the paper or in the repository that publishes it; in notes on the
paper or in another paper's quotation; off the authors' plot; from memory alone."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that spreadsheets execute; a text cell that starts with one gets an apostrophe before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A number as a paper prints it. Text is empty and numbers are None where the sources do not say.

    Attributes:
        system, variant, conditioning: what was evaluated, in the words of the paper.
        paper, arxiv, year: where the number is printed, which need not be the paper of the system.
        dataset, resolution: such as "ImageNet", 256 (pixels a side).
        steps: network evaluations or sampling steps, as the paper counts them.
        guidance, guidance_scale: kind ("none", "cfg", "classifier", "truncation", ...) and scale; for "cfg" always the
            s that is 1 without guidance.
        metric, value: such as "fid", 3.17; percentages and fractions as printed.
        num_samples, reference, extractor: the protocol: generated images, split they are compared with, network.
        origin: "own" (by the authors of the system), "quoted" from elsewhere, or "remeasured" by other people.
        source: table, figure or section of the paper.
        read_in: where the number was read for this list.
        verified: one of TIERS.
        disputed: why the number should not be relied on; empty for almost all.
        note: what else must be known.
    """

    system: str
    paper: str
    arxiv: str
    year: int | None
    dataset: str
    resolution: int | None
    conditioning: str
    variant: str
    steps: int | None
    guidance: str
    guidance_scale: float | None
    metric: str
    value: float
    num_samples: int | None
    reference: str
    extractor: str
    origin: str
    source: str
    read_in: str
    verified: str
    disputed: str
    note: str

    @property
    def citation(self) -> str:
        """Where to look it up, such as "arXiv:2010.02502, Table 1"."""
        return f"{f'arXiv:{self.arxiv}' if self.arxiv else self.paper}, {self.source}"


COLUMNS = tuple(field.name for field in fields(Reported))
NUMBERS = {"year": int, "resolution": int, "steps": int, "guidance_scale": float, "value": float, "num_samples": int}


def leaderboards() -> Path:
    """The folder of the leaderboards: in the package where it is installed, beside it in a source checkout.

    Raises:
        MissingAsset: neither holds `reported.csv`.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "leaderboards", package.parent / "leaderboards"):
        if (folder / "reported.csv").is_file():
            return folder
    raise MissingAsset(f"No leaderboards/reported.csv in {package} or beside it; install genbench again.")


def read(path: Path) -> tuple[Reported, ...]:
    """All rows of a reported leaderboard, in the order of the file.

    Raises:
        InputRejected: another header, a row of another length, or a number that is none; the message names the line.
    """

    def parsed(row: Mapping[str, str]) -> Reported:
        cells: dict[str, str | int | float | None] = {}
        for name, cell in row.items():
            if name in NUMBERS:
                cells[name] = NUMBERS[name](cell) if cell else None
            else:
                cells[name] = cell[1:] if cell[:1] == "'" and cell[1:].startswith(FORMULA) else cell
        return Reported(**cells)  # type: ignore[arg-type]

    rows = []
    for number, row in enumerate(tables.read(path, COLUMNS), start=2):
        try:
            rows.append(parsed(row))
        except ValueError as error:
            raise InputRejected(f"Cannot read {path.name}, line {number}: {error}.") from error
    return tuple(rows)


@cache
def reported() -> tuple[Reported, ...]:
    """The published numbers that come with this project, read once.

    Raises:
        MissingAsset: the file is not there.
    """
    return read(leaderboards() / "reported.csv")


DATASETS: dict[str, tuple[str, int]] = {
    "cifar10": ("CIFAR-10", 32),
    "celeba": ("CelebA", 64),
    "celebahq": ("CelebA-HQ", 256),
    "ffhq": ("FFHQ", 256),
    "lsunbedroom": ("LSUN Bedroom", 256),
    "lsunchurch": ("LSUN Church", 256),
    "lsuncat": ("LSUN Cat", 256),
    "lsunhorse": ("LSUN Horse", 256),
    "imagenet64": ("ImageNet", 64),
    "imagenet128": ("ImageNet", 128),
    "imagenet256": ("ImageNet", 256),
    "imagenet512": ("ImageNet", 512),
    "coco": ("MS-COCO", 256),
}
"""Names of this project's data sets, without punctuation, to those of the papers. Others, such as shapes, have none."""

METRICS = {"clip-score": "clip_score", "cas": "cas_top1", "fd": "fid"}
"""Names of this project's metrics to those of the file, where they differ."""

LEGACY_RESIZES = ("tf1", "nvidia", "bilinear")
"""Of `inception`: those that the published numbers were made with; they agree to about 0.1 in FID on CIFAR-10, where
antialiased ones do not."""

Want = Mapping[str, Scalar]
"""Columns of the row that is wanted; `variant` need only begin like this."""


def _ddpm(args: Mapping[str, Scalar], dataset: str, resolution: int) -> Iterator[Want]:
    usual = "large" if dataset == "CIFAR-10" else "small"
    steps, large = args.get("steps", 1000), args.get("variance", usual) == "large"
    if not large and args.get("variance", usual) != "small":
        return  # nothing was published for other variances on these weights
    # The paper took the large variance on CIFAR-10 and the small one on 256x256 images.
    own = large == (dataset == "CIFAR-10")
    if steps == 1000 and own:
        yield {"arxiv": "2006.11239", "system": "DDPM", "steps": 1000, "variant": "L_simple (eps"}
        if dataset != "CIFAR-10":
            yield {"arxiv": "2006.11239", "system": "DDPM", "steps": 1000, "variant": "L_simple"}
    kind = "sigma-hat" if large else "eta=1.0"
    yield {"arxiv": "2010.02502", "system": "DDIM", "steps": steps, "variant": f"{kind} (DDPM"}
    if steps == 1000 and own:
        yield {"arxiv": "2206.09479", "system": "DDPM"}


def _ddim(args: Mapping[str, Scalar], dataset: str, resolution: int) -> Iterator[Want]:
    steps, eta = args.get("steps", 50), float(args.get("eta", 0.0) or 0.0)
    yield {"arxiv": "2010.02502", "system": "DDIM", "steps": steps, "variant": f"eta={eta!r} ("}
    yield {"arxiv": "2010.02502", "system": "DDIM", "steps": steps, "variant": f"eta={eta!r},"}
    if eta == 0:
        yield {"arxiv": "2202.05830", "system": "DDIM", "steps": steps, "variant": "quadratic stride"}


def _adm_g(args: Mapping[str, Scalar], dataset: str, resolution: int) -> Iterator[Want]:
    # The paper sweeps the scale for each resolution (its Table 14); this is what its Table 5 uses, where ImageNet at 64
    # pixels and LSUN are not guided.
    plain = resolution == 64 or dataset != "ImageNet"
    scale = args.get("scale", 0.0 if plain else {128: 0.5, 512: 4.0}.get(resolution, 1.0))
    want = {"arxiv": "2105.05233", "steps": args.get("steps", 250 if dataset == "ImageNet" else 1000)}
    if scale == 0:
        yield {**want, "system": "ADM", "guidance": "none", "variant": "dropout"}
        yield {**want, "system": "ADM", "guidance": "none"}
    else:
        yield {**want, "system": "ADM-G", "guidance": "classifier", "guidance_scale": scale}


def _adm_u(args: Mapping[str, Scalar], dataset: str, resolution: int) -> Iterator[Want]:
    guided = args.get("scale", 1.0) != 0
    steps = f"{args.get('steps', 250)}+{args.get('enlarging_steps', 250)} steps"
    want: Want = {"arxiv": "2105.05233", "system": "ADM-G,U" if guided else "ADM-U"}
    if guided and resolution == 256:
        # The one row of that resolution names the scale first; the number of steps is in its variant.
        if steps == "250+250 steps":
            yield {**want, "guidance_scale": args.get("scale", 1.0)}
    else:
        yield {**want, "variant": steps}


def _cfg(args: Mapping[str, Scalar], dataset: str, resolution: int) -> Iterator[Want]:
    scale = float(args.get("scale", 1.1 if resolution == 64 else 1.3) or 0.0)
    want: Want = {"arxiv": "2207.12598", "system": "CFG", "guidance_scale": scale}
    if resolution == 64:
        # The paper prints three label dropout rates there, and not the number of steps.
        yield {**want, "variant": f"w={scale - 1:.1f}, p_uncond=0.1"}
    else:
        yield {**want, "steps": args.get("steps", 256)}


def _ldm(args: Mapping[str, Scalar], dataset: str, resolution: int) -> Iterator[Want]:
    if dataset not in ("ImageNet", "MS-COCO"):
        steps = args.get("steps", 500 if dataset == "CelebA-HQ" else 200)
        yield {"arxiv": "2112.10752", "guidance": "none", "steps": steps}
        return
    system, scale = "LDM-KL-8" if dataset == "MS-COCO" else "LDM-4", args.get("scale", 1.5)
    want: Want = {"arxiv": "2112.10752", "steps": args.get("steps", 250)}
    if scale == 1:
        yield {**want, "system": system, "guidance": "none"}
    else:
        yield {**want, "system": f"{system}-G", "guidance": "cfg", "guidance_scale": scale}


HEADLINE = {
    "ddpm": "cifar10", "ddim": "cifar10", "adm-g": "imagenet256", "adm-u": "imagenet256", "cfg": "imagenet64",
    "ldm": "imagenet256",
}  # fmt: skip
"""Data set of the row that is shown where a system's paper has nothing on the data set of the run."""

_ROWS = {"ddpm": _ddpm, "ddim": _ddim, "adm-g": _adm_g, "adm-u": _adm_u, "cfg": _cfg, "ldm": _ldm}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.partition("(")[0].lower())


def _column(metric: str) -> str:
    """The metric of the file for one of this project, as text with or without extractor: `fd@dinov2` is fd_dinov2."""
    what = Measurement.parse(metric)
    if what.extractor is not None and what.extractor.name.startswith("dinov2"):
        return f"{what.metric.name}_dinov2"
    return METRICS.get(what.metric.name, what.metric.name.replace("-", "_"))


def _agrees(row: Reported, want: Want) -> bool:
    for name, value in want.items():
        given = getattr(row, name)
        if name == "variant":
            same = given.startswith(str(value))
        elif isinstance(value, float) and isinstance(given, float):
            same = abs(given - value) < 1e-9
        else:
            same = given == value
        if not same:
            return False
    return True


def lookup(model: Ref, metric: str, dataset: str) -> Reported | None:
    """The number that stands in the papers for a system of this project.

    Args:
        model: with its arguments, such as ddim(steps=50, eta=0.0); those not given are as in the paper's headline row.
        metric: of this project, such as "fid" or "fd@dinov2".
        dataset: of this project. Where the paper has numbers on it, they are searched; else those on the data set of
            its headline row (HEADLINE), so that a run on `shapes` sees the CIFAR-10 number; `comparable` says that.

    Returns:
        The row that the arguments select (steps, eta, variance, scale): by the authors of the system before those of a
        later paper, measured before quoted, never disputed. Where no row has these arguments, the headline row; None
        where there is none either.

    Source:
        DDPM Tables 1 and 3, DDIM Table 1 (also for DDPM in few steps), ADM Tables 4 to 6, classifier-free guidance
        Tables 1 and 2, LDM Tables 1, 2, 3 and 10. Inception scores of DDIM are from Watson et al. 2022, and precision
        and recall of DDPM from StudioGAN, since the authors print none.
    """
    if model.name not in _ROWS:
        return None
    column = _column(metric)
    published = DATASETS.get(_plain(dataset))
    papers = {want["arxiv"] for want in _ROWS[model.name](model.args, *(published or DATASETS[HEADLINE[model.name]]))}
    if published is None or not any(r.arxiv in papers and (r.dataset, r.resolution) == published for r in reported()):
        published = DATASETS[HEADLINE[model.name]]
    rows = [r for r in reported() if r.metric == column and (r.dataset, r.resolution) == published and not r.disputed]
    # A run with arguments that no paper used still sees the headline row; what differs is told by who compares.
    for args in (model.args, {}):
        for want in _ROWS[model.name](args, *published):
            found = [row for row in rows if _agrees(row, want)]
            if found:
                return min(found, key=lambda row: (row.origin == "quoted", TIERS.index(row.verified)))
    return None


def _split(text: str) -> str:
    found = re.search(r"\b(train|test|val)", text.lower())
    return found[1] if found else ""


def _architecture(extractor: str) -> tuple[str, ...]:
    """Letter and patch of a vision transformer, which is what CLIP and DINOv2 come in: "ViT-L/14" is ("l", "14")."""
    found = re.search(r"vit[^a-z]*([a-z])[a-z_]*[^0-9]*(\d+)", extractor.lower())
    return found.groups() if found else ()


def _network(ours: str, theirs: str) -> list[str]:
    """Why the features of two extractors differ, as a list of at most one reason."""
    name, published = _plain(ours), _plain(theirs)
    if name and not published:
        return ["extractor not stated"]
    if bool(name) != bool(published) or not published.startswith(name):
        return ["other extractor"]
    if _architecture(ours) != _architecture(theirs):
        return ["other size of the extractor"]
    if name == "inception" and Ref.parse(ours).args.get("resize", "tf1") not in LEGACY_RESIZES:
        return ["other resize"]
    return []


def instead(name: str, given: Scalar, published: Scalar) -> str:
    """The words for an argument of a model that is another one than the paper's."""
    if name == "steps":
        return f"{given} instead of {published} steps"
    if name == "scale":
        return f"guidance of scale {given:g} instead of {published:g}"
    return f"{name}={given!r} instead of {published!r}"


def comparable(result: Result, published: Reported) -> tuple[bool, tuple[str, ...]]:
    """Whether a measured number may be ranked with a published one, by the rules of `leaderboards/README.md`.

    Args:
        result: of this project; data set and model are those of its `spec`, split and count of the reference those of
            its `reference`.
        published: a row of `reported`.

    Returns:
        True and nothing if all that is known agrees; else False and the reasons, such as ("other data set", "other
        extractor", "1000 instead of 50000 samples"). What the sources do not state is a reason.
    """
    metric, spec, reference = Ref.parse(result.metric), result.spec, result.reference
    reasons = []
    dataset = DATASETS.get(_plain(spec.dataset.name)) if spec is not None else None
    same_data = dataset == (published.dataset, published.resolution)
    if not same_data:
        reasons.append("other data set")
    if _column(result.measurement) != published.metric:
        reasons.append("other metric")
    reasons += _network(result.extractor or "", published.extractor)
    if published.num_samples is None:
        reasons.append("number of samples not stated")
    elif published.num_samples != result.generated.count:
        reasons.append(f"{result.generated.count} instead of {published.num_samples} samples")
    if same_data and reference is not None:
        stated = re.search(r"\b(\d+)(k?)\b", published.reference.partition("(")[2])
        count = int(stated[1]) * (1000 if stated[2] else 1) if stated else reference.count
        if not published.reference:
            reasons.append("reference not stated")
        elif _split(reference.name) != _split(published.reference):
            reasons.append("other reference split")
        elif stated and reference.count is None:
            reasons.append("number of reference images not known")
        elif count != reference.count:
            reasons.append(f"{reference.count} instead of {count} reference images")
    neighbours = re.search(r"\bk=(\d+)", published.note)
    if "k" in metric.args and neighbours and int(neighbours[1]) != metric.args["k"]:
        reasons.append(f"k = {metric.args['k']} instead of {neighbours[1]}")
    splits = re.search(r"without ten splits|(\d+) splits", published.note)
    if "splits" in metric.args and splits and int(splits[1] or 1) != metric.args["splits"]:
        reasons.append(f"{metric.args['splits']} instead of {splits[1] or 1} splits")
    if "minimum of" in published.note or "min of several" in published.note:
        reasons.append("minimum of several runs")
    if "rerank" in published.variant or "re-rank" in published.variant:
        reasons.append("re-ranked samples")
    spacing = spec.model.args.get("spacing") if spec is not None else None
    strides = re.search(r"\b(quadratic|linear|uniform|even)\b", published.variant)
    # At 1000 steps there is nothing to choose, and all but quadratic are even strides that begin elsewhere.
    if spacing and strides and published.steps != 1000 and (spacing == "quadratic") != (strides[1] == "quadratic"):
        reasons.append(f"{spacing} instead of {strides[1]} steps")
    steps = spec.model.args.get("steps") if spec is not None else None
    if steps is not None and published.steps is not None and steps != published.steps:
        reasons.append(instead("steps", steps, published.steps))
    scale = spec.model.args.get("scale") if spec is not None else None
    if isinstance(scale, int | float) and published.guidance in ("none", "cfg", "classifier"):
        unguided = 0.0 if spec is not None and spec.model.name == "adm-g" else 1.0
        wanted = unguided if published.guidance_scale is None else published.guidance_scale
        if abs(scale - wanted) > 1e-9:
            reasons.append(instead("scale", scale, wanted))
    if published.verified in ("digitised", "recalled"):
        reasons.append(f"published number {published.verified}, not read")
    if published.disputed:
        reasons.append("published number disputed")
    return not reasons, tuple(reasons)
