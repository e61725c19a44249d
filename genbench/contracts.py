"""What a metric, an extractor, a data set and a model are: the one page that the author of a plug-in reads.

A plug-in package names its components in `pyproject.toml`, each a `module:attribute`:

    [project.entry-points."genbench.metrics"]
    brightness = "my_package.metrics:BRIGHTNESS"     # a Metric

Groups are genbench.metrics (a `Metric`), genbench.extractors (a function that returns an `Extractor`),
genbench.datasets (a `Dataset`) and genbench.models (a function that returns a `Model`). `tests/plugin` does all four.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from genbench.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from genbench.arrays import Samples
    from genbench.records import Scalar, Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number about a set of images, as data: what it needs, what it means, and the function that computes it.

    Attributes:
        name, summary, source: lower-case name; one line; paper and the implementation it agrees with.
        version: raised when a published value may change.
        compute: compute(*, generated: Evidence, reference: Evidence, **args) -> Score. Roles by keyword only. A metric
            without a reference does not name that role. All other parameters have literal defaults.
        taps: outputs of the extractor that it reads, empty for metrics on pixels. "captions" is the text tap, and
            "classifier" the tap of its classifier, whatever the name: `compute` and `check` then take a parameter
            `classifier`, a `Classifier`, and labels count its classes.
        images, labels, captions: what else of the samples it reads.
        paired: whether image i of both sides belong together.
        pairwise: whether its taps are not of images but of pairs, what `Extractor.compare` gives for image i of both
            sides. The numbers of a pair are then a tap of the generated images, and no feature of an image is stored.
        against: which split of a data set is its reference.
        floor: which split stands in for the generated images to find the value of real data.
        higher_is_better: None where neither is.
        bounds: of the value, closed.
        minimum: fewest images a side.
        moments: True if the mean and covariance of the reference features suffice, so that published statistics can
            replace the images (`Evidence.statistics`).
        extractor: the extractor this metric is defined on, when it is defined on one only, else None.
        check: check(*, generated: Samples, reference: Samples | None, widths: Mapping[str, int], **args) raises, before
            any work, what `compute` would raise because of its arguments and of the numbers of images, labels and
            features. No pixel can be read yet. `widths` are those of the extractor's taps, empty where it is not there.
        invariances: of {"order", "translation", "rotation", "scale"}: what may be done to all features without
            a change of the value.
        trainings: trainings(*, generated: Evidence, reference: Evidence, device, **args) gives the trainings whose
            results `compute` finds in the cache, each a function of `advance`, which it calls often with 0. Several
            processes then share them. None where nothing is trained.
        neutral: arguments that cannot change the value, such as those of its error bar. They are in no identity.
        likelihood: what a metric of a model is made of, "exact" or "bound" (`Model.likelihoods`), None for others.
            Such a metric has `compute(*, bits, **args)`, with the numbers that `Model.nll` gave for as many images of
            `against` as a run has samples, float64 (repeats, n). It looks at no generated image.
        reads: maps the arguments to those of {"order", "labels", "captions"} that the value depends on beyond what the
            other attributes say, such as the order of images that are cut into parts.
    """

    name: str
    summary: str
    source: str
    compute: Callable[..., Score]
    version: int = 1
    taps: tuple[str, ...] = ("pooled",)
    images: bool = False
    labels: bool = False
    captions: bool = False
    paired: bool = False
    pairwise: bool = False
    against: Literal["reference", "test"] = "reference"
    floor: Literal["held_out", "reference"] | None = "held_out"
    higher_is_better: bool | None = None
    bounds: tuple[float, float] = (-np.inf, np.inf)
    minimum: int = 2
    moments: bool = False
    extractor: str | None = None
    check: Callable[..., None] | None = None
    invariances: frozenset[str] = frozenset({"order"})
    trainings: Callable[..., list[Callable[[Callable[[int], None]], None]]] | None = None
    neutral: tuple[str, ...] = ()
    likelihood: Literal["exact", "bound"] | None = None
    reads: Callable[[Mapping[str, Any]], Collection[str]] = lambda args: ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """Which outputs of an extractor are the logits of a classifier, and of what classes.

    Attributes:
        count: number of classes.
        tap: that holds the logits, biases included.
        offset: output of class 0. The classes follow each other.
        classes: their names in this order, empty where they are not known.
    """

    count: int
    tap: str = "logits"
    offset: int = 0
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """A network with its own resizing and scaling, ready on a device.

    A loader `load(*, device, precision, weights=None, **args) -> Extractor` is what the registry names. The keywords
    before `args` are given by the pipeline and are not part of the reference text.

    Attributes:
        key: digest of everything that may change a feature: weights, resize, scaling, arithmetic, version of the code.
        widths: number of features per image, by tap.
        embed: embed(images, taps) maps uint8 (b, c, h, w) on any device to float32 (b, width) a tap asked for.
        compare: compare(generated, reference, taps) maps uint8 images i of both sides, (b, c, h, w) each, to float32
            (b, width) a tap asked for; for extractors whose features of an image are larger than the image.
        embed_captions: maps b texts to float32 (b, width of "embedding"), for extractors of text and images.
        block: images of one call of the network. Every call gets exactly as many (the last one is filled up), so that
            no feature depends on how images were batched.
        classifier: None for a network that tells no classes.
        made_for: the data set that a small shipped network was trained on: its features say little of other images.
            Empty for networks of general use.
    """

    key: str
    widths: Mapping[str, int]
    embed: Callable[[Tensor, Sequence[str]], Mapping[str, Tensor]]
    compare: Callable[[Tensor, Tensor, Sequence[str]], Mapping[str, Tensor]] | None = None
    embed_captions: Callable[[Sequence[str]], Tensor] | None = None
    block: int = 32
    classifier: Classifier | None = None
    made_for: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A source of real images.

    Attributes:
        load: load(split, **args) -> Samples with all images of the split, or None where a split that need not be there
            is not; `directory` among the parameters, if named there, is given by --data-dir.
        splits: role to name of the split: "reference" (what generated images are compared with), "held_out" (real
            images that are not in the reference, for floors), "test" (for classifiers). Roles may be missing.
        reference_count: images of the reference split that are used by default; None is all.
        default_samples: images that `genbench run` generates by default.
        protocol: name of the protocol that is used unless another is asked for.
        prompt: caption of an image of which only the class is known, {} standing for the name of the class.
        named: whether name and arguments say which images these are; False where an argument is a path.
    """

    name: str
    summary: str
    source: str
    load: Callable[..., Samples | None]
    splits: Mapping[str, str]
    version: int = 1
    reference_count: int | None = None
    default_samples: int = 1000
    protocol: str = "embedded"
    prompt: str = "a photo of a {}"
    named: bool = True


class PresetLike(Protocol):
    """What a paper did with its system on a data set.

    Attributes:
        arguments: of the loader, where they differ from its defaults.
        num_samples, protocol: of the evaluation, None leaves them to the data set.
        files: names of the files of weights that are needed: of shipped ones, or of cards of published ones.
        differs: sentences: what is done otherwise than in the paper although the preset is kept.
        source: of the preset, such as paper and table.

    It may also have `quantise` ("round" or "truncate", None leaves it to the protocol) and `rows`, the rows of
    `leaderboards/reported.csv` that its runs stand beside, see `genbench.papers.wanted`.
    """

    # Properties, because records that are frozen have them too; a plain attribute would have to be writable.
    @property
    def arguments(self) -> Mapping[str, Scalar]: ...
    @property
    def num_samples(self) -> int | None: ...
    @property
    def protocol(self) -> str | None: ...
    @property
    def files(self) -> tuple[str, ...]: ...
    @property
    def differs(self) -> tuple[str, ...]: ...
    @property
    def source(self) -> str: ...


class Model(Protocol):
    """A generator of images, ready on a device. No import of genbench is needed to be one.

    A loader `load(*, dataset, device, precision, **args) -> Model` is what the registry names; `dataset` is the name of
    the data set whose weights are wanted. A loader that names a parameter `fetch` is given a function of a card (see
    `genbench.weights.Published`) to the path of the file, from the cache or downloaded. It may have an attribute
    `presets`, a mapping from data set to `PresetLike`.

    Attributes:
        shape: (c, h, w) of its images.
        key: digest of its weights and of the version of its code.
        takes: what `sample` needs beside the seeds, of {"labels", "captions", "images", "masks"}. A model without this
            attribute may have `conditioning` instead, which is "none", "label" or "caption".
        classes: number of classes it can be asked for, 0 without labels.
        evaluations: network evaluations an image, a mean where they depend on the image; None before they are known.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def key(self) -> str: ...
    @property
    def classes(self) -> int: ...
    @property
    def evaluations(self) -> float | None: ...

    @property
    def sample(self) -> Callable[..., Tensor]:
        """sample(seeds, *, watch=None, **conditions) gives the images of the given seeds, uint64 (b,): float
        (b, c, h, w), nominally in [-1, 1], on any device. A method will do. A type checker is told no more of it,
        because each model names the conditions that it takes.

        Image i depends on seeds[i] and on condition i alone, never on the others. `conditions` are those that the model
        takes, by name: `labels`, int64 (b,); `captions`, b texts; `images`, float32 tensor (b, c', h', w') in [-1, 1];
        `masks`, float32 tensor (b, 1, h', w'), 1 where something is to be painted. `watch(done, total)` is called after
        every step. Raises ValueError for weights that do not fit and FileNotFoundError for missing ones.

        A model may also have a method `trajectory` of the same arguments, whose `watch` is called with an object of
        `done`, `steps`, `x` (the state as images) and `predicted` (the images it was predicted to become).

        A model that knows likelihoods has an attribute `likelihoods`, a set of "exact" and "bound", and a method
        nll(images, seeds, *, kind, tolerance=..., **conditions) that gives -log2 p(x) of each image divided by its
        number of values, floating point (b,). `images` is a uint8 tensor (b, c, h, w), `kind` one of `likelihoods`, and
        `tolerance` is given for "exact" alone. Number i depends on image, seed and condition i alone.
        """
        ...


