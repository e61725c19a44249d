"""What the papers report: the published number beside a measured one, and whether the two may be compared.

`leaderboards/reported.csv` holds one published number a row; `leaderboards/README.md` explains its columns. Nothing
here needs more than the csv module, so that listing and planning stay light.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from genbench import tables
from genbench.errors import InputRejected, MissingAsset, UsageError
from genbench.records import Measurement, Ref, Result, Scalar

TIERS = ("read", "secondary", "digitised", "recalled")
"""How well a number is verified, best first: read in the paper or in the repository that publishes it; in notes on the
paper or in another paper's quotation; off the authors' plot; from memory alone."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters that spreadsheets execute. A text cell that starts with one gets an apostrophe before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A number as a paper prints it. Text is empty and numbers are None where the sources do not say.

    The columns of PROTOCOL tell apart what is not said and what there is no such thing of: NOT_STATED and empty.

    Attributes:
        system, variant, conditioning: what was evaluated, in the words of the paper.
        paper, arxiv, year: where the number is printed, which need not be the paper of the system.
        dataset, resolution: such as "ImageNet", 256 (pixels a side).
        steps: network evaluations or sampling steps, as the paper counts them.
        guidance, guidance_scale: kind ("none", "cfg", "classifier", "truncation", ...) and scale; for "cfg" always the
            s that is 1 without guidance.
        metric, value: such as "fid", 3.17; percentages and fractions as printed.
        num_samples, reference, extractor: the protocol: generated images, split they are compared with, network.
        split, subset: "train", "val" or "test" of the reference, and which images of it where it is not simply those of
            the split, such as "ADM reference batch", "filtered", "COCO 2014".
        num_reference: reference images of this metric.
        resize, scaling, weights: of the extractor, as its arguments here. The weights by the name of a public file.
        arithmetic, neighbours: of the distances between features, and k, of metrics on manifolds.
        parts, logits: of an Inception score: parts whose scores are averaged ("10", or "chunks of 5000"), and whether
            the logits are "biased" as TensorFlow's classifier has them, or "unbiased".
        factor: of a CLIP score: what the cosine was multiplied with.
        estimator: of an extrapolated distance: "line" is a line through subsets.
        quantise: rule from floats to 8 bits.
        runs: whether the number is the least or the mean of several, empty where nothing is said of several.
        candidates: of how many images each is the best one, empty where nothing is said of a choice.
        prompts: captions that were drawn, of systems that are conditioned on text.
        origin: "own" (by the authors of the system), "quoted" from elsewhere, or "remeasured" by other people.
        source: table, figure or section of the paper.
        read_in: where the number was read for this list.
        verified: one of TIERS.
        disputed: why the number should not be relied on, empty for almost all.
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
    split: str
    subset: str
    num_reference: str
    resize: str
    scaling: str
    weights: str
    arithmetic: str
    neighbours: str
    parts: str
    logits: str
    factor: str
    estimator: str
    quantise: str
    runs: str
    candidates: str
    prompts: str
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


NOT_STATED = "not stated"
"""What a column of the protocol holds where the sources do not say."""

COLUMNS = tuple(field.name for field in fields(Reported))
PROTOCOL = COLUMNS[COLUMNS.index("split") : COLUMNS.index("origin")]
"""Columns of how a number was measured, beside those of the samples and of the extractor."""

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
        InputRejected: another header, a row of another length, or a number that is none. The message names the line.
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

SIZES = {
    ("CIFAR-10", "train"): 50_000, ("CIFAR-10", "test"): 10_000, ("ImageNet", "train"): 1_281_167,
    ("ImageNet", "val"): 50_000, ("LSUN Bedroom", "train"): 3_033_042, ("LSUN Cat", "train"): 1_657_266,
    ("LSUN Horse", "train"): 2_000_340, ("LSUN Church", "train"): 126_227, ("CelebA", "train"): 162_770,
}  # fmt: skip
"""Images of a split, where there is one split of that name. ADM's published statistics are of all of them."""

