"""Turns a collection of published numbers into `leaderboards/reported.csv`, the reported leaderboard.

    python -m scripts.import_paper_results paper_results.csv

The collection has one row a number, with remarks on how it was collected mixed into most columns. Here a number becomes
a number, a remark moves to `note`, a value that was copied from the neighbouring metric of a table (the samples of an
FID beside a likelihood) goes, and what a reader cannot open is not named. Rows that other sources contradict stay, with
the reason in `disputed`. The bytes depend on the rows of the input alone, not on their order.

How a number was measured becomes columns (PROTOCOL in `genbench.papers`), read from the words of the sources: the split
and the number of reference images, the resize and the weights of the extractor, neighbours, parts of an Inception
score, a minimum of several runs. A column is "not stated" where the source does not say, and empty where the metric has
no such thing.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path

from genbench.files import atomic_write
from genbench.papers import COLUMNS, FORMULA, NOT_STATED, NUMBERS, PROTOCOL, SIZES, TIERS

Row = Mapping[str, str]

LIKELIHOODS = frozenset({"nll_bpd", "nelbo_nats", "rate_bpd", "distortion_bpd", "rmse_0_255"})
NO_NETWORK = LIKELIHOODS | {
    "recon_mse_0_1", "psnr", "ssim", "lpips", "consistency_mse_e5", "accuracy", "soa_c", "soa_i", "elo_photorealism",
    "elo_caption", "human_photorealism_pct", "human_alignment_pct", "human_realism_pct", "human_caption_pct",
}  # fmt: skip
MANIFOLD = frozenset({"precision", "recall", "density", "coverage"})
MANIFOLD_DINO = frozenset(f"{name}_dinov2" for name in MANIFOLD)

# Extractor as collected: the name for most metrics, then exceptions by metric, then a note on precision and recall.
EXTRACTORS: dict[str, tuple[str, dict[str, str], str]] = {
    "none": ("", {}, ""),
    "as quoted": ("", {}, ""),
    "Inception-v3 pool3 (TF FID graph)": ("Inception-v3 (TF graph)", {}, ""),
    "Inception-v3 (TF, guided-diffusion evaluator; P/R k=3, 10k reference images)": (
        "Inception-v3 (ADM evaluator)", {}, "k=3 with 10k reference images"),
    "Inception-v3 (TF, ADM evaluator)": ("Inception-v3 (ADM evaluator)", {}, "k=3"),
    "Inception-v3 (ADM evaluator)": ("Inception-v3 (ADM evaluator)", {}, "k=3"),
    "Inception-v3 (PyTorch-FID port); IS without 10-fold split": ("Inception-v3 (pytorch-fid)", {}, "k=5"),
    "Inception-v3 via torch-fidelity": ("Inception-v3 (torch-fidelity)", {}, ""),
    "Inception-v3 via torch-fidelity (assumed)": ("Inception-v3 (torch-fidelity, assumed)", {}, ""),
    "Inception-v3 via torch-fidelity; P/R with ADM script": (
        "Inception-v3 (torch-fidelity)",
        {"precision": "Inception-v3 (ADM evaluator)", "recall": "Inception-v3 (ADM evaluator)"}, "k=3"),
    "Inception-v3 (NVIDIA pickle of the TF graph), min of 3 runs": ("Inception-v3 (NVIDIA pickle)", {}, ""),
    "Inception-v3 (FID), P/R own": ("Inception-v3", {"precision": "", "recall": ""}, ""),
    "CAS: ResNet-50 trained on samples; IS/FID Inception-v3": (
        "Inception-v3",
        {"cas_top1": "ResNet-50 trained on samples", "cas_top5": "ResNet-50 trained on samples"}, ""),
    "FID: Inception-v3 (implementation not stated); CLIP ViT-L/14": (
        "Inception-v3", {"clip_score": "CLIP ViT-L/14"}, ""),
    "Inception-v3; CLIP image-text cosine (model not stated in the note)": (
        "Inception-v3", {"clip_score": "CLIP (model not stated)"}, ""),
    "Inception-v3; CLIP (ViT-B/32, recalled)": ("Inception-v3", {"clip_score": "CLIP ViT-B/32 (recalled)"}, ""),
    "Inception-v3; CLIP ViT-g/14 LAION-2B": ("Inception-v3", {"clip_score": "CLIP ViT-g/14 LAION-2B"}, ""),
    "CLIP ViT-B/16 via torchmetrics, x100": ("CLIP ViT-B/16 (torchmetrics, x100)", {}, ""),
}  # fmt: skip

REFERENCES = {
    "train 50k": "train (50k)",
    "50k training images": "train (50k)",
    "train 70k": "train (70k)",
    "train 1281167": "train (all 1281167)",
    "full training set": "train (all)",
    "full training set (ADM reference batch)": "train (ADM reference batch)",
    "train (ADM reference statistics imagenet-64x64-baseline.npz)": "train (ADM reference statistics)",
    "train (imagenet-64x64.npz, differs from the ADM crop)": "train (own crop, other than ADM's)",
    "train (subset choice of each paper; see ADM sec. 2.2)": "train (the subset differs between papers)",
    "train split": "train",
    "test 10k": "test (10k)",
    "CIFAR-10 test": "test",
    "ImageNet val (CAS)": "val",
    "ImageNet val": "val",
    "ImageNet validation set": "val",
    "validation": "val",
    "val split": "val",
    "full COCO val 2014": "COCO val 2014",
    "as quoted": "",
    "as quoted / re-run": "",
    "human raters": "",
    "none": "",
}

SAMPLES = {
    "10000? (see note)": ("", ""),
    "as many as training images (CIFAR) / 50000 (ImageNet)": ("50000", ""),
    "1 sample per training image, labels from train set": ("", "samples: one for each training image, with its label"),
    "1 per training image": ("", "samples: one for each training image"),
    "50000 (dgm_eval default nsample)": ("50000", ""),
    "about 30000": ("30000", "samples: about 30000"),
    "5k": ("5000", ""),
    "2k": ("2000", ""),
    "full test set": ("", ""),
    "test set": ("", ""),
    "val images": ("", "samples: one for each val image"),
    "val": ("", "samples: one for each val image"),
    "50000 val": ("50000", ""),
    "5000 val": ("5000", ""),
}

STEPS = {
    "4000 base + 4000/100 SR (no guidance; ~8100 for 256, )": ("", "steps: 4000 base, 4000 or 100 super-resolution"),
    "2000 (PC: 1000 predictor + 1000 corrector)": ("2000", "steps: 1000 predictor and 1000 corrector"),
}

# Pieces of notes between semicolons: pattern, replacement, and the metrics that it is about (None: all).
NOTES: tuple[tuple[str, str, frozenset[str] | None], ...] = (
    (r"quoted( row| number, protocol of the original paper)?", "", None),
    (r"\+-(.*)", r"printed with +-\1", None),
    (r"IS code OpenAI/TTUR per paper notes", "codes of OpenAI (IS) and TTUR (FID)", frozenset({"fid", "is"})),
    (r"upper bound, test", "upper bound", None),
    (r"train (\d\.\d+)", r"\1 on the training set", None),
    (r"n_samples 50k from Fig\. 4.*", "50k samples according to Fig. 4", None),
    (r"reference set not spelled out in the text copy", "reference set assumed", None),
    (r"reference set not named in the text copy.*", "reference set assumed, procedure of Heusel et al.", None),
    (r"w=0 is unguided\. number of steps.*", "steps not stated", None),
    (r"w here: .*|s=1\+w", "guidance_scale is s = 1 + w", None),
    (r"the notes say (most Table 1 FIDs) use (10k samples)", r"\1 probably use \2", frozenset({"fid"})),
    (r"n_samples here not certain", "", None),
    (r"FID \S+ itself seen as '(\S+)' on (\S+)", r"printed as \1 at \2", frozenset({"fid"})),
    (r"NLL recalled", "recalled, and quoted alike by others", frozenset({"nll_bpd"})),
    (r"[A-Z]+ ERROR: .*|best FID in the paper .*", "", None),
    (r"\w+ seed \S+ lists 2\.94 .*|2\.94 here is bits/dim: .*",
     "a third party's table lists the bits per dimension of this model, 2.94, as an FID", None),
    (r"cell alignment of .*|note says .*|printed in the repository README|CLIPSIM", "", None),
    (r"read off the plot: .*", "read off a plot, about +-0.3 in FID and +-0.001 in CLIP score", None),
    (r"scale order assigned by plot direction", "the order of the scales follows the direction of the plot", None),
    (r"resolution not stated in the note.*", "resolution assumed", None),
    (r"the \S+ note prints the pair one row too high.*", "some copies have the pair one row too high", None),
    (r"the LSGM notes mention (\d+)-(\d+) evaluations", r"others speak of \1 to \2 evaluations", None),
    (r"later papers print 2\.65 .*", "later papers print 2.65", None),
    (r"IS: 10 x 5k samples, averaged", "10 splits of 5k", frozenset({"is"})),
    (r"IS computed without ten splits.*", "without ten splits, hence higher", frozenset({"is"})),
    (r"IS computed once on 50k.*", "without ten splits, once on 50k", frozenset({"is"})),
    (r"P/R/density/coverage with k=5 on 10k subsets.*", "k=5 on subsets of 10k", MANIFOLD_DINO),
    (r"P/R (?:with )?(?:Inception-v3 features and )?K=5", "k=5", MANIFOLD),
    (r"512: precision/recall use 1000 real images as in ADM", "1000 real images at 512, as ADM", MANIFOLD),
    (r"ADM re-measured same model.*", r"\g<0>", MANIFOLD),
    (r"rfid_random = .*", r"\g<0>", frozenset({"rfid_random"})),
)  # fmt: skip

SYSTEMS_OF_PAPER = {
    "1905.10887": (),
    "2011.13456": ("NCSN++", "DDPM++", "DDPM cont"),
    "2012.09841": ("VQGAN",),
    "2102.09672": ("Improved DDPM",),
    "2104.07636": ("SR3", "Regression"),
    "2105.05233": ("ADM",),
    "2105.13290": ("CogView",),
    "2106.05931": ("LSGM",),
    "2106.15282": ("CDM",),
    "2112.07068": ("CLD",),
    "2201.06503": ("Analytic",),
    "2202.04200": ("MaskGIT",),
    "2202.05830": ("GGDM",),
    "2206.00364": ("EDM",),
    "2210.15257": ("ERNIE",),
    "2301.09515": (),
    "2306.00637": ("Wuerstchen",),
    "2307.01952": ("SDXL", "CIN"),
    "2309.06380": ("InstaFlow", "2-Rectified"),
    "2311.17042": ("ADD",),
}
"""How the names of their own systems begin in papers that print numbers of others without saying so."""

# Known errors and disagreements: columns that must agree, and what is wrong. Several sources were compared for each.
DISPUTED: tuple[tuple[dict[str, str], str], ...] = (
    ({"paper": "A third party's table of papers", "system": "Improved DDPM"},
     "2.94 is the bits per dimension of the L_vlb model, whose FID is 11.47; the best FID of the paper is 2.90"),
    ({"arxiv": "2112.10752", "system": "ADM-G,U"},
     "numbers of the 512 model in a table of 256; the ADM paper has 3.94, 215.84, 0.83, 0.53 at 256"),
    ({"arxiv": "2112.10752", "system": "ADM-G", "value": "5.58"}, "the ADM paper has 5.44 for 25 steps"),
    ({"arxiv": "2112.10752", "system": "GLIDE"}, "the GLIDE paper has 12.24 at scale 1.5, not 3"),
    ({"arxiv": "2303.01469", "system": "DDIM", "dataset": "CIFAR-10", "value": "8.23"},
     "the DDIM paper has 13.36 at 10 steps; not to be used"),
    ({"arxiv": "2303.01469", "system": "EDM", "dataset": "CIFAR-10", "metric": "fid"},
     "the EDM paper has 1.97 unconditional"),
    ({"arxiv": "2312.02696", "system": "EDM sampler on ADM", "value": "1.57"}, "the EDM paper has 1.55"),
    ({"system": "DALL-E", "value": "17.89"},
     "others quote about 28; 17.9 is its Inception score in other tables, so probably a slip of the column"),
    ({"arxiv": "2112.10741", "system": "DF-GAN"}, "of an earlier arXiv version; the CVPR paper has 19.32"),
    ({"arxiv": "2006.11239", "system": "NCSNv2"},
     "without the final denoising step; the NCSNv2 paper has 10.87 with it"),
    ({"system": "VDM", "metric": "nll_bpd", "value": "2.65"}, "the VDM paper and its repository have 2.64"),
    ({"arxiv": "2112.07804", "system": "DDPM", "metric": "fid"}, "the DDPM paper has 3.17"),
    ({"system": "VQ-VAE-2", "value": "31.11"}, "measured as 38.05 in the CAS paper, quoted as 38.1 by SR3 and IDDPM"),
    ({"system": "Imagen", "value": "39.5"}, "the running text of the paper says 39.2"),
    ({"system": "Imagen", "value": "43.9"}, "the running text of the paper says 43.6"),
    ({"system": "Parti-20B", "value": "8.39"}, "the running text of the paper says 8.29"),
)  # fmt: skip

# Where a number was read, as collected -> as published. A place that fits no line stops the import.
PLACES: tuple[tuple[str, str], ...] = (
    (r"unverified: recalled", ""),
    (r"(?:\w+ seed \S+)(?: \(.*\))?", ""),
    (r"github (\S+/\S+): (\S+\.(?:md|txt))(?: \(.*\))?", r"github.com/\1 \2"),
    (r"\S+\.txt", ""),
    (r"text copy of the paper \((?:ar5iv|full|LaTeX).*\)", "the paper"),
    (r"text copy of the paper \(same file\)", ""),
    (r"text copy of the paper \(abstract.*\)", "the abstract"),
    (r"text copy of the paper \(quoted in (.*)\)", r"quotation in \1"),
    (r"text copy of the paper \((?:structured|Korean) notes on (\w+).*\)", r"notes on \1"),
    (r"text copy of the paper \(Korean MaskGIT notes.*\)", "notes on MaskGIT"),
    (r"text copy of the paper \(\S+ notes on CDM\)", "notes on CDM"),
    (r"text copy of the paper \(LAFITE notes table\)", "notes on LAFITE"),
    (r"text copy of the paper \(notes with Table 1\)", "notes on the paper"),
    (r"text copy of the paper \(third-party survey note.*\)", "a survey's copy of the tables"),
    (r"text copy of the paper \(HF model card copy\)", "the model card"),
    (r"text copy of the paper \((?:English copy of the same)\)", ""),
    (r"text copy of the paper \(table of a later NLL paper quoting VDM\)", "quotation in a later paper"),
    (r"text copy of the paper \(((?:gDDIM|Multistep CM|HKD|Hourglass) paper)(?:,? .*)?\)", r"quotation in the \1"),
    (r"text copy of the paper \(((?:LDM|GLIDE) Table \d+)\)", r"quotation in \1"),
    (r"guided-diffusion (README|evaluations/README) \(.*\)", r"github.com/openai/guided-diffusion \1"),
    (r"mmgeneration README \(.*\)", "github.com/open-mmlab/mmgeneration README"),
    (r"CompVis/latent-diffusion README(?: .*)?", "github.com/CompVis/latent-diffusion README"),
    (r"NVlabs/edm README.*", "github.com/NVlabs/edm README"),
    (r"([\w.-]+/[\w.-]+) (.*?)(?: , (?:read from the image|digitised from the plot))?", r"github.com/\1 \2"),
)

_SECOND_HAND = re.compile(
    r"the abstract|the model card|quotation in .*|notes on .*|a survey's .*|github\.com/\S+ research/.*"
)
_PRIVATE = re.compile(r"(?i)text copy|\bseed (?:\d+_|\w*\.txt)|(?<![\w.])/(?:work|tmp|home|root|mnt)/|\bids \d")
_QUOTED = re.compile(r"quoted|as listed|taken from previous|reported by")
_REMEASURED = re.compile(
    r"re-?measured|re-run|re-evaluated|reproduction|retraining|sample set|as measured by|[Tt]hird-party|tutorial"
)


def places(verified_by: str, metric: str) -> list[str]:
    """The places a reader could look up, in the order given.

    Raises:
        ValueError: one that no line of PLACES knows.
    """
    found = []
    for part in re.split(r";\s+(?![^(]*\))| = ", verified_by):
        part = part.strip()
        if metric != "fid" and re.fullmatch(r".*README \(FID [\d.]+\)", part):
            continue  # read for its FID alone, it vouches for no other metric of the row
        for pattern, published in PLACES:
            match = re.fullmatch(pattern, part)
            if match:
                found.append(match.expand(published))
                break
        else:
            raise ValueError(f"verified_by names {part!r}, which no line of PLACES knows; add one.")
    return list(dict.fromkeys(place for place in found if place))


def tier(verified_by: str, where: Iterable[str]) -> str:
    """One of TIERS: what kind of place a number was read in. The best one counts."""
    if verified_by == "unverified: recalled":
        return "recalled"
    if "digitised" in verified_by:
        return "digitised"
    return "secondary" if all(_SECOND_HAND.fullmatch(place) for place in where) else "read"


def origin(row: Row) -> str:
    """Who measured the number that this paper prints: "own", "quoted" from elsewhere, or "remeasured" by others."""
    text = f"{row['variant']} {row['source']} {row['feature_extractor']} {row['note'].split(';')[0]}"
    own = SYSTEMS_OF_PAPER.get(row["arxiv_id"])
    theirs = own is None or row["system"].startswith(own)
    likelihoods_of_others = "likelihood comparison" in text and not theirs
    # ERNIE-ViLG 2.0 compares with printed numbers; the other papers of the table evaluate what they list.
    if _QUOTED.search(text) or likelihoods_of_others or (not theirs and row["arxiv_id"] == "2210.15257"):
        return "quoted"
    if own is not None:
        return "own" if theirs else "remeasured"
    return "remeasured" if _REMEASURED.search(f"{row['variant']} {row['source']} {row['system']}") else "own"


def number(text: str, what: str, special: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
    """A cell as (number or empty, note): `100 (recalled)` is ("100", "steps: recalled")."""
    if text in special:
        return special[text]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?: \((.*)\))?", text)
    if match:
        return match[1], f"{what}: {match[2]}" if match[2] else ""
    return "", f"{what}: {text}" if text else ""


def reference(text: str, row: Row) -> str:
    """Split and subset that the metric of this row is measured against; empty where the collection does not say."""
    likelihood = row["metric"] in LIKELIHOODS
    tagged = re.findall(r"([^;(]+?) \((FID|NLL)(?:, ([^)]*))?\)", text)
    if tagged:
        text = next((split.strip() for split, tag, _ in tagged if (tag == "NLL") == likelihood), "")
    if text in ("train / COCO val", "COCO / LN-COCO val"):
        text = "val" if "COCO" in row["dataset"] else "train"
    if text == "train (ADM reference batches for 64/256)":
        text = "train" if row["resolution"] == "32" else "train (ADM reference batch)"
    text = REFERENCES.get(text, text)
    return "" if likelihood and text.startswith("train") else text


def notes(text: str, metric: str) -> list[str]:
    """The pieces of a note that are about this metric, without those on how it was collected."""
    kept = []
    for piece in re.split(r"; ", text):
        for pattern, replacement, metrics in NOTES:
            match = re.fullmatch(pattern, piece)
            if match:
                piece = match.expand(replacement) if metrics is None or metric in metrics else ""
                break
        kept.append(piece)
    return kept


# The protocol of a number

Facts = Mapping[str, str]

_GRAPH: Facts = {"resize": "tf1", "scaling": "tf", "weights": "inception-2015-12-05"}
IMPLEMENTATIONS: tuple[tuple[str, Facts], ...] = (
    (r"Inception.*\(TF graph\)", _GRAPH),
    (r"Inception.*\(ADM evaluator\)",
     {**_GRAPH, "arithmetic": "fp16-adm", "parts": "chunks of 5000", "logits": "unbiased"}),
    (r"Inception.*\(torch-fidelity\)", {**_GRAPH, "arithmetic": "float32", "parts": "10", "logits": "unbiased"}),
    (r"Inception.*\(NVIDIA pickle\)", {**_GRAPH, "resize": "nvidia"}),
    (r"Inception.*\(StyleGAN3 code\)", {**_GRAPH, "resize": "nvidia", "parts": "10", "logits": "unbiased"}),
    (r"Inception.*\(pytorch-fid\)",
     {**_GRAPH, "resize": "bilinear", "scaling": "symmetric", "arithmetic": "float32", "logits": "biased"}),
    (r"Inception.*\(tensorflow_gan.*", {"logits": "biased"}),
    # dgm-eval draws 50,000 images of either side, which its table does not print.
    (r"DINOv2 ViT-L/14 \(dgm-eval\)",
     {"num_reference": "50000", "resize": "pil-bicubic", "scaling": "", "weights": "dinov2-vitl14",
      "arithmetic": "float32", "estimator": "line"}),
    (r"DINOv2 ViT-L/14 \(dgm-eval, 224 bicubic\)",
     {"resize": "bicubic-antialias", "scaling": "", "weights": "dinov2-vitl14"}),
    (r"CLIP ViT-L/14", {"scaling": ""}),
    (r"CLIP ViT-g/14 LAION-2B", {"scaling": ""}),
    (r"CLIP ViT-B/16 \(torchmetrics, x100\)", {"scaling": "", "factor": "100"}),
)  # fmt: skip
"""Extractor, as a pattern, to what its code does where nothing else is said. StudioGAN reads biased logits."""

ADM_BATCH = 10_000
"""Images of a reference batch of ADM, which also holds the statistics of the whole training set."""

CODES: tuple[tuple[Facts, Facts], ...] = (
    # The paper says that its Inception scores are of OpenAI's code, whose default is ten parts.
    ({"arxiv": "2006.11239", "metric": "is", "origin": "own"}, {"parts": "10", "logits": "unbiased"}),
    ({"arxiv": "2105.05233"}, {"quantise": "truncate"}),
    ({"arxiv": "2102.09672", "origin": "own"}, {"quantise": "truncate"}),
    ({"arxiv": "2010.02502"}, {"quantise": "round"}),
    ({"arxiv": "2206.00364"}, {"quantise": "round"}),
    ({"arxiv": "2312.02696", "origin": "own"}, {"quantise": "round"}),
    ({"arxiv": "2406.02507"}, {"quantise": "round"}),
    # Both papers share a repository, whose README says that every metric is the minimum of several evaluations.
    ({"arxiv": "2312.02696", "origin": "own"}, {"runs": "minimum of several"}),
    ({"arxiv": "2406.02507", "origin": "own"}, {"runs": "minimum of several"}),
    # The paper on DiT says so of its own numbers and of ADM's.
    ({"arxiv": "2105.05233", "resolution": "512", "metric": "precision"}, {"num_reference": "1000"}),
    ({"arxiv": "2105.05233", "resolution": "512", "metric": "recall"}, {"num_reference": "1000"}),
)
"""Columns that must agree, and what the paper or its repository says of all of these numbers."""


def split_of(text: str) -> str:
    """The split that the words for a reference name."""
    found = re.search(r"\b(train|test|val)", text)
    return NOT_STATED if found is None or "assumed" in text else found[1]


def subset_of(text: str) -> str:
    """Which images of the split those are, where they are not simply its images. The words name it."""
    for pattern, subset in (
        (r"ADM reference", "ADM reference batch"),
        (r"own crop", "own crop"),
        (r"differs between", NOT_STATED),
        (r"filtered", "filtered"),
        (r"captions subset", "captions subset"),
        (r"LN-(\w+)", r"LN-\1"),
        (r"CC3M", "CC3M"),
        (r"segmentation", "segmentation challenge"),
        (r"COCO.*(2014|2017)", r"COCO \1"),
        (r"COCO", NOT_STATED),
        (r"faces", "faces"),
    ):
        if found := re.search(pattern, text):
            return found.expand(subset)
    return ""


def count_of(row: Row, of_code: str) -> str:
    """Number of reference images: as the note says of this metric, as the code takes them (`of_code`), as the words for
    the reference say, or as many as the whole split has."""
    text, metric = row["reference"], row["metric"]
    split, manifold = split_of(text), metric.removesuffix("_dinov2") in MANIFOLD
    if found := re.search(rf"\b(\d+) real images at {row['resolution']}\b", row["note"]):
        return found[1]
    if found := re.search(r"\b(\d+)k reference images|on subsets of (\d+)k", row["note"]):
        return str(int(found[1] or found[2]) * 1000)
    if manifold and "ADM reference" in text:
        return str(ADM_BATCH)
    if of_code and not manifold:
        return of_code
    if found := re.search(r"(?<![\w.])(\d+)(k?)\b", re.sub(r"20(14|17)", "", text)):
        return str(int(found[1]) * (1000 if found[2] else 1))
    # Papers take the whole of CIFAR-10. Of larger sets some take a part, so that "train" alone does not tell.
    whole = row["dataset"] == "CIFAR-10" or "ADM reference" in text or ("(all)" in text and not manifold)
    return str(SIZES.get((row["dataset"], split), NOT_STATED)) if whole else NOT_STATED


def runs_of(text: str) -> str:
    """Whether the number is the least, or the mean, of several."""
    if found := re.search(r"\bmin(?:imum)? of (\d+|several)", text):
        return f"minimum of {found[1]}"
    if found := re.search(r"\bmean over (\d+) sampling runs", text):
        return f"mean of {found[1]}"
    return "minimum over checkpoints" if "best checkpoint over training" in text else ""


def candidates_of(text: str, system: str) -> str:
    """Number of images of this system of which each is the best one, by these words."""
    text = re.sub(r"(\w+) row is re-ranked", lambda found: "re-ranked" if found[1] == system else "", text)
    if re.search(r"\bno re-?rank|without re-?rank", text) or not re.search(r"re-?rank", text):
        return ""
    found = re.search(r"best of (\d+)|(\d+) (?:candidates|samples)", text)
    return f"best of {found[1] or found[2]}" if found else "best of several"


def parts_of(text: str) -> str:
    """Into how many parts the images of an Inception score were split, by these words; empty where they do not say."""
    if "without ten splits" in text:
        return "1"
    found = re.search(r"\b(\d+) splits", text)
    return found[1] if found else ""


def protocol(text: Row) -> dict[str, str]:
    """The columns of PROTOCOL of a row whose other columns are known."""
    metric, words = text["metric"], f"{text['variant']}; {text['note']}"
    measured = metric not in NO_NETWORK
    against = measured and metric not in ("is", "clip_score", "r_precision")
    network = measured and not metric.startswith("cas_")
    assumed = "reference set assumed" in text["note"]
    neighbours = re.search(r"\bk=(\d+)", text["note"])
    factor = "1" if re.search(r"mean cosine similarity.*not x100", text["note"]) else NOT_STATED
    known = next((facts for pattern, facts in IMPLEMENTATIONS if re.fullmatch(pattern, text["extractor"])), {})
    manifold = metric.removesuffix("_dinov2") in MANIFOLD
    counted = NOT_STATED if assumed else count_of(text, known.get("num_reference", ""))
    columns = {
        "split": (NOT_STATED if assumed else split_of(text["reference"])) if against else "",
        "subset": subset_of(text["reference"]) if against else "",
        "num_reference": counted if against else "",
        "resize": known.get("resize", NOT_STATED) if network else "",
        "scaling": known.get("scaling", NOT_STATED) if network else "",
        "weights": known.get("weights", NOT_STATED) if network else "",
        "arithmetic": known.get("arithmetic", NOT_STATED) if manifold else "",
        "neighbours": (neighbours[1] if neighbours else NOT_STATED) if manifold else "",
        "parts": parts_of(text["note"]) or known.get("parts", NOT_STATED) if metric == "is" else "",
        "logits": known.get("logits", NOT_STATED) if metric == "is" else "",
        "factor": known.get("factor", factor) if metric == "clip_score" else "",
        "estimator": known.get("estimator", NOT_STATED) if metric.startswith("fd_inf") else "",
        "quantise": NOT_STATED if measured else "",
        "runs": runs_of(words),
        "candidates": candidates_of(words, text["system"]),
        "prompts": NOT_STATED if measured and text["conditioning"] == "text" else "",
    }  # fmt: skip
    for wanted, facts in CODES:
        if all(text[name] == value for name, value in wanted.items()):
            columns |= {name: value for name, value in facts.items() if columns[name] or name == "runs"}
    assert tuple(columns) == PROTOCOL
    return columns


def corrected(row: Row) -> Row:
    """The row with the sampler that its authors' configurations name, where the collection has another.

    Source: yang-song/score_sde_pytorch `configs/vp` and `configs/subvp` have no corrector; Gotta Go Fast measures the
    same 2.55 of DDPM++ cont. (VP) for 1000 steps of Euler-Maruyama, and 3.41 for the predictor-corrector.
    """
    wrong = "PC sampler, best checkpoint over training"
    if row["arxiv_id"] != "2011.13456" or not row["system"].startswith("DDPM++") or wrong not in row["variant"]:
        return row
    sampler = "ancestral sampling" if row["system"] == "DDPM++" else "Euler-Maruyama"
    note = f"{row['note']}; sampler and steps as in the authors' configurations"
    return {**row, "variant": row["variant"].replace("PC sampler", sampler), "nfe_or_steps": "1000", "note": note}


def published(row: Row) -> dict[str, str]:
    """One row of the collection as a row of the leaderboard."""
    row = corrected(row)
    metric = row["metric"]
    steps, on_steps = number(row["nfe_or_steps"], "steps", STEPS)
    scale, on_scale = number(row["guidance_scale"], "guidance scale", {})
    if scale:
        w = row["arxiv_id"] == "2207.12598" and row["guidance_kind"] == "cfg"
        scale = repr(float(Decimal(scale) + (1 if w else 0)))
    samples, on_samples = number(row["n_samples"], "samples", SAMPLES)
    if metric in LIKELIHOODS:
        samples, on_samples = "", ""
    collected = row["feature_extractor"]
    extractor, exceptions, on_manifold = EXTRACTORS.get(collected, (collected, {}, ""))
    where = places(row["verified_by"], metric)
    pieces = [
        *notes(row["note"], metric),
        on_manifold if metric in MANIFOLD else "",
        "minimum of 3 runs" if collected.endswith("min of 3 runs") else "",
        on_steps, on_scale, on_samples,
    ]  # fmt: skip
    third_party = re.compile(r"\w+ seed \S+(?: table)?|\(.*, a (third party's table of papers)\)|as listed in the seed")
    text = {
        "system": row["system"],
        "paper": third_party.sub("A third party's table of papers", row["paper_title"]),
        "arxiv": row["arxiv_id"],
        "year": row["year"],
        "dataset": row["dataset"],
        "resolution": row["resolution"],
        "conditioning": row["conditioning"],
        "variant": third_party.sub("as listed there", row["variant"]),
        "steps": steps,
        "guidance": row["guidance_kind"],
        "guidance_scale": scale,
        "metric": metric,
        "value": row["value"],
        "num_samples": samples,
        "reference": reference(row["reference_set"], row),
        "extractor": "" if metric in NO_NETWORK else exceptions.get(metric, extractor),
        "origin": origin(row),
        "source": third_party.sub("table of papers", row["source"]),
        "read_in": "; ".join(where),
        "verified": tier(row["verified_by"], where),
        "note": "; ".join(dict.fromkeys(piece for piece in pieces if piece)),
    }
    text |= protocol(text)
    if metric in MANIFOLD_DINO and (subsets := re.search(r"on subsets of (\d+)k", text["note"])):
        text["num_samples"] = str(int(subsets[1]) * 1000)  # the subset is of both sides
    text["disputed"] = next(
        (reason for columns, reason in DISPUTED if all(text[name] == value for name, value in columns.items())), ""
    )
    for name, cell in text.items():
        if _PRIVATE.search(cell):
            raise ValueError(f"Column {name} would publish {cell!r}, which names what a reader cannot open.")
        if name in NUMBERS and cell and not re.fullmatch(r"-?\d+(\.\d+)?", cell):
            raise ValueError(f"Column {name} holds numbers; got {cell!r}.")
        if name not in NUMBERS and cell.startswith(FORMULA):
            text[name] = f"'{cell}"
    if not (text["value"] and text["source"] and text["verified"] in TIERS):
        raise ValueError(f"A row without value or source: {dict(row)}.")
    return text


def _order(row: Row) -> tuple[object, ...]:
    by = ("dataset", "resolution", "system", "arxiv", "conditioning", "variant", "steps", "guidance_scale", "metric")
    key = [(float(row[name]), "") if name in NUMBERS and row[name] else (-1.0, row[name]) for name in by]
    return (*key, tuple(row[name] for name in COLUMNS))


def leaderboard(rows: Iterable[Row]) -> bytes:
    """The file: UTF-8, LF, RFC 4180, fixed columns, sorted."""
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted((published(row) for row in rows), key=_order))
    return out.getvalue().encode()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", type=Path, help="CSV with one published number a row")
    home = Path(__file__).resolve().parent.parent / "leaderboards" / "reported.csv"
    parser.add_argument("--output", type=Path, default=home, help="table to write (leaderboards/reported.csv)")
    args = parser.parse_args(arguments)
    with args.collection.open(encoding="utf-8", newline="") as file:
        content = leaderboard(csv.DictReader(file, strict=True))
    atomic_write(args.output, content)
    written = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    for column in ("verified", "origin"):
        print(column, dict(sorted(Counter(row[column] for row in written).items())))
    disputed = sum(bool(row["disputed"]) for row in written)
    print(f"{len(written)} numbers, {disputed} of them disputed, {len(content)} bytes")


if __name__ == "__main__":
    main()