CONDITIONS = ("labels", "captions", "images", "masks")
"""What a model may take beside seeds."""


def taken_by(model: Any) -> frozenset[str]:
    """What `sample` of a model needs beside the seeds: its `takes`, or what its older `conditioning` means.

    Raises:
        UsageError: a model that has neither, or names something else.
    """
    older = {"none": frozenset(), "label": frozenset({"labels"}), "caption": frozenset({"captions"})}
    given = getattr(model, "takes", None)
    if given is None:
        conditioning = getattr(model, "conditioning", "none")
        if conditioning not in older:
            raise UsageError(f"A model's conditioning is one of {', '.join(older)}; got {conditioning!r}.")
        given = older[conditioning]
    if isinstance(given, str) or not set(given) <= set(CONDITIONS):
        raise UsageError(f"A model takes a set of {', '.join(CONDITIONS)}; got {given!r}.")
    classes = getattr(model, "classes", 0)
    if "labels" in given and (type(classes) is not int or classes < 1):
        raise UsageError(f"A model that takes labels has at least 1 class; got classes={classes!r}.")
    return frozenset(given)


RESERVED: Mapping[str, frozenset[str]] = {
    "metric": frozenset({"generated", "reference", "device", "classifier", "bits"}),
    "extractor": frozenset({"device", "precision", "weights"}),
    "dataset": frozenset({"directory", "split"}),
    "model": frozenset({"dataset", "device", "precision", "fetch", "compiled"}),
}
"""Kind to parameters that the pipeline gives; everything else in a signature is an argument of the reference text."""

LOADED: Mapping[str, tuple[str, ...]] = {
    "extractor": ("device", "precision", "weights"),
    "model": ("dataset", "device", "precision"),
}
"""Kind to the keywords that every loader of it is called with."""
