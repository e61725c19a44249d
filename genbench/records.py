"""Plain records: what was asked, what came out. No arrays, no torch.

    RunSpec -> Samples -> Features -> Score -> Result -> leaderboard row

Every record is frozen and has one canonical JSON form; identities are SHA-256 digests of it.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args

from genbench.errors import UsageError, shown

Scalar = str | int | float | bool | None
SCHEMA = "genbench.run/2"
Precision = Literal["float32", "bfloat16", "float16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
QUANTISERS = ("round", "truncate")

_NAME = r"[A-Za-z_][\w.\-]*(?::[A-Za-z_][\w.]*)?"
_REF = re.compile(rf"({_NAME})(?:\((.*)\))?", re.DOTALL)


def canonical(value: Any) -> str:
    """The JSON text of a record: sorted keys, no spaces, every digit, no NaN."""

    def plain(x: Any) -> Any:
        if isinstance(x, Ref | Measurement):
            return str(x)
        # Not asdict: it would take references apart, whose text is their identity.
        return (
            {f.name: getattr(x, f.name) for f in fields(x)} if is_dataclass(x) and not isinstance(x, type) else str(x)
        )

    return json.dumps(value, default=plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, length: int = 64) -> str:
    """Hexadecimal SHA-256 of the canonical form, shortened to `length` digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:length]


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data with its digest beside it, by which `unsealed` notices damage."""
    return {**data, "digest": digest(data)}


def unsealed(told: Any) -> dict[str, Any] | None:
    """What `sealed` was given, None for anything else. Data without a digest is of an older version, and taken."""
    if not isinstance(told, dict):
        return None
    data = {name: value for name, value in told.items() if name != "digest"}
    return data if told.get("digest") in (None, digest(data)) else None


_LONG_KEY = re.compile(r"""(?<![\w"'.-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){100}""")
"""A key of more than a hundred parts."""


def from_toml(text: str) -> dict[str, Any]:
    """What a text in TOML says, of a user whom nobody knows.

    Raises:
        ValueError: no TOML, or a key of more than a hundred parts: `tomllib` takes memory and time as their square.
        RecursionError: brackets in brackets.
    """
    if _LONG_KEY.search(text):
        raise ValueError("a key of more than a hundred parts")
    return tomllib.loads(text)


class _NotFinite(ast.NodeTransformer):
    """Puts numbers in the place of `inf` and `nan`, which Python prints so and has no literals for."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(float(node.id)) if node.id in ("inf", "nan") else node


def is_literal(value: object) -> bool:
    """Whether a value can be an argument of a reference: it is read back from its text."""
    if isinstance(value, tuple):
        return all(is_literal(part) for part in value)
    return value is None or isinstance(value, str | int | float)


@dataclass(frozen=True, slots=True)
class Ref:
    """A component by name with literal arguments, as text: `ddim(steps=50, eta=0.0)`.

    Attributes:
        args: str, int, float (inf and nan among them), bool, None, and tuples of these.
        defaults: which of `args` have the value that they have when nobody gives them. They stand in the text, for
            people, and in no identity, so that a component may get a further argument.
    """

    name: str
    args: Mapping[str, Scalar] = field(default_factory=dict)
    defaults: frozenset[str] = field(default=frozenset(), compare=False, repr=False)

    def brief(self, without: Collection[str] = ()) -> Ref:
        """The reference without arguments that have their defaults, and without the named ones; sorted by name."""
        left = self.defaults.union(without)
        return Ref(self.name, {k: v for k, v in sorted(self.args.items()) if k not in left})

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Reads `NAME` or `NAME(key=literal, ...)`.

        Raises:
            UsageError: anything else.
        """
        if not isinstance(text, str):
            raise UsageError(f"A component is named by a text such as 'ddim(steps=50)'; got {shown(repr(text)[:80])}.")
        match = _REF.fullmatch(text.strip())
        if match:
            try:
                call = ast.parse(f"_({match[2] or ''})", mode="eval").body
                if (
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Name)
                    and not call.args
                    and all(k.arg for k in call.keywords)
                ):
                    args = {str(k.arg): ast.literal_eval(_NotFinite().visit(k.value)) for k in call.keywords}
                    if len(args) < len(call.keywords):
                        raise UsageError(f"{shown(text)} gives an argument twice; give each once.")
                    if all(is_literal(v) for v in args.values()):
                        return cls(match[1], args)
            except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
                pass  # the last two are what deep nesting gives
        given = text if len(text) <= 200 else f"{text[:200]}..."
        raise UsageError(f"Cannot read {given!r}; write NAME or NAME(key=literal, ...), such as ddim(steps=50).")

    def __str__(self) -> str:
        inner = ", ".join(f"{k}={v!r}" for k, v in self.args.items())
        return f"{self.name}({inner})" if inner else self.name

    def __hash__(self) -> int:
        return hash(str(self))


