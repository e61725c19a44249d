"""Protocols: everything that must agree before two numbers may be compared, under one name.

A protocol fixes the extractor of every metric, the metrics' arguments, the quantiser and the numbers of images. What a
command line overrides is visible in the hash of each result, which covers all that was actually used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from genbench.errors import UsageError, nearest
from genbench.records import Measurement, Ref, Scalar


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How numbers are measured.

    Attributes:
        extractor: for metrics that name none themselves.
        extractors: for particular metrics.
        args: arguments of particular metrics, where the protocol differs from their defaults.
        references, samples: metrics that see only so many of the reference images, and of the generated ones or of the
            real ones in their place. A seeded choice by content, see `genbench.subsets`.
        quantise: rule from floats to 8 bits.
        num_samples: of the protocol, None leaves it to the data set.
        num_reference: most images of the reference, chosen likewise, None leaves it to the data set, 0 is the whole
            split.
        metrics: measured by `--metric all`.
    """

    name: str
    summary: str
    source: str
    extractor: Ref
    extractors: Mapping[str, Ref] = field(default_factory=dict)
    args: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    references: Mapping[str, int] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=dict)
    quantise: Literal["round", "truncate"] = "round"
    num_samples: int | None = None
    num_reference: int | None = None
    metrics: tuple[str, ...] = ("fid", "is", "precision", "recall")

    def resolve(self, measurement: Measurement) -> Measurement:
        """Completes a measurement: its extractor, and the protocol's arguments where the user gave none."""
        metric = measurement.metric
        told = self.args.get(metric.name, {})
        # One way to cut into parts takes the place of the other, and is no second one beside it.
        told = {name: value for name, value in told.items() if _INSTEAD.get((metric.name, name)) not in metric.args}
        args = {**told, **metric.args}
        extractor = measurement.extractor or self.extractors.get(metric.name, self.extractor)
        return Measurement(Ref(metric.name, args), extractor)


_INSTEAD = {("is", "chunk"): "splits", ("is", "splits"): "chunk"}
"""Arguments of a metric that exclude each other."""
_INCEPTION = Ref("inception", {"resize": "tf1", "scaling": "tf"})
_TEN_SPLITS: Mapping[str, Scalar] = {"splits": 10, "shuffle": 2020}
_LARGE = "vit_large_patch14_dinov2"
_SUBSETS: Mapping[str, Scalar] = {"subsets": 100, "subset_size": 1000, "seed": 2020}
# `reduced_n` of dgm-eval's `__main__.py`, for both sides.
_DGM_MANIFOLDS = dict.fromkeys(("precision", "recall", "density", "coverage"), 10_000)

PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            name="embedded",
            summary="the shipped extractors; needs no download and is comparable with itself only",
            source="this project",
            extractor=Ref("compact"),
            extractors={"clip-score": Ref("tiny-clip"), "cmmd": Ref("tiny-clip")},
            metrics=(
                "fid",
                "sfid",
                "fid-inf",
                "fid-per-class",
                "mifid",
                "kid",
                "is",
                "precision",
                "recall",
                "density",
                "coverage",
                "realism",
                "authpct",
                "vendi",
                "swd",
                "top1",
                "clip-score",
                "cmmd",
                "cas",
            ),
        ),
        Protocol(
            name="adm",
            summary="ADM's evaluator: 50,000 samples against the training set, manifolds against 10,000 of it",
            source="openai/guided-diffusion evaluations/evaluator.py; Dhariwal and Nichol 2021",
            extractor=_INCEPTION,
            args={
                "is": {"chunk": 5000},
                "precision": {"k": 3, "arithmetic": "fp16-adm"},
                "recall": {"k": 3, "arithmetic": "fp16-adm"},
            },
            references={"precision": 10_000, "recall": 10_000},
            quantise="truncate",
            metrics=("fid", "sfid", "is", "precision", "recall"),
            num_samples=50_000,
            num_reference=0,
        ),
        Protocol(
            name="tf1",
            summary="TTUR and torch-fidelity: TensorFlow 1 resize and scaling, ten splits, VGG-16 manifolds",
            source="bioinf-jku/TTUR fid.py; toshas/torch-fidelity 0.4.0",
            extractor=_INCEPTION,
            extractors={"precision": Ref("vgg16"), "recall": Ref("vgg16")},
            args={"is": _TEN_SPLITS, "kid": _SUBSETS, "precision": {"k": 3}, "recall": {"k": 3}},
            metrics=("fid", "is", "kid", "precision", "recall"),
            num_samples=50_000,
            num_reference=0,
        ),
        Protocol(
            name="clean",
            summary="clean-fid: bicubic resize with antialiasing on floats, TensorFlow scaling",
            source="GaParmar/clean-fid 0.1.35; Parmar et al. 2022",
            extractor=Ref("inception", {"resize": "clean", "scaling": "tf"}),
            args={"kid": {"subsets": 100, "subset_size": 1000, "seed": 0}},
            metrics=("fid", "kid"),
            num_samples=50_000,
            num_reference=0,
        ),
        Protocol(
            name="pytorch-fid",
            summary="pytorch-fid: half-pixel bilinear resize without antialiasing, symmetric scaling",
            source="mseitzer/pytorch-fid 0.3.0",
            extractor=Ref("inception", {"resize": "bilinear", "scaling": "symmetric"}),
            metrics=("fid",),
            num_samples=50_000,
            num_reference=0,
        ),
        Protocol(
            name="edm",
            summary="EDM: NVIDIA's emulation of the TensorFlow 1 resize; its papers print the least of three runs",
            source="NVlabs/edm fid.py; Karras et al. 2022",
            extractor=Ref("inception", {"resize": "nvidia", "scaling": "tf"}),
            metrics=("fid",),
            num_samples=50_000,
            num_reference=0,
        ),
        Protocol(
            name="dgm",
            summary="dgm-eval: DINOv2 ViT-L/14 features, k = 5 manifolds on 10,000 images a side",
            source="layer6ai/dgm-eval; Stein et al. 2023",
            extractor=Ref("dinov2", {"architecture": _LARGE, "resize": "pil-bicubic"}),
            args={
                "precision": {"k": 5},
                "recall": {"k": 5},
                "kid": {"subsets": 100, "subset_size": 1000, "seed": 0},
                "vendi": {"per_class": True},
            },
            references=_DGM_MANIFOLDS,
            samples=_DGM_MANIFOLDS,
            metrics=("fd", "kid", "precision", "recall", "density", "coverage", "authpct", "vendi"),
            num_samples=50_000,
            num_reference=50_000,
        ),
        Protocol(
            name="edm2",
            summary="EDM2: FID as EDM, and the Frechet distance of DINOv2 ViT-L/14; its papers print the least of runs",
            source="NVlabs/edm2 calculate_metrics.py; Karras et al. 2024, arXiv:2312.02696",
            extractor=Ref("inception", {"resize": "nvidia", "scaling": "tf"}),
            extractors={"fd": Ref("dinov2", {"architecture": _LARGE, "resize": "bicubic-antialias"})},
            metrics=("fid", "fd"),
            num_samples=50_000,
            num_reference=0,
        ),
        Protocol(
            name="clip-fd",
            summary="Frechet distance of CLIP ViT-B/32 features, which no classifier of ImageNet has shaped",
            source="Kynkaanniemi et al. 2023, arXiv:2203.06026; CLIP's own preprocessing",
            extractor=Ref("clip", {"architecture": "ViT-B-32", "pretrained": "openai"}),
            metrics=("fd",),
            num_samples=50_000,
            num_reference=0,
        ),
        Protocol(
            name="clipscore",
            summary="CLIPScore: ViT-B/32, 'A photo depicts ' before every caption, 2.5 max(cosine, 0) a pair",
            source="jmhessel/clipscore clipscore.py; Hessel et al. 2021, arXiv:2104.08718",
            extractor=Ref("clip", {"architecture": "ViT-B-32", "pretrained": "openai", "prefix": "A photo depicts "}),
            args={"clip-score": {"scale": "hessel"}},
            metrics=("clip-score",),
        ),
        Protocol(
            name="torchmetrics-clip",
            summary="clip_score of torchmetrics: ViT-L/14, captions as they are, 100 times the mean cosine, at least 0",
            source="Lightning-AI/torchmetrics 1.9 functional/multimodal/clip_score.py",
            extractor=Ref("clip", {"architecture": "ViT-L-14", "pretrained": "openai", "prefix": ""}),
            args={"clip-score": {"scale": "cosine100"}},
            metrics=("clip-score",),
        ),
    )
}


def protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        UsageError: an unknown name.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"No protocol named {name!r}. {nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]
