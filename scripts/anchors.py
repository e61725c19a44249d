"""Measures what others have published, with their weights and files, and says whether the numbers agree.

python -m scripts.anchors --assets DIR                       # all anchors whose files are there
python -m scripts.anchors adm-imagenet256 --assets DIR       # one of them
python -m scripts.anchors --list                             # what each needs and expects; nothing is measured

The tests of this project compare it with other tools on random weights. That its numbers are also the published ones
can only be seen with public weights, which are not part of it: this script is run once where they are. A file that is
missing is named with the place where it is to be had, the other anchors are measured all the same, and the exit status
is then 6. It is 1 where a number is off by more than its tolerance, and 0 where all anchors were measured and agree.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import genbench
from genbench.display import columns
from genbench.errors import GenbenchError, MissingAsset

_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256"
_CIFAR10 = "cifar10(split='train')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """A published number, or several of one set of images.

    Attributes:
        name, source: of the anchor; who printed the number, and where.
        samples: a file under --assets, or a data set as text; the model that makes the samples where `model` is true.
        reference: likewise, or None.
        expected: measurement to the published value and the largest difference that is agreement.
        why: where the tolerances come from.
        files: files under --assets to the place where each is to be had.
        model: whether `samples` is a model, which is sampled first; days on a CPU.
    """

    name: str
    source: str
    samples: str
    reference: str | None
    protocol: str
    expected: Mapping[str, tuple[float, float]]
    why: str
    files: Mapping[str, str] = field(default_factory=dict)
    model: bool = False


ANCHORS = (
    Anchor(
        name="adm-imagenet256",
        source="openai/guided-diffusion evaluations/README.md, ADM-G + ADM-U at 256x256",
        samples="admnet_guided_upsampled_imagenet256.npz",
        reference="VIRTUAL_imagenet256_labeled.npz",
        protocol="adm",
        expected={
            "is": (215.8370361328125, 0.1),
            "fid": (3.9425574129223264, 0.01),
            "sfid": (6.140433703346162, 0.02),
            "precision": (0.8265, 0.002),
            "recall": (0.5309, 0.004),
        },
        why="the converted weights move features by 1e-5; half precision decides the third digit of recall",
        files={
            name: f"{_ADM}/{name}"
            for name in ("admnet_guided_upsampled_imagenet256.npz", "VIRTUAL_imagenet256_labeled.npz")
        },
    ),
    Anchor(
        name="torch-fidelity-cifar10",
        source="toshas/torch-fidelity README.md: 11.23678 +- 0.09514 for the training set",
        samples=_CIFAR10,
        reference=None,
        protocol="tf1",
        expected={"is": (11.23678, 0.02)},
        why="a fifth of the spread of the ten parts, for another shuffle than that of the README's version",
    ),
    Anchor(
        name="edm-statistics",
        source="NVlabs/edm fid.py: its statistics of CIFAR-10 are those of the training set",
        samples=_CIFAR10,
        reference="cifar10-32x32.npz",
        protocol="edm",
        expected={"fid": (0.0, 0.01)},
        why="the distance of a set from itself, but for rounding of features",
        files={"cifar10-32x32.npz": "https://nvlabs-fi-cdn.nvidia.com/edm/fid-refs/cifar10-32x32.npz"},
    ),
    Anchor(
        name="edm-cifar10",
        source="Karras et al. 2022, arXiv:2206.00364, table 2: conditional, variance preserving",
        samples="edm-cifar10-32x32-cond-vp",
        reference="cifar10-32x32.npz",
        protocol="edm",
        expected={"fid": (1.79, 0.06)},
        why="the least of three runs is printed, and one run lies up to 0.05 above it",
        files={
            "edm-cifar10-32x32-cond-vp": "the folder that NVlabs/edm writes by generate.py --seeds=0-49999 --subdirs "
            "--network=https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/edm-cifar10-32x32-cond-vp.pkl",
            "cifar10-32x32.npz": "https://nvlabs-fi-cdn.nvidia.com/edm/fid-refs/cifar10-32x32.npz",
        },
    ),
    Anchor(
        name="ddpm-cifar10",
        source="Ho et al. 2020, arXiv:2006.11239, table 1",
        samples="ddpm",
        reference="cifar10",
        protocol="tf1",
        expected={"fid": (3.17, 0.1)},
        why="another draw of 50,000 samples, and pixels of 8 bits where the paper's are not",
        model=True,
    ),
)


def missing(anchor: Anchor, assets: Path) -> list[str]:
    """What is not there, a line a file, with the place where it is to be had."""
    absent = [(name, place) for name, place in anchor.files.items() if not (assets / name).exists()]
    return [f"{anchor.name}: {assets / name} is not there; it is {place}" for name, place in absent]


def measured(
    anchor: Anchor, assets: Path, *, device: str, weights: Mapping[str, Path], output: Path
) -> dict[str, float]:
    """The values of the anchor's measurements.

    Raises:
        GenbenchError: such as weights of the extractor that are not there, with what to do.
    """

    def place(text: str | None) -> str | None:
        return str(assets / text) if text is not None and text in anchor.files else text

    names: list[str] = list(anchor.expected)
    given: dict[str, Any] = {"device": device, "data_dir": assets, "weights": weights}
    if anchor.model:
        results = genbench.run(
            anchor.samples,
            dataset=str(anchor.reference),
            metrics=names,
            protocol=anchor.protocol,
            output=output,
            **given,
        )
    else:
        results = genbench.score(
            str(place(anchor.samples)), place(anchor.reference), metrics=names, protocol=anchor.protocol, **given
        )
    return {name: result.score.value for name, result in zip(names, results, strict=True)}


def rows(anchor: Anchor, found: Mapping[str, float]) -> list[tuple[str, ...]]:
    """One row a number: anchor, measurement, published, measured, difference, tolerance, verdict."""
    table: list[tuple[str, ...]] = []
    for name, (published, tolerance) in anchor.expected.items():
        apart = found[name] - published
        # Written so that a number that is none does not agree.
        verdict = "agrees" if abs(apart) <= tolerance else "DIFFERS"
        numbers = (f"{published:.6g}", f"{found[name]:.6g}", f"{apart:+.2g}", f"{tolerance:g}")
        table.append((anchor.name, name, *numbers, verdict))
    return table


HEADER = ("anchor", "metric", "published", "measured", "difference", "tolerance", "")


def main(arguments: Sequence[str] | None = None, anchors: Sequence[Anchor] = ANCHORS) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = {anchor.name: anchor for anchor in anchors}
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all without a name")
    parser.add_argument("--assets", type=Path, default=Path(), help="folder of the files, and of cifar-10-batches-py")
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=PATH", help="as of genbench score")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of the runs of models")
    parser.add_argument("--device", default="auto", help="where networks compute")
    parser.add_argument("--list", action="store_true", help="say what each anchor needs and expects")
    args = parser.parse_args(arguments)
    unknown = [name for name in args.names if name not in known]
    if unknown or any("=" not in text for text in args.weights):
        parser.error(f"no anchor {unknown[0]!r}; there are {', '.join(known)}" if unknown else "--weights NAME=PATH")
    weights = {name: Path(path) for name, _, path in (text.partition("=") for text in args.weights)}
    chosen = [known[name] for name in args.names] or list(anchors)
    if args.list:
        for anchor in chosen:
            numbers = ", ".join(f"{name} {value:.6g} +- {wide:g}" for name, (value, wide) in anchor.expected.items())
            needs = "".join(f"\n  needs {name}: {place}" for name, place in anchor.files.items())
            print(f"{anchor.name}: {numbers}\n  {anchor.source}\n  tolerance: {anchor.why}{needs}")
        return 0
    table: list[tuple[str, ...]] = [HEADER]
    absent: list[str] = []
    failures: list[str] = []
    for anchor in chosen:
        lacking = missing(anchor, args.assets)
        try:
            if not lacking:
                table += rows(
                    anchor, measured(anchor, args.assets, device=args.device, weights=weights, output=args.output)
                )
        except MissingAsset as error:
            lacking = [f"{anchor.name}: {error}"]
        except GenbenchError as error:
            failures.append(f"{anchor.name}: {error}")
        absent += lacking
    if len(table) > 1:
        print(columns(table))
    for line in (*failures, *absent):
        print(line)
    if failures or any(row[-1] == "DIFFERS" for row in table):
        return 1
    return MissingAsset.exit_code if absent else 0


if __name__ == "__main__":
    raise SystemExit(main())