METRICS = {"clip-score": "clip_score", "cas": "cas_top1", "fd": "fid", "nll": "nll_bpd", "nll-bound": "nll_bpd"}
"""Names of this project's metrics to those of the file, where they differ."""

METRICS_DINOV2 = {
    "fid": "fd_dinov2",
    "fd": "fd_dinov2",
    "fid-inf": "fd_inf_dinov2",
    "kid": "kd_dinov2",
    "authpct": "authpct",
}
"""The same on the features of DINOv2. All others are the name with `_dinov2`."""


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.partition("(")[0].lower())


def _column(metric: str) -> str:
    """The metric of the file for one of this project, as text with or without extractor: `fd@dinov2` is fd_dinov2."""
    what = Measurement.parse(metric)
    if what.extractor is not None and what.extractor.name.startswith("dinov2"):
        return METRICS_DINOV2.get(what.metric.name, f"{what.metric.name}_dinov2")
    return METRICS.get(what.metric.name, what.metric.name.replace("-", "_"))


LIKELIHOODS = {"nll": "exact", "nll-bound": "bound"}
"""Metrics of a likelihood to the kind of it. The file has one column for both."""
_BOUNDS = re.compile(r"(DDPM|Improved DDPM|Analytic-DDPM|VDM|CLD-SGM|LSGM|NVAE|Very Deep VAE)\b(?!\+\+)")


def kind_of_likelihood(row: Reported) -> str:
    """Whether a published likelihood is "exact", by the flow, or a "bound"; empty where the sources do not say."""
    if re.search(r"\bODE\b|probability flow", row.variant):
        return "exact"
    return "bound" if _BOUNDS.match(row.system) else ""


Want = Mapping[str, Scalar]
"""Columns of the row that is wanted; * in a text stands for anything."""


def wanted(row: Mapping[str, Any], args: Mapping[str, Scalar]) -> Want | None:
    """A row that a system names, for a run with these arguments, None where it holds of others.

    Args:
        row: columns of `reported.csv` to values; "{steps}" as a value is the argument of that name, and inside a text
            it is written out. "when" are the arguments of which alone the row holds.
    """
    if any(name not in args or args[name] != value for name, value in row.get("when", {}).items()):
        return None
    filled: dict[str, Scalar] = {}
    for name, value in row.items():
        if name == "when":
            continue
        argument = re.fullmatch(r"\{(\w+)\}", value) if isinstance(value, str) else None
        if argument is not None:
            filled[name] = args.get(argument[1])
        else:
            filled[name] = value.format_map(args) if isinstance(value, str) else value
    return filled


def _agrees(row: Reported, want: Want) -> bool:
    for name, value in want.items():
        given = getattr(row, name)
        if isinstance(value, str) and "*" in value:
            parts = (re.escape(part) for part in value.split("*"))
            same = re.fullmatch(".*".join(parts), given, re.DOTALL) is not None
        elif isinstance(value, int | float) and isinstance(given, int | float):
            same = abs(given - value) < 1e-9
        else:
            same = given == value
        if not same:
            return False
    return True


