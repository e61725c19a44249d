"""What a component says of itself: contract, arguments, source and file, for `genbench info`."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genbench import advice, protocols, registry
from genbench.errors import UsageError, nearest
from genbench.records import Ref

if TYPE_CHECKING:
    from genbench.contracts import PresetLike
    from genbench.weights import Card


def describe(name: str) -> dict[str, Any]:
    """A component or protocol as texts.

    Args:
        name: of the component, or kind:name.

    Raises:
        UsageError: an unknown name, or one that several kinds have.
    """
    kind, colon, rest = name.partition(":")
    kinds = [*registry.KINDS, "protocol"]
    if colon and kind in kinds:
        return _describe(kind, rest)
    known = {k: _names(k) for k in kinds}
    found = [k for k, names in known.items() if name in names]
    if not found:
        raise UsageError(f"Nothing is named {name!r}. {nearest(name, {n for names in known.values() for n in names})}")
    if len(found) > 1:
        raise UsageError(
            f"{name!r} names a {' and a '.join(found)}; write {' or '.join(f'{k}:{name}' for k in found)}."
        )
    return _describe(found[0], name)


def summaries() -> dict[str, dict[str, str]]:
    """Kind to name to summary of every component and protocol, by name."""
    found = {kind: {name: told[1] for name, told in sorted(registry.table(kind).items())} for kind in registry.KINDS}
    return found | {"protocol": {name: p.summary for name, p in protocols.PROTOCOLS.items()}}


def _names(kind: str) -> set[str]:
    return set(protocols.PROTOCOLS) if kind == "protocol" else set(registry.table(kind))


def _describe(kind: str, name: str) -> dict[str, Any]:
    if kind == "protocol":
        p = protocols.protocol(name)
        shown = {
            f: str(getattr(p, f))
            for f in ("summary", "source", "extractor", "quantise", "num_samples", "num_reference")
        }
        args = {metric: ", ".join(f"{k}={v!r}" for k, v in values.items()) for metric, values in p.args.items()}
        return {"name": name, "kind": kind, **shown, "metrics": ", ".join(p.metrics), "arguments": args}
    component = registry.get(kind, name)
    given = registry.parameters(kind, component).items()
    arguments = {k: "(must be given)" if v is inspect.Parameter.empty else repr(v) for k, v in given}
    target, summary = registry.table(kind).get(name, (name, ""))
    function = next((f for f in (getattr(component, a, None) for a in ("compute", "load")) if f), component)
    text = inspect.getdoc(function) or ""
    found: dict[str, Any] = {"name": name, "kind": kind, "summary": getattr(component, "summary", summary)}
    found |= {"defined": target, "file": _where(function)}
    for attribute in (
        "source",
        "version",
        "bounds",
        "higher_is_better",
        "minimum",
        "taps",
        "splits",
        "protocol",
    ):
        if hasattr(component, attribute):
            value = getattr(component, attribute)
            found[attribute] = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    presets = {dataset: _preset(preset) for dataset, preset in getattr(component, "presets", {}).items()}
    more: dict[str, Any] = {"presets": presets} if presets else {}
    if kind == "model" and (told := advice.of(name)):
        more["measured"] = told
    if kind == "extractor" and (needed := weights_of(kind, name)):
        more["weights"] = {", ".join(w.files): f"{w.size}, {w.where}; {w.source}" for w in needed}
    return {**found, "arguments": arguments, **more, "documentation": "\n" + text}


def _preset(preset: PresetLike) -> str:
    """One line on what a run on the data set starts from, and who did so."""
    parts = [", ".join(f"{name}={value!r}" for name, value in preset.arguments.items()) or "the defaults"]
    parts += [f"{preset.num_samples} samples"] if preset.num_samples else []
    parts += [f"protocol {preset.protocol}"] if preset.protocol else []
    parts += [f"differs: {reason}" for reason in preset.differs]
    return "; ".join([*parts, *([preset.source] if preset.source else [])])


def _where(function: Any) -> str:
    function = inspect.unwrap(function)
    try:
        return f"{Path(inspect.getsourcefile(function) or '').resolve()}:{inspect.getsourcelines(function)[1]}"
    except (TypeError, OSError):
        return "not written in Python"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What a model needs on a data set, or an extractor.

    Attributes:
        dataset: of a model, empty for extractors.
        files: names of shipped files or of cards of published ones.
        size: of all files together, in words; "about" where it was counted from the parameters.
        where: "shipped", "in the cache", "not in the cache", or which are missing.
        source: address and licence, for extractors.
    """

    dataset: str
    files: tuple[str, ...]
    size: str
    where: str
    source: str = ""


def weights_of(kind: str, name: str) -> list[Weights]:
    """The weights that there are of a model, a data set each, or of an extractor. Other components have none."""
    if kind == "extractor":
        return _weights_of_extractor(name)
    presets = getattr(registry.get(kind, name), "presets", {}) if kind == "model" else {}
    return [_weights(dataset, preset.files) for dataset, preset in presets.items()]


def _weights_of_extractor(name: str) -> list[Weights]:
    from genbench import weights

    try:
        card = card_of(name)
    except UsageError:
        return []  # it has none, as pixels, or needs arguments to say which
    path = weights.cached(card)
    about = card.bytes or card.about
    size = "size not known" if about is None else _megabytes(about, exact=card.bytes is not None)
    if card.url is None:
        where, source = ("shipped" if path else "missing from this installation"), card.licence
    else:
        where, source = ("in the cache" if path else "not in the cache"), f"{card.url}, {card.licence}"
    source = " ".join([f"{source}." if card.cautions else source, *card.cautions])
    return [Weights(dataset="", files=(card.file,), size=size, where=where, source=source)]


def _megabytes(count: int, *, exact: bool) -> str:
    text = f"{count / 1e6:,.1f} MB" if count < 1e8 else f"{count / 1e6:,.0f} MB"
    return text if exact else f"about {text}"


def _weights(dataset: str, files: tuple[str, ...]) -> Weights:
    from genbench import weights

    shipped = {path.stem: path for path in weights.shipped_cards()}
    known = registry.published()
    exact, total, missing = True, 0, []
    for file in files:
        if file in shipped:
            total += json.loads(shipped[file].read_text(encoding="utf-8"))["bytes"]
            continue
        card = known[file]
        total += card.bytes or card.estimated_bytes
        exact = exact and card.bytes is not None
        if weights.cached(weights.of_published(card)) is None:
            missing.append(file)
    published = [file for file in files if file not in shipped]
    if not published:
        where = "shipped"
    elif missing and len(missing) < len(published):
        where = f"not in the cache: {', '.join(missing)}"
    else:
        where = "not in the cache" if missing else "in the cache"
    return Weights(dataset=dataset, files=files, size=_megabytes(total, exact=exact), where=where)


def card_of(text: str) -> Card:
    """The card of a file of weights: of an extractor, given as a reference text such as "inception" or
    "resnet50(recipe='v2')", or of a model, given by the name of its card, such as "adm-256x256-diffusion".

    Raises:
        UsageError: an unknown name, or an extractor without weights of its own.
    """
    from genbench import weights

    if text in registry.published():
        return weights.of_published(registry.published()[text])
    loader, ref = registry.bind("extractor", Ref.parse(text))
    # An extractor with weights has a function `card` beside its loader, of those arguments that choose the file.
    card = getattr(inspect.getmodule(loader), "card", None)
    if card is None:
        raise UsageError(f"The extractor {ref.name!r} has no weights to fetch.")
    return card(**{name: ref.args[name] for name in inspect.signature(card).parameters})
