"""Names to components. Built-ins are the table below, plug-ins are entry points. Both hold `module:attribute`.

Nothing is imported before it is asked for, so that `genbench list` needs neither torch nor pandas, and a reader can
search for a name and find its file. To add a component is to write its file and one line here.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, distributions, entry_points
from typing import Any

from genbench.errors import OutOfResources, UsageError, calling, nearest, shown
from genbench.records import Ref, is_literal

_log = logging.getLogger(__name__)
_NAME, _TARGET = re.compile(r"[A-Za-z0-9][\w.-]*"), re.compile(r"[\w.]+:\w+")

KINDS = ("model", "metric", "dataset", "extractor")

BUILTIN: dict[str, dict[str, tuple[str, str]]] = {
    "model": {
        "ddpm": ("baselines.systems.ddpm:load", "ancestral sampling of denoising diffusion (Ho et al. 2020)"),
        "ddgan": (
            "baselines.systems.ddgan:load",
            "four large steps by a generator that draws its images (Xiao et al. 2022)",
        ),
        "ddss": (
            "baselines.systems.ddss:load",
            "few steps whose coefficients were learned for a metric (Watson et al. 2022)",
        ),
        "lsgm": (
            "baselines.systems.lsgm:load",
            "a score-based prior of latents, trained with its autoencoder (Vahdat et al. 2021)",
        ),
        "noise-equilibrium": (
            "baselines.systems.noise_equilibrium:load",
            "the first diffusion model, without labels (Sohl-Dickstein et al. 2015)",
        ),
        "iddpm": (
            "baselines.systems.iddpm:load",
            "ancestral sampling with a learned variance (Nichol and Dhariwal 2021)",
        ),
        "ddim": ("baselines.systems.ddim:load", "deterministic or stochastic implicit sampling (Song et al. 2021)"),
        "adm-g": (
            "baselines.systems.adm:load_guided",
            "guidance by a classifier of noisy images (Dhariwal and Nichol 2021)",
        ),
        "adm-u": ("baselines.systems.adm:load_upsampled", "the same on small images, enlarged by a second model"),
        "cfg": ("baselines.systems.cfg:load", "classifier-free guidance (Ho and Salimans 2022)"),
        "ldm": ("baselines.systems.ldm:load", "latent diffusion with captions or labels (Rombach et al. 2022)"),
        "edm": ("baselines.systems.edm:load", "Heun's method on well placed noise levels (Karras et al. 2022)"),
        "dpm-solver": (
            "baselines.systems.dpm_solver:load",
            "solvers of high order of the probability-flow ODE (Lu et al. 2022)",
        ),
        "unipc": ("baselines.systems.unipc:load", "a predictor and corrector of any order (Zhao et al. 2023)"),
        "score-sde": (
            "baselines.systems.score_sde:load",
            "reverse stochastic equations and their ODE (Song et al. 2021)",
        ),
        "ncsn": ("baselines.systems.ncsn:load", "annealed Langevin dynamics (Song and Ermon 2019, 2020)"),
        "gotta-go-fast": (
            "baselines.systems.gotta_go_fast:load",
            "adaptive steps of the reverse equation (Jolicoeur-Martineau et al. 2021)",
        ),
        "analytic-dpm": (
            "baselines.systems.analytic_dpm:load",
            "steps with the variance that is optimal for the network (Bao et al. 2022)",
        ),
        "consistency": (
            "baselines.systems.consistency:load",
            "from any noise to the image in one or two evaluations (Song et al. 2023)",
        ),
        "progressive-distillation": (
            "baselines.systems.progressive_distillation:load",
            "a network that was taught to do many steps in few (Salimans and Ho 2022)",
        ),
        "cld": (
            "baselines.systems.cld:load",
            "images with velocities, of which only those are noised (Dockhorn et al. 2022)",
        ),
        "subspace": (
            "baselines.systems.subspace:load",
            "small images where there is much noise, then whole ones (Jing et al. 2022)",
        ),
        "patched-unet": (
            "baselines.systems.patched_unet:load",
            "a network of blocks of pixels (Luhman and Luhman 2022)",
        ),
        "vdm": (
            "baselines.systems.vdm:load",
            "ancestral sampling by a network that learned its schedule and its bound (Kingma et al. 2021)",
        ),
        "diffusers": ("baselines.systems.diffusers:load", "any pipeline of diffusers, as diffusers(repo='...')"),
    },
    "metric": {
        "fid": ("genbench.metrics.frechet:FID", "Frechet distance of pooled features"),
        "fd": ("genbench.metrics.frechet:FD", "Frechet distance of pooled features of any extractor, such as dinov2"),
        "sfid": ("genbench.metrics.frechet:SFID", "Frechet distance of spatial features"),
        "fid-inf": ("genbench.metrics.frechet:FID_INF", "Frechet distance extrapolated to infinitely many images"),
        "fid-per-class": (
            "genbench.metrics.frechet:PER_CLASS_FID",
            "mean over classes of the Frechet distance within a class",
        ),
        "mifid": ("genbench.metrics.frechet:MIFID", "Frechet distance that punishes copies of reference images"),
        "is": ("genbench.metrics.inception_score:INCEPTION_SCORE", "confidence and variety of predicted classes"),
        "precision": ("genbench.metrics.manifold:PRECISION", "share of generated images inside the real manifold"),
        "recall": ("genbench.metrics.manifold:RECALL", "share of real images inside the generated manifold"),
        "density": (
            "genbench.metrics.manifold:DENSITY",
            "mean number of real neighbourhoods that a generated image lies in, over k",
        ),
        "coverage": ("genbench.metrics.manifold:COVERAGE", "share of real neighbourhoods that hold a generated image"),
        "realism": (
            "genbench.metrics.manifold:REALISM",
            "mean depth of generated images inside the real manifold, 1 at its boundary",
        ),
        "authpct": (
            "genbench.metrics.manifold:AUTHPCT",
            "percentage of generated images that are not near-copies of a training image",
        ),
        "kid": ("genbench.metrics.kernel:KID", "kernel distance of pooled features, unbiased in the number of images"),
        "cmmd": ("genbench.metrics.kernel:CMMD", "kernel distance of CLIP embeddings, times 1000"),
        "vendi": ("genbench.metrics.vendi:VENDI", "effective number of different images"),
        "swd": ("genbench.metrics.sliced:SWD", "sliced 2-Wasserstein distance of features"),
        "cas": ("genbench.metrics.cas:CAS", "accuracy on real images of a classifier trained on generated ones"),
        "clip-score": ("genbench.metrics.alignment:CLIP_SCORE", "agreement of images with their captions"),
        "top1": (
            "genbench.metrics.classification:TOP1",
            "share of images that a classifier takes for the class asked for",
        ),
        "top5": (
            "genbench.metrics.classification:TOP5",
            "share of images with the class asked for among a classifier's first five",
        ),
        "psnr": ("genbench.metrics.restoration:PSNR", "mean peak signal-to-noise ratio of pairs, in decibels"),
        "ssim": ("genbench.metrics.restoration:SSIM", "mean structural similarity of pairs"),
        "lpips": ("genbench.metrics.restoration:LPIPS", "mean perceptual distance of pairs"),
        "nll": (
            "genbench.metrics.likelihood:NLL",
            "exact negative log-likelihood of test images under the model's flow, in bits a dimension",
        ),
        "nll-bound": (
            "genbench.metrics.likelihood:NLL_BOUND",
            "upper bound of the negative log-likelihood of test images, in bits a dimension",
        ),
        "consistency": (
            "genbench.metrics.restoration:CONSISTENCY",
            "mean squared error of upscaled images, reduced again, in 1e-5",
        ),
    },
    "dataset": {
        "shapes": (
            "genbench.datasets.shapes:SHAPES",
            "32x32 shapes of ten classes in eight colours, with labels and captions, drawn on demand",
        ),
        "digits": ("genbench.datasets.digits:DIGITS", "1,797 handwritten digits of scikit-learn at 32x32"),
        "cifar10": (
            "genbench.datasets.cifar10:CIFAR10",
            "60,000 photographs of ten classes at 32x32, through torchvision",
        ),
        "folder": (
            "genbench.datasets.folder:FOLDER",
            "images in a folder, a zip, shards or an npz file; subfolders are classes",
        ),
        "imagenet64": ("genbench.datasets.of_papers:IMAGENET64", "1.28 million photographs of 1,000 classes at 64x64"),
        "imagenet128": (
            "genbench.datasets.of_papers:IMAGENET128",
            "1.28 million photographs of 1,000 classes at 128x128",
        ),
        "imagenet256": (
            "genbench.datasets.of_papers:IMAGENET256",
            "1.28 million photographs of 1,000 classes at 256x256",
        ),
        "imagenet512": (
            "genbench.datasets.of_papers:IMAGENET512",
            "1.28 million photographs of 1,000 classes at 512x512",
        ),
        "lsun-bedroom": ("genbench.datasets.of_papers:LSUN_BEDROOM", "photographs of LSUN bedroom at 256x256"),
        "lsun-cat": ("genbench.datasets.of_papers:LSUN_CAT", "photographs of LSUN cat at 256x256"),
        "lsun-horse": ("genbench.datasets.of_papers:LSUN_HORSE", "photographs of LSUN horse at 256x256"),
        "lsun-church": ("genbench.datasets.of_papers:LSUN_CHURCH", "photographs of LSUN church at 256x256"),
        "celeba": ("genbench.datasets.of_papers:CELEBA", "aligned faces at 64x64"),
        "celebahq": ("genbench.datasets.of_papers:CELEBAHQ", "30,000 faces at 256x256"),
        "ffhq": ("genbench.datasets.of_papers:FFHQ", "70,000 faces at 256x256"),
        "coco": (
            "genbench.datasets.of_papers:COCO",
            "photographs with captions at 256x256; the papers use 30,000 of the validation set of 2014",
        ),
    },
    "extractor": {
        "tiny-clip": ("genbench.extractors.tiny_clip:load", "images and captions of shapes in one space, shipped"),
        "compact": ("genbench.extractors.compact:load", "0.4 M parameters, trained on shapes, shipped"),
        "pixels": ("genbench.extractors.pixels:load", "pixels at 32x32, no network"),
        "inception": (
            "genbench.extractors.inception:load",
            "Inception of 2015-12-05, of FID, IS, KID and sFID (96 MB)",
        ),
        "clip": ("genbench.extractors.clip:load", "images and captions, any network of open_clip (600 MB)"),
        "dinov2": ("genbench.extractors.dinov2:load", "self-supervised transformers of FD-DINOv2 (1.2 GB)"),
        "vgg16": ("genbench.extractors.vgg16:load", "of the first improved precision and recall (553 MB)"),
        "lpips": ("genbench.extractors.lpips:load", "feature maps of AlexNet, VGG-16 or SqueezeNet for lpips (244 MB)"),
        "resnet50": ("genbench.extractors.resnet50:load", "ImageNet classifier of torchvision (103 MB)"),
    },
}


@cache
def table(kind: str) -> dict[str, tuple[str, str]]:
    """Name to (`module:attribute`, summary), plug-ins included.

    A plug-in that takes a name which exists, or whose entry nobody can read, is passed over with a warning.
    """
    found = dict(BUILTIN[kind])
    for point in _points(f"genbench.{kind}s"):
        if not (_NAME.fullmatch(point.name) and _TARGET.fullmatch(point.value)):
            _log.warning(
                "%s was passed over: it names a %s %s as %s; a name is letters, digits, dots and hyphens, and the rest "
                "is module:attribute.",
                _origin(point),
                kind,
                shown(point.name),
                shown(point.value),
            )
        elif point.name in found and found[point.name][0] != point.value:
            _log.warning(
                "%s was passed over: it names a %s %r (%s), but that is %s already.",
                _origin(point),
                kind,
                point.name,
                point.value,
                found[point.name][0],
            )
        elif point.name not in found:
            summary = shown(point.dist.metadata["Summary"] or "") if point.dist else ""
            origin = _origin(point)
            found[point.name] = (point.value, f"{summary.rstrip('.')} ({origin})" if summary else origin)
    return found


def _points(group: str) -> Sequence[EntryPoint]:
    try:
        return list(entry_points(group=group))
    except (
        Exception
    ):  # one damaged file of any package, and the standard library reads none; which one, it does not say
        found: list[EntryPoint] = []
        for package in distributions():
            try:
                found += [point for point in package.entry_points if point.group == group]
            except Exception as error:
                place = shown(getattr(package, "_path", None) or package.name)
                _log.warning("The entry points of %s cannot be read (%s).", place, type(error).__name__)
        return found


def _origin(point: EntryPoint) -> str:
    return shown(f"plug-in {point.dist.name} {point.dist.version}") if point.dist else "plug-in"


def get(kind: str, name: str) -> Any:
    """Imports and returns a component. A name with a colon is `module:attribute` of the user's own code.

    Raises:
        UsageError: an unknown name, with what is near it; what cannot be imported, or is no component of the kind.
        ComponentError: an error of the component's own code while it is imported.
    """
    known = table(kind)
    target, origin = (name, "") if ":" in name else known.get(name, ("", ""))
    if not target:
        raise UsageError(f"No {kind} named {shown(name)!r}. {nearest(name, known)}")
    who = f"The {kind} {shown(name)!r}" + (f" ({target}, {origin})" if "plug-in" in origin else "")
    component = _imported(target, who)
    if problem := _fault(kind, component):
        raise UsageError(f"{who} is {shown(target)}, which {problem}; `genbench.contracts` says what a {kind} is.")
    return component


def _imported(target: str, who: str) -> Any:
    module, _, attribute = target.partition(":")
    with calling(f"The import of {who[0].lower()}{who[1:]}"):
        try:
            if not _TARGET.fullmatch(target):
                raise ImportError("a component is module:attribute")
            return getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            if "cannot allocate memory" in str(error).lower() or "failed to map segment" in str(error):
                raise OutOfResources(f"There is not enough memory to import {shown(target)}.") from error
            raise UsageError(f"{who} is {shown(target)}, which cannot be imported: {shown(error)}.") from error


def _fault(kind: str, component: Any) -> str | None:
    """What is wrong with a component, as the end of a sentence, before anything calls it."""
    from genbench.contracts import LOADED, Dataset, Metric  # these import numpy, which listing names does not need

    if kind in ("metric", "dataset"):
        wanted = Metric if kind == "metric" else Dataset
        return (
            None if isinstance(component, wanted) else f"is of {type(component).__name__} and not a {wanted.__name__}"
        )
    try:
        taken = inspect.signature(component).parameters.values()
    except (TypeError, ValueError):
        return "is no function that loads one"
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken):
        return None
    names = {p.name for p in taken if p.kind is not inspect.Parameter.POSITIONAL_ONLY}
    lacking = [name for name in LOADED[kind] if name not in names]
    return f"is no function that loads one: it does not take {', '.join(lacking)}" if lacking else None


def parameters(kind: str, component: Any) -> dict[str, Any]:
    """The arguments of a component with their defaults; `inspect.Parameter.empty` where one must be given."""
    from genbench.contracts import RESERVED  # contracts import numpy, which listing names does not need

    signature = inspect.signature(_function(component))
    return {
        name: p.default
        for name, p in signature.parameters.items()
        if name not in RESERVED[kind] and p.kind is not inspect.Parameter.VAR_KEYWORD
    }


def bind(kind: str, ref: Ref) -> tuple[Any, Ref]:
    """A component and its reference with every default written out. Wrong arguments fail here, before any work.

    Raises:
        UsageError: an unknown name or argument, a missing one, or one of another type than its default.
    """
    component = get(kind, ref.name)
    free = parameters(kind, component)
    for name, value in ref.args.items():
        if name not in free:
            takes = f"It takes {', '.join(free)}." if free else "It takes no arguments."
            raise UsageError(f"The {kind} {ref.name!r} has no argument {name!r}. {nearest(name, free)} {takes}")
        default, allowed = free[name], _types(component, name, free[name])
        number = float in allowed and isinstance(value, int) and not isinstance(value, bool)
        if allowed and type(value) not in allowed and not number:
            words = " or ".join(t.__name__ for t in allowed if t is not type(None))
            such = "" if default in (None, inspect.Parameter.empty) else f", such as {default!r}"
            raise UsageError(f"The {kind} {ref.name!r} takes {name} as {words}{such}; got {value!r}.")
    given = {name: ref.args.get(name, default) for name, default in free.items()}
    for name, value in given.items():
        if value is inspect.Parameter.empty:
            raise UsageError(f"The {kind} {ref.name!r} needs an argument: {ref.name}({name}=...).")
        if isinstance(free[name], float) and isinstance(value, int):
            given[name] = float(value)
    if kind == "model":
        # Such as weights=None: what stands for "not given" says nothing in the text.
        given = {name: value for name, value in given.items() if value is not None or free[name] is not None}
    # A default that no text can say can be given by none, and stays with the component.
    given = {name: value for name, value in given.items() if is_literal(value)}
    # Compared as text, because nan is unlike itself and 1 is like True.
    defaults = frozenset(name for name, value in given.items() if repr(value) == repr(free[name]))
    return component, Ref(ref.name, given, defaults)


_LITERALS: Mapping[str, type] = {"bool": bool, "int": int, "float": float, "str": str, "None": type(None)}


def _types(component: Any, name: str, default: Any) -> tuple[type, ...]:
    """What an argument may be, by its default or, where that says nothing, by its annotation, empty if neither does."""
    if isinstance(default, bool | int | float | str):
        return (type(default),)
    told = inspect.signature(_function(component)).parameters[name].annotation
    words = [word.strip() for word in (told if isinstance(told, str) else getattr(told, "__name__", "")).split("|")]
    return tuple(_LITERALS[word] for word in words) if all(word in _LITERALS for word in words) else ()


def _function(component: Any) -> Any:
    """What is called of a component, and whose signature says what it takes."""
    return next((f for f in (getattr(component, a, None) for a in ("compute", "load")) if f), component)


@cache
def written_out(kind: str, text: str) -> Ref:
    """A reference with every default of its component written out; as given where the component is not known here.

    What a text names by module:attribute counts as known once something else has imported the module: a row of somebody
    else's table must not run code.
    """
    ref = Ref.parse(text)
    if not _may_be_read(ref.name):
        return ref
    try:
        bound: Ref = bind(kind, ref)[1]
    except UsageError:
        return ref
    return bound


def neutral(metric: Ref) -> frozenset[str]:
    """Arguments of a metric that cannot change its value. None where the metric is not known here."""
    try:
        return frozenset(get("metric", metric.name).neutral if _may_be_read(metric.name) else ())
    except UsageError:
        return frozenset()


def _may_be_read(name: str) -> bool:
    return ":" not in name or name.partition(":")[0] in sys.modules


def published() -> Mapping[str, Any]:
    """Name to card of the published weights of models; `genbench.weights.Published` says what a card has."""
    return _imported("baselines.files.catalogue:files", "The table of published weights")()


def preset(model: str, dataset: str) -> Any:
    """What the paper of a model did on a data set, as `genbench.contracts.PresetLike` describes it, or None.

    Raises:
        UsageError: an unknown model.
    """
    return getattr(get("model", model), "presets", {}).get(dataset)


def paper_rows(model: str, dataset: str) -> tuple[Mapping[str, Any], ...]:
    """The rows of `leaderboards/reported.csv` that a system names for a data set, best first, as columns to values.

    Raises:
        UsageError: an unknown model.
    """
    of_preset = getattr(preset(model, dataset), "rows", ())
    found: tuple[Mapping[str, Any], ...] = of_preset or getattr(get("model", model), "rows", {}).get(dataset, ())
    return found