def lookup(model: Ref, metric: str, dataset: str) -> Reported | None:
    """The number that stands in the papers for a system of this project on a data set.

    Args:
        model: with its arguments, such as ddim(steps=50, eta=0.0). Those not given are as in the paper's headline row.
        metric: of this project, such as "fid" or "fd@dinov2".
        dataset: of this project.

    Returns:
        The row that the arguments select (steps, eta, variance, scale): by the authors of the system before those of a
        later paper, measured before quoted, never disputed. Where no row has these arguments, the headline row on that
        data set, and `comparable` says what differs. None where no paper of the system has numbers on the data set.

    Source:
        DDPM Tables 1 and 3, DDIM Table 1 (also for DDPM in few steps), ADM Tables 4 to 6, classifier-free guidance
        Tables 1 and 2, LDM Tables 1, 2, 3 and 10. Inception scores of DDIM are from Watson et al. 2022, and precision
        and recall of DDPM from StudioGAN, since the authors print none.
    """
    from genbench import registry

    published, name = DATASETS.get(_plain(dataset)), dataset.partition("(")[0]
    if published is None:
        return None
    try:
        loader, named = registry.get("model", model.name), registry.paper_rows(model.name, name)
    except UsageError:
        return None
    if not named:
        return None
    column, preset = _column(metric), registry.preset(model.name, name)
    rows = [r for r in reported() if r.metric == column and (r.dataset, r.resolution) == published and not r.disputed]
    if kind := LIKELIHOODS.get(Measurement.parse(metric).metric.name):
        rows = [row for row in rows if kind_of_likelihood(row) == kind]
    headline = {**registry.parameters("model", loader), **(preset.arguments if preset is not None else {})}
    for args in ({**headline, **model.args}, headline):
        for want in filter(None, (wanted(row, args) for row in named)):
            found = [row for row in rows if _agrees(row, want)]
            if found:
                return min(found, key=lambda row: (row.origin == "quoted", TIERS.index(row.verified)))
    return None


def _split(text: str) -> str:
    found = re.search(r"\b(train|test|val)", text.lower())
    return found[1] if found else ""


INCEPTION_SIDE = 299
"""Pixels a side that Inception sees; antialiasing changes nothing where smaller images grow to them."""
ADM_BATCH = "ADM reference batch"
"""Part of names of references. Such a batch has 10,000 images, and statistics of all images of the split."""
FACTORS = {"hessel": "2.5", "cosine100": "100", "cosine": "1"}
"""Scale of `clip-score` to what it multiplies the cosine with."""
CLASSIFIERS = ("adm-g", "adm-u")
"""Systems whose scale is that of a classifier's gradient, 0 without guidance."""


def _architecture(extractor: str) -> tuple[str, ...]:
    """Letter and patch of a vision transformer, which is what CLIP and DINOv2 come in: "ViT-L/14" is ("l", "14")."""
    found = re.search(r"vit[^a-z]*([a-z])[a-z_]*[^0-9]*(\d+)", extractor.lower())
    return found.groups() if found else ()


def instead(name: str, given: Scalar, published: Scalar) -> str:
    """The words for an argument of a model that is another one than the paper's."""
    if name == "steps":
        return f"{given} instead of {published} steps"
    if name == "scale":
        return f"guidance of scale {given:g} instead of {published:g}"
    return f"{name}={given!r} instead of {published!r}"


# Whether two numbers may be ranked. A rule looks at one thing and yields the reasons against it, usually none or one.


@dataclass(frozen=True, slots=True)
class _Ours:
    """A result with the arguments of its metric and of its extractor written out, and its model and data set."""

    result: Result
    metric: Ref
    extractor: Ref | None
    model: Ref
    dataset: tuple[str, int] | None

    @classmethod
    def of(cls, result: Result) -> _Ours:
        from genbench import registry

        return cls(
            result=result,
            metric=registry.written_out("metric", result.metric),
            extractor=registry.written_out("extractor", result.extractor) if result.extractor else None,
            model=result.spec.model if result.spec else Ref(""),
            dataset=DATASETS.get(_plain(result.spec.dataset.name)) if result.spec else None,
        )


@cache
def published_keys(extractor: str) -> frozenset[str]:
    """Keys that an extractor has with its public weights.

    Args:
        extractor: with its arguments, such as "inception(resize='nvidia')".

    Returns:
        One key for each precision. None where the extractor, or the digest of its public file, is not known.
    """
    from genbench import registry, weights

    try:
        loader, ref = registry.bind("extractor", Ref.parse(extractor))
    except UsageError:
        return frozenset()
    module: Any = inspect.getmodule(loader)
    if not hasattr(module, "card"):
        return frozenset()
    names = inspect.signature(module.card).parameters
    public = module.card(**{name: value for name, value in ref.args.items() if name in names})
    if len(public.sha256 or "") != 64:
        return frozenset()
    versions = (
        weights.extractor_key(ref.name, module.VERSION, public.sha256, p, ref.args) for p in ("float32", "exact")
    )
    return frozenset(versions)


