"""Classification accuracy score: what a classifier that has seen only generated images knows of real ones.

A trained classifier is kept in the cache under a digest of all that it depends on, so that a repeated run, or another
test set, trains nothing. How it is trained is `genbench.metrics.cas_training`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from genbench import uncertainty
from genbench.arrays import Evidence, Samples
from genbench.contracts import Metric
from genbench.errors import InputRejected
from genbench.files import keep, kept
from genbench.metrics import arguments
from genbench.metrics.cas_training import RECIPES, Recipe, architecture_for, arithmetic, network, ranks, train
from genbench.records import Score, digest
from genbench.weights import cache_directory, load_into

VERSION = 1
_TESTED = 10_000  # training images on which the training accuracy is measured

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Training:
    """What a classifier is trained on, but for its seed."""

    samples: Samples
    labels: NDArray[np.int64]
    classes: int
    name: str
    recipe: Recipe
    device: str


def _trained(what: _Training, seed: int, advance: Advance = lambda done: None) -> tuple[nn.Module, float]:
    """A classifier and its accuracy on the images that it was trained on; from the cache if it is there."""
    samples, labels, classes, device = what.samples, what.labels, what.classes, what.device
    name, recipe = what.name, what.recipe
    content = hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").tobytes()).hexdigest()
    kind = torch.device(device).type
    identity = ["cas", VERSION, samples.fingerprint(), samples.count, content, classes, name, asdict(recipe), seed]
    path = cache_directory() / "classifiers" / f"{digest([*identity, kind, torch.__version__], 32)}.safetensors"
    classifier = network(name, samples.shape[0], classes, seed)
    known = _read(classifier, path)
    classifier = classifier.to(memory_format=torch.channels_last).to(device)
    if known is None:
        train(classifier, samples, labels, recipe, seed=seed, device=device, advance=advance)
        # Not the first ones, which are of few classes where images lie class by class.
        tested = np.random.default_rng(0).permutation(samples.count)[:_TESTED]
        some = samples.take(tested, origin=samples.origin, fingerprint=samples.fingerprint)
        known = float((ranks(classifier, some, labels[tested], recipe, device=device) == 0).mean())
        _write(classifier, known, path)
    return classifier, known


_ACCURACY = "accuracy on the training images"


def _read(classifier: nn.Module, path: Path) -> float | None:
    """Fills a network from the cache and returns its accuracy on the training images, or None."""
    from safetensors.torch import load

    if (stored := kept(path)) is None:
        return None
    state = load(stored)
    accuracy = float(state.pop(_ACCURACY))
    load_into(classifier, state, origin=str(path))
    return accuracy


def _write(classifier: nn.Module, accuracy: float, path: Path) -> None:
    from safetensors.torch import save

    state = {key: value.detach().cpu().contiguous() for key, value in classifier.state_dict().items()}
    keep(path, save(state | {_ACCURACY: torch.tensor(accuracy, dtype=torch.float64)}))


def _labels(generated: Samples, reference: Samples) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Labels of both sides and the number of classes."""
    if generated.labels is None or reference.labels is None:
        lacking = generated if generated.labels is None else reference
        raise InputRejected(f"cas needs labels, and {lacking.origin} has none.")
    if generated.shape != reference.shape:
        raise InputRejected(f"cas compares images of one size; got {generated.shape} and {reference.shape}.")
    mine, real = (np.asarray(labels, dtype=np.int64) for labels in (generated.labels, reference.labels))
    classes = int(max(mine.max(), real.max())) + 1
    if min(mine.min(), real.min()) < 0 or classes < 2:
        raise InputRejected("cas needs labels of two or more classes, counted from 0.")
    return mine, real, max(classes, len(reference.classes))


def _score(right: NDArray[np.float64], detail: dict[str, float]) -> Score:
    """The mean of right (repeats, n) of {0, 1}, its error over test images and trainings where repeated."""
    repeats, count = right.shape
    if repeats == 1:
        share = uncertainty.score_from_share(float(right.sum()), count)
        reason = "one training tells nothing of another; ask for repeats=3 or more"
        return uncertainty.score(share.value, reason, detail=detail | {"test_stderr": share.stderr or 0.0})
    images = uncertainty.of_mean(right.mean(axis=0), method="images")
    trainings = uncertainty.of_mean(right.mean(axis=1), method="trainings")
    error = uncertainty.of_independent([part for part in (images, trainings) if part is not None])
    detail = detail | {"training_std": float(right.mean(axis=1).std(ddof=1))}
    return uncertainty.score(float(right.mean()), error, bounds=(0.0, 1.0), detail=detail)