@dataclass(frozen=True, slots=True)
class Measurement:
    """A metric on the features of an extractor, as text: `fid@compact`. Without an extractor, the protocol chooses."""

    metric: Ref
    extractor: Ref | None = None
    optional: bool = field(default=False, compare=False)
    """Whether it may be left out, with a warning, where it cannot be measured: so is what `all` stands for."""

    @classmethod
    def parse(cls, text: str) -> Measurement:
        """Reads `METRIC` or `METRIC@EXTRACTOR`, each with arguments in parentheses if any.

        Raises:
            UsageError: anything else.
        """
        if not isinstance(text, str):
            raise UsageError(f"A measurement is a text such as 'fid' or 'fid@compact'; got {shown(repr(text)[:80])}.")
        metric, at, extractor = text.partition("@")
        return cls(Ref.parse(metric), Ref.parse(extractor) if at else None)

    def __str__(self) -> str:
        return f"{self.metric}@{self.extractor}" if self.extractor else str(self.metric)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpec:
    """What is sampled: everything that may change an image, and nothing else.

    Attributes:
        model, dataset: with all defaults written out.
        num_samples: images 0..num_samples-1 of the seed.
        seed: of the run; image i depends on (seed, i) alone.
        precision: of the network, "float32", "bfloat16" or "float16".
        exact: whether the network always sees the same blocks of images, which makes images bit-identical for every
            batch size; otherwise they agree up to rounding.
        quantise: how floats become 8-bit pixels, "round" or "truncate".
    """

    model: Ref
    dataset: Ref
    num_samples: int
    seed: int = 0
    precision: Precision = "float32"
    exact: bool = False
    quantise: Literal["round", "truncate"] = "round"

    def __post_init__(self) -> None:
        for name, given, least in (("num_samples", self.num_samples, 1), ("seed", self.seed, 0)):
            if type(given) is not int or given < least:
                raise UsageError(f"{name} is a whole number of at least {least}; got {given!r}.")
        for name, chosen, known in (
            ("precision", self.precision, PRECISIONS),
            ("quantise", self.quantise, QUANTISERS),
            ("exact", self.exact, (True, False)),
        ):
            if type(chosen) is not type(known[0]) or chosen not in known:
                raise UsageError(f"{name} is {' or '.join(map(repr, known))}; got {chosen!r}.")

    def identity(self) -> dict[str, Any]:
        """What the images depend on, as plain data: arguments that have their defaults are left out."""
        return {f.name: getattr(self, f.name) for f in fields(self)} | {
            "model": str(self.model.brief()),
            "dataset": str(self.dataset.brief()),
        }

    @property
    def id(self) -> str:
        """12 hexadecimal digits of `identity`."""
        return digest(self.identity(), 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A score without one part of the images at a time: what the error of a difference of two scores is made of.

    Attributes:
        left_out: the value without block k of `uncertainty.block_numbers`; of a metric that is a mean, the mean of the
            images that are not in the block.
        sizes: images in each block.
    """

    left_out: tuple[float, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number and how sure it is.

    Attributes:
        value: of the metric, in the units its contract names.
        stderr: standard error over the sampling of generated images, for this reference, None where no sound method is
            known.
        ci95: 95 % interval, (low, high), of the expectation of the metric at this number of images.
        error_method: how `stderr` and `ci95` were made, such as "jackknife-20"; where there are none, "none: " and the
            reason.
        detail: further numbers, such as the mean and covariance terms of a Frechet distance.
        blocks: the value without each jackknife block, for `genbench.differences`, None where there is none.
    """

    value: float
    stderr: float | None = None
    ci95: tuple[float, float] | None = None
    error_method: str | None = None
    detail: Mapping[str, float] = field(default_factory=dict)
    blocks: Blocks | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two sets of images of a comparison: where it came from and what it contained.

    Attributes:
        count: number of images, None for a reference of published statistics, which do not tell it.
        digest: of what the metric reads of the images (see `genbench.identities.content`), or of the statistics.
        shape: (c, h, w) of the images, None where there are none.
        quantise: how floats became 8-bit pixels, where it is known.
    """

    name: str
    count: int | None
    digest: str
    shape: tuple[int, int, int] | None = None
    quantise: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Result:
    """A score with everything that is needed to repeat or to compare it.

    Attributes:
        metric: reference text with all arguments; `extractor` likewise, None for metrics on pixels.
        extractor_key: digest of weights, resize, scaling and arithmetic of the extractor.
        protocol, protocol_hash: name and digest of how it was measured. Numbers of two hashes are not comparable.
        floor: the same metric of real held-out images against the same reference, None where there are none.
        environment: versions, device, commit.
    """

    metric: str
    metric_version: int
    extractor: str | None
    extractor_key: str | None
    score: Score
    floor: Score | None
    generated: Side
    reference: Side | None
    protocol: str
    protocol_hash: str
    higher_is_better: bool | None
    spec: RunSpec | None
    seconds: float
    created: str
    environment: Mapping[str, Any]

    @property
    def id(self) -> str:
        """12 hexadecimal digits of what was measured on what: `protocol_hash`, and of a run its spec and the key of its
        model, else the content of the generated images. Independent of the value, the machine and the day."""
        made = [self.spec.identity(), self.environment.get("model_key")] if self.spec else self.generated.digest
        return digest([self.protocol_hash, made], 12)

    def __repr__(self) -> str:
        """One line; `genbench.report.write_result` gives everything."""
        name = Ref.parse(self.metric).name + (f"@{Ref.parse(self.extractor).name}" if self.extractor else "")
        error = "" if self.score.stderr is None else f" +- {self.score.stderr:.2g}"
        floor = "" if self.floor is None else f", floor {self.floor.value:.4g}"
        return f"<Result {name} {self.score.value:.4g}{error}{floor}, protocol {self.protocol}>"

    @property
    def measurement(self) -> str:
        """Text form, such as `fid@compact`."""
        return f"{self.metric}@{self.extractor}" if self.extractor else self.metric


def finite(value: float | None) -> float | None:
    """The value for strict JSON: None when it is not a finite number."""
    return value if value is not None and math.isfinite(value) else None