def _differs(words: str, given: object, stated: str) -> Iterator[str]:
    """The reason of a column: not stated, not known of ours, or another value. An empty column asks for nothing."""
    if stated == NOT_STATED:
        yield f"{words} not stated"
    elif stated and given is None:
        yield f"{words} not known"
    elif stated and str(given) != stated:
        yield f"{words} {given} instead of {stated}"


def _what(ours: _Ours, row: Reported) -> Iterator[str]:
    if ours.dataset != (row.dataset, row.resolution):
        yield "other data set"
    if _column(ours.result.measurement) != row.metric:
        yield "other metric"


def _features(ours: _Ours, row: Reported) -> Iterator[str]:
    name, published = ours.extractor.name if ours.extractor else "", re.split(r"[- ]", row.extractor.lower())[0]
    if name and not published:
        yield "extractor not stated"
    elif name != published:
        yield "other extractor"
    elif _architecture(str(ours.extractor or "")) != _architecture(row.extractor):
        yield "other size of the extractor"
    elif ours.extractor is not None:
        if row.resize == NOT_STATED:
            yield "resize not stated"
        elif row.resize and _kernel(ours.extractor.args.get("resize"), row) != _kernel(row.resize, row):
            yield "other resize"
        yield from _differs("scaling", ours.extractor.args.get("scaling"), row.scaling)
        yield from _weights(ours, row)


def _kernel(resize: Scalar, row: Reported) -> Scalar:
    """One name for methods of `genbench.resize` that do the same to these images."""
    if resize == "nvidia":
        return "tf1"  # written otherwise, they agree to 0.02 grey levels
    enlarged = row.resolution is not None and row.resolution <= INCEPTION_SIDE
    return "bilinear" if resize == "bilinear-antialias" and enlarged else resize


def _weights(ours: _Ours, row: Reported) -> Iterator[str]:
    if row.weights == NOT_STATED:
        yield "weights of the extractor not stated"
    elif row.weights:
        known, key = published_keys(str(ours.extractor)), ours.result.extractor_key
        if not known or key is None:
            yield "weights of the extractor not known"
        elif key not in known:
            yield "other weights of the extractor"


def _samples(ours: _Ours, row: Reported) -> Iterator[str]:
    count, spec = ours.result.generated.count, ours.result.spec
    if ours.metric.name in LIKELIHOODS:
        return
    if row.num_samples is None:
        yield "number of samples not stated"
    elif row.num_samples != count:
        yield f"{count} instead of {row.num_samples} samples"
    if spec is not None and spec.precision != "float32":
        yield f"samples in {spec.precision}"
    # Where a source says nothing of it, this is no reason: it is worth hundredths, and hardly any source does.
    if spec is not None and row.quantise in ("round", "truncate") and spec.quantise != row.quantise:
        yield f"pixels by quantise={spec.quantise!r} instead of {row.quantise!r}"


def _reference(ours: _Ours, row: Reported) -> Iterator[str]:
    reference = ours.result.reference
    if reference is None or ours.dataset != (row.dataset, row.resolution):
        return
    split = _split(reference.name)
    if not row.reference:
        yield "reference not stated"
        return
    if row.split == NOT_STATED:
        yield "reference split not stated"
    elif row.split and split != row.split:
        yield "other reference split"
    if row.subset == NOT_STATED:
        yield "subset of the reference not stated"
    elif row.subset not in ("", ADM_BATCH, "COCO 2014"):
        yield f"other reference images ({row.subset})"
    count = reference.count
    if count is None and ADM_BATCH in reference.name:
        count = SIZES.get((row.dataset, split))
    if row.num_reference == NOT_STATED:
        yield "number of reference images not stated"
    elif count is None:
        yield "number of reference images not known"
    elif row.num_reference and str(count) != row.num_reference:
        yield f"{count} instead of {row.num_reference} reference images"