def cas(
    *,
    generated: Evidence,
    reference: Evidence,
    architecture: str = "auto",
    epochs: int | None = None,
    batch_size: int | None = None,
    flip: bool | None = None,
    seed: int = 0,
    repeats: int = 1,
    device: str = "cpu",
) -> Score:
    """Top-1 accuracy on real images of a classifier that was trained on generated images and their labels.

    Args:
        generated: labelled images, on which the classifier is trained from scratch. The protocol of the paper takes as
            many as the real training set has, with its labels.
        reference: labelled real images, on which it is tested; of the same shape. They play no part in the training:
            the classifier after the last step is the one that is tested, not the best one.
        architecture: "compact-cas" (0.13 M parameters, 20 epochs and at least 51,200 images of 128 a step, half a
            cosine from 0.05, shifts; about half a minute on one core for 1,000 to 5,000 images of 32x32), "resnet56"
            (164 epochs, 128 a step, 0.1 and a tenth of it after 1/2 and 3/4, shifts and flips), "resnet50"
            (torchvision's, 90 epochs, 256 a step, 0.1 and a tenth after 30, 60 and 80, crops of 8 to 100 % of the area
            and flips, tested on the middle), or "auto": resnet50 for images larger than 32 pixels, else compact-cas for
            fewer than 20,000 images, else resnet56. The rest of the recipes is in `RECIPES`.
        epochs: other than the recipe's, and then exactly so many.
        batch_size: other than the recipe's. The learning rate is scaled with it.
        flip: whether to mirror images, None as the recipe. compact-cas does not, because mirrored digits, arrows and
            crescents are other things.
        seed: of the initial weights, the order and the augmentation.
        repeats: trainings with the seeds seed..seed + repeats - 1. The value is their mean.
        device: of torch. On the CPU equal samples and seed give an equal value on one machine with one number of
            threads; on CUDA up to the order of sums.

    Returns:
        In [0, 1], larger is better. The floor is the same training on as many real images, and the ratio of the two is
        what to compare between data sets. With one training there is no error, because another seed or another set of
        generated images would train another classifier; `test_stderr` in the detail is the binomial error over the test
        images alone. With repeats the variances over test images and over trainings are added, which counts their
        interaction twice and so errs on the wide side; what another set of generated images would give is not in it.
        Detail: `train`, the accuracy on (the first 10,000) training images
        without augmentation; `worst_class`, the lowest accuracy of a class of the test set; `top5` where there are more
        than five classes; `steps`; `parameters`; with repeats `training_std`.

    Raises:
        UsageError: an unknown architecture, or arguments below their smallest value.
        InputRejected: samples without labels, of different shapes, or of fewer than two classes.
        GenbenchError: a training that diverged.

    Source:
        Ravuri and Vinyals 2019 (arXiv:1905.10887): ResNet-50 for ImageNet, ResNet-56 for CIFAR-10, one set of common
        hyper-parameters, the real validation set. Their table of hyper-parameters could not be had: these are He et
        al.'s of 2016 (sec. 4.2) for resnet56, and for resnet50 the usual 90 epochs of Goyal et al. 2017 without
        warm-up. Their real-data row, 73.09 % for ImageNet at 256x256, is what the floor compares with. StudioGAN's
        score of this name is another: it keeps the best epoch on its training loader.
    """
    samples, test = generated.samples, reference.samples
    arguments.trained(
        generated=samples, reference=test, epochs=epochs, batch_size=batch_size, repeats=repeats, seed=seed
    )
    what = _training(samples, test, device, architecture=architecture, epochs=epochs, batch_size=batch_size, flip=flip)
    truth, classes, recipe = _labels(samples, test)[1], what.classes, what.recipe
    found, accuracies = [], []
    with arithmetic():
        for number in range(seed, seed + repeats):
            classifier, accuracy = _trained(what, number)
            found.append(ranks(classifier, test, truth, recipe, device=device))
            accuracies.append(accuracy)
    rank = np.stack(found)
    right = (rank == 0).astype(np.float64)
    of_class = [right[:, truth == label].mean() for label in np.unique(truth)]
    detail = {"train": float(np.mean(accuracies)), "worst_class": float(min(of_class))}
    if classes > 5:
        detail["top5"] = float((rank < 5).mean())
    detail["steps"] = float(recipe.steps(samples.count))
    detail["parameters"] = float(sum(p.numel() for p in classifier.parameters()))
    return _score(right, detail)


def _training(
    samples: Samples,
    test: Samples,
    device: str,
    *,
    architecture: str,
    epochs: int | None,
    batch_size: int | None,
    flip: bool | None,
) -> _Training:
    labels, _, classes = _labels(samples, test)
    name = architecture_for(architecture, samples.count, max(samples.shape[1:]))
    recipe = RECIPES[name]
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs, least=0)
    size = min(batch_size or recipe.batch_size, samples.count)
    recipe = replace(recipe, batch_size=size, flip=recipe.flip if flip is None else flip)
    return _Training(samples=samples, labels=labels, classes=classes, name=name, recipe=recipe, device=device)


def trainings(
    *, generated: Evidence, reference: Evidence, seed: int, repeats: int, device: str, **recipe: Any
) -> list[Callable[[Advance], None]]:
    """The trainings of `cas`, whose classifiers it finds in the cache, see `genbench.contracts.Metric`."""
    what = _training(generated.samples, reference.samples, device, **recipe)

    def train_one(number: int, advance: Advance) -> None:
        with arithmetic():
            _trained(what, number, advance)

    return [partial(train_one, number) for number in range(seed, seed + repeats)]


CAS = Metric(
    name="cas",
    summary="accuracy on real images of a classifier trained on generated ones",
    source="Ravuri and Vinyals 2019, arXiv:1905.10887",
    compute=cas,
    check=arguments.trained,
    version=VERSION,
    trainings=trainings,
    taps=(),
    images=True,
    labels=True,
    against="test",
    floor="reference",
    higher_is_better=True,
    bounds=(0.0, 1.0),
    minimum=10,
    invariances=frozenset(),
)