def _neighbours(ours: _Ours, row: Reported) -> Iterator[str]:
    k = ours.metric.args.get("k")
    if row.neighbours == NOT_STATED:
        yield "number of neighbours not stated"
    elif row.neighbours and str(k) != row.neighbours:
        yield f"k = {k} instead of {row.neighbours}"
    yield from _differs("arithmetic of distances", ours.metric.args.get("arithmetic", "float32"), row.arithmetic)


def _parts(ours: _Ours, row: Reported) -> Iterator[str]:
    """Parts of an Inception score: so many, or as many as there are images of one part's size."""
    if not row.parts:
        return
    if row.parts == NOT_STATED:
        yield "number of splits not stated"
    else:
        splits, chunk = ours.metric.args.get("splits", 1), ours.metric.args.get("chunk", 0)
        given = (ours.result.generated.count or 0) / chunk if isinstance(chunk, int) and chunk > 0 else splits
        chunks = re.fullmatch(r"chunks of (\d+)", row.parts)
        wanted: float = (row.num_samples or 0) / int(chunks[1]) if chunks else int(row.parts)
        if given != wanted:
            yield f"{given:g} instead of {wanted:g} splits"
    logits = ours.metric.args.get("logits", "unbiased")
    if row.logits == NOT_STATED:
        yield "bias of the logits not stated"
    elif logits != row.logits:
        yield f"{logits} instead of {row.logits} logits"


def _estimate(ours: _Ours, row: Reported) -> Iterator[str]:
    yield from _differs("scale of the cosine", FACTORS.get(str(ours.metric.args.get("scale"))), row.factor)
    yield from _differs("extrapolation by", ours.metric.args.get("method"), row.estimator)
    if row.prompts:
        yield "prompts not stated" if row.prompts == NOT_STATED else f"prompts not known to be {row.prompts}"


def _likelihood(ours: _Ours, row: Reported) -> Iterator[str]:
    """Of which images, and of which kind: a bound may stand beside a bound only."""
    kind = LIKELIHOODS.get(ours.metric.name)
    if kind is None:
        return
    stated = kind_of_likelihood(row)
    if stated != kind:
        yield "bound or exact number not stated" if not stated else f"{kind} instead of {stated} likelihood"
    split, count = _split(ours.result.generated.name), ours.result.generated.count
    if not row.reference:
        yield "split of the likelihood not stated"
    elif split != row.reference:
        yield f"likelihood of {split or 'another split'} instead of {row.reference}"
    elif count != SIZES.get((row.dataset, split)):
        yield f"{count} images instead of all of {row.reference}"
    if ours.metric.args.get("tolerance", 1e-5) != 1e-5:
        yield f"tolerance {ours.metric.args['tolerance']:g} instead of 1e-05"


def _selection(ours: _Ours, row: Reported) -> Iterator[str]:
    if row.runs.startswith("minimum of"):
        yield "minimum of several runs"
    elif row.runs.startswith("minimum"):
        yield row.runs
    if row.candidates:
        yield f"re-ranked samples ({row.candidates})"


def _sampler(ours: _Ours, row: Reported) -> Iterator[str]:
    args = ours.model.args
    strides, spacing = re.search(r"\b(quadratic|linear|uniform|even)\b", row.variant), args.get("spacing")
    # At 1000 steps there is nothing to choose, and all but quadratic are even strides that begin elsewhere.
    if spacing and strides and row.steps != 1000 and (spacing == "quadratic") != (strides[1] == "quadratic"):
        yield f"{spacing} instead of {strides[1]} steps"
    steps = args.get("steps")
    if steps is not None and row.steps is not None and steps != row.steps:
        yield instead("steps", steps, row.steps)
    noise, eta = re.search(r"\beta=(\d+(?:\.\d+)?)", row.variant), args.get("eta")
    if noise and isinstance(eta, int | float) and abs(eta - float(noise[1])) > 1e-9:
        yield instead("eta", eta, float(noise[1]))
    if args.get("sampler") == "ancestral" and re.search(r"\bDDIM\b", row.variant):
        yield instead("sampler", "ancestral", "ddim")
    variance = re.search(r"\b(large|small) variance", row.variant)
    if variance and "variance" in args and args["variance"] != variance[1]:
        yield instead("variance", args["variance"], variance[1])


def _guidance(ours: _Ours, row: Reported) -> Iterator[str]:
    """Kind and scale. A model of somebody else that takes a scale may mean either kind by it."""
    scale, wanted = ours.model.args.get("scale"), row.guidance_scale
    kind = "classifier" if ours.model.name in CLASSIFIERS else row.guidance if ":" in ours.model.name else "cfg"
    if row.guidance == "none":
        wanted = 0.0 if kind == "classifier" else 1.0
    elif row.guidance not in ("cfg", "classifier"):
        kind, scale = row.guidance, ours.model.args.get(row.guidance)  # such as truncation
    if row.guidance in ("", "none") and scale is None:
        return
    if scale is None or (row.guidance != "none" and kind != row.guidance):
        yield f"guidance of another kind ({row.guidance})"
    elif wanted is None:
        yield "scale of the guidance not stated"
    elif isinstance(scale, int | float) and abs(scale - wanted) > 1e-9:
        yield instead("scale", scale, wanted)


def _own_weights(ours: _Ours, row: Reported) -> Iterator[str]:
    """Files that the user gave, unless they are named as the preset of the system names them.

    The weights of extractors are judged by the keys of these.
    """
    from genbench import registry

    named = {ours.model.args.get(name) for name in ("weights", "classifier")} - {None, "", *_weights_of_preset(ours)}
    files = set(ours.result.environment.get("given_weights", ())) - registry.table("extractor").keys()
    if named:
        yield "own weights"
    if files:
        yield "weights not known to be the paper's"


def _weights_of_preset(ours: _Ours) -> tuple[str, ...]:
    from genbench import registry

    try:
        preset = registry.preset(ours.model.name, ours.result.spec.dataset.name) if ours.result.spec else None
    except UsageError:
        return ()
    return (*preset.files, getattr(getattr(preset, "release", None), "name", "")) if preset else ()


def _credit(ours: _Ours, row: Reported) -> Iterator[str]:
    if row.origin == "quoted":
        yield "published number quoted from elsewhere"
    if row.verified in ("digitised", "recalled"):
        yield f"published number {row.verified}, not read"
    if row.disputed:
        yield "published number disputed"


RULES: tuple[Callable[[_Ours, Reported], Iterator[str]], ...] = (
    _what, _features, _samples, _reference, _neighbours, _parts, _estimate, _likelihood, _selection, _sampler,
    _guidance,
    _own_weights, _credit,
)  # fmt: skip


def comparable(result: Result, published: Reported) -> tuple[bool, tuple[str, ...]]:
    """Whether a measured number may be ranked with a published one, by the rules of `leaderboards/README.md`.

    Args:
        result: of this project. Its data set and model are those of its `spec`, split and count of the reference those
            of its `reference`; what its run does otherwise than the paper of the system is in its `environment`.
        published: a row of `reported`.

    Returns:
        True and nothing if all agrees; else False and the reasons, such as ("other data set", "other extractor",
        "1000 instead of 50000 samples"). What the sources do not state is a reason, and so is what is not known of the
        result, such as the number of images behind statistics, or weights whose public digest nobody knows. The one
        exception is the rule from floats to 8 bits, which counts only where a source states it.
    """
    ours = _Ours.of(result)
    found = [reason for rule in RULES for reason in rule(ours, published)]
    found += [str(reason) for reason in result.environment.get("differs", ())]
    return not found, tuple(dict.fromkeys(found))
