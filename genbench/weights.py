"""Weight files: where they are, whether they are the right ones, and how they get into a network.

A file is named by a `Card`. It is looked for at the path that was given, in the package, in the caches of this machine,
and only then downloaded. Nothing here executes what a file says: safetensors, or torch's restricted unpickler.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shutil
import urllib.error
import urllib.request
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from genbench import downloads, files
from genbench.errors import InputRejected, MissingAsset, OutOfResources, UsageError, shown
from genbench.records import digest

if TYPE_CHECKING:
    from torch import Tensor, nn

State = Mapping[str, "Tensor"]
SHIPPED = Path(__file__).resolve().parent / "extractors" / "weights"
_CHUNK = 1 << 20
_LARGEST = 64 << 30
"""Bytes of a download whose card knows no size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What is known of one file of weights.

    Attributes:
        name: of the extractor, the NAME of `--weights NAME=PATH`.
        file: its name in the package and in the cache, unique over all cards.
        url: https address, None for files that are shipped or only given by path.
        bytes: size, None where it is not known.
        sha256: hexadecimal digest, or its first digits, None if unknown. The content is then not checked.
        licence: of the weights.
        note: one sentence for people, such as who trained them.
        fetch: what `genbench fetch` takes, where arguments choose among several files; `name` if empty.
        about: size in bytes where only an estimate is known, for people.
        md5: hexadecimal digest, of files whose authors publish no better one.
        member: file of the zip archive at `url` that is wanted; digests and size are those of the archive.
    """

    name: str
    file: str
    url: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    licence: str
    note: str = ""
    fetch: str = ""
    about: int | None = None
    md5: str | None = None
    member: str | None = None

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a user should know before trusting a download: sentences, empty where the digest settles everything."""
        if self.url is None:
            return ()
        told = []
        if self.sha256 is None and self.md5 is None:
            told.append("No digest of this file is known, and any content is taken.")
        elif self.sha256 is None:
            told.append("MD5 is the only digest that is published; it shows damage, and no forgery.")
        if "/resolve/main/" in self.url:
            told.append("The address names a branch, and what lies there may change.")
        return tuple(told)

    @property
    def most(self) -> int:
        """Bytes beyond which a download is stopped."""
        return self.bytes or (2 * self.about + (1 << 30) if self.about else _LARGEST)


class Published(Protocol):
    """What a card of a model's weights says. Models know no classes of this package."""

    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def bytes(self) -> int | None: ...
    @property
    def estimated_bytes(self) -> int: ...
    @property
    def sha256(self) -> str | None: ...
    @property
    def md5(self) -> str | None: ...
    @property
    def member(self) -> str | None: ...


def of_published(card: Published) -> Card:
    """The card in the form of this module. The cache keeps it under its own name, which says what it is."""
    suffix = Path(card.member or urlsplit(card.url).path).suffix or ".ckpt"
    return Card(
        name=card.name,
        file=card.name + suffix,
        url=card.url,
        bytes=card.bytes,
        about=card.estimated_bytes or None,
        sha256=card.sha256,
        md5=card.md5,
        member=card.member,
        licence=card.licence,
        note=card.source,
    )


def shipped_card(name: str) -> Card:
    """Reads the card of shipped weights of an extractor, NAME.json, which the training script writes."""
    told = json.loads((SHIPPED / f"{name}.json").read_text(encoding="utf-8"))
    return Card(
        name=name,
        file=told["file"],
        bytes=told["bytes"],
        sha256=told["sha256"],
        licence=told["licence"],
        note=told["summary"],
    )


def cached(card: Card) -> Path | None:
    """The file where it is on this machine already, without looking at its digest, else None."""
    places = (SHIPPED / card.file, cache_directory() / "weights" / card.file)
    return next((path for path in places if path.is_file()), None)


def cache_directory() -> Path:
    """Where files that can be made or fetched again lie: GENBENCH_CACHE, else XDG_CACHE_HOME/genbench, else
    ~/.cache/genbench.

    It is not created here.

    Raises:
        UsageError: none of the three is known.
    """
    if chosen := os.environ.get("GENBENCH_CACHE"):
        return _expanded(chosen, "GENBENCH_CACHE")
    return _user_cache() / "genbench"


def _user_cache() -> Path:
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return _expanded(chosen, "XDG_CACHE_HOME")
    try:
        return Path.home() / ".cache"
    except RuntimeError as error:
        raise UsageError("There is no home directory to cache files in; set GENBENCH_CACHE to a directory.") from error


def _expanded(path: str, name: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"{name}={shown(path)} names the home of a user who is not known here.") from error


_TRUTHS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def offline() -> bool:
    """Whether the user asked for no connections: GENBENCH_OFFLINE or HF_HUB_OFFLINE is 1, true, yes or on.

    Raises:
        UsageError: another value of GENBENCH_OFFLINE than these and 0, false, no and off. To connect where the user may
            have meant otherwise cannot be taken back.
    """
    value = os.environ.get("GENBENCH_OFFLINE", "").strip().lower()
    if value and value not in _TRUTHS:
        raise UsageError(f"GENBENCH_OFFLINE is {' or '.join(_TRUTHS)}; got {shown(value)!r}.")
    return _TRUTHS.get(value, False) or _TRUTHS.get(os.environ.get("HF_HUB_OFFLINE", "").strip().lower(), False)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a weight file; remembered while the file stays the same.

    Raises:
        MissingAsset: a file that is not there or cannot be read.
    """
    try:
        return files.sha256(path)
    except OSError as error:
        raise MissingAsset(f"The weights {shown(path)} cannot be read: {error.strerror or error}.") from error


def extractor_key(
    name: str, version: int, digest_of_weights: str | None, precision: str, args: Mapping[str, Any]
) -> str:
    """16 hexadecimal digits of everything that may change a feature of an extractor.

    Args:
        name, version: of the extractor and of its code.
        digest_of_weights: SHA-256 of the weight file, None without one.
        args: everything else.
    """
    return digest([name, version, digest_of_weights, precision, sorted(args.items())], 16)


def matches(path: Path, card: Card) -> bool:
    """Whether a file has the size and the digest of the card, as far as the card knows them."""
    if card.bytes is not None and path.stat().st_size != card.bytes:
        return False
    if card.md5 is not None and md5(path) != card.md5.lower():
        return False
    return card.sha256 is None or sha256(path).startswith(card.sha256.lower())


def proved(path: Path, card: Card) -> bool:
    """Whether a file is the published one beyond doubt: the card knows a digest of it, and the file has that digest."""
    known = card.member is None and bool(card.md5 or card.sha256)
    return known and path.is_file() and matches(path, card)


def md5(path: Path) -> str:
    """Hexadecimal MD5 of a file, for files that nothing better is published of."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def resolve(card: Card, *, given: Path | None = None, received: downloads.Received | None = None) -> Path:
    """The path of a weight file on this machine, downloaded if need be.

    Args:
        card: of the file.
        given: a path that the user chose. It is taken whatever its digest is; the digest enters the extractor's key.
        received: see `genbench.downloads.Received`.

    Returns:
        The first of: `given`; the file shipped with the package; a file in the caches of genbench, torch.hub or the
        Hugging Face hub whose digest is right; a download into genbench's cache, checked before it gets its name.

    Raises:
        MissingAsset: no such file and no connection, a failed download, or a wrong digest. A file with a wrong digest
            is kept beside the right place with `.bad` added to its name.
        OutOfResources: the disk is full.
    """
    if given is not None:
        return _given(card, given)
    shipped = SHIPPED / card.file
    if shipped.is_file():
        if not matches(shipped, card):
            raise MissingAsset(f"{shipped} has not the digest of its card; install genbench again.")
        return shipped
    target = cache_directory() / "weights" / card.file
    if target.is_file():
        # A member of an archive was checked with it, before it was taken out.
        if card.member is not None or matches(target, card):
            return target
        if not _LOOKING.get():
            with contextlib.suppress(OSError):
                target.replace(_bad(target))
    for path in _elsewhere(card):
        return path
    if card.url is None:
        raise MissingAsset(f"{card.file} is nowhere on this machine. Give it by --weights {card.name}=PATH.")
    if _LOOKING.get():
        raise MissingAsset(_missing(card, "an estimate downloads nothing"))
    if offline():
        raise MissingAsset(_missing(card, "connections are switched off (GENBENCH_OFFLINE or HF_HUB_OFFLINE)"))
    return _download(card, target, received)


def _given(card: Card, given: Path) -> Path:
    told = f"--weights {card.name}={shown(given)[:200]}"
    try:
        path = Path(given).expanduser()
        if path.is_file():
            return path
        there = path.exists()
    except (OSError, RuntimeError) as error:  # such as a name that is too long
        raise MissingAsset(f"{told}: {shown(getattr(error, 'strerror', None) or error)}.") from error
    raise MissingAsset(f"{told}: {'that is no file' if there else 'there is no such file'}.")


_LOOKING: ContextVar[bool] = ContextVar("genbench.weights.looking", default=False)


@contextlib.contextmanager
def no_downloads() -> Iterator[None]:
    """Looks for weights on this machine only while the block runs; `resolve` raises a MissingAsset for all others.

    Models, which know nothing of this package, learn it from GENBENCH_OFFLINE.
    """
    token, before = _LOOKING.set(True), os.environ.get("GENBENCH_OFFLINE")
    os.environ["GENBENCH_OFFLINE"] = "1"
    try:
        yield
    finally:
        _LOOKING.reset(token)
        if before is None:
            del os.environ["GENBENCH_OFFLINE"]
        else:
            os.environ["GENBENCH_OFFLINE"] = before


def _bad(path: Path) -> Path:
    return path.with_name(path.name + ".bad")


def _elsewhere(card: Card) -> Iterator[Path]:
    """Files of other programs' caches, only where their content can be proved: a digest on the card or a content
    address."""
    torch_home = Path(os.environ.get("TORCH_HOME") or _user_cache() / "torch").expanduser()
    url = urlsplit(card.url or "")
    if card.sha256 is not None:
        # torch.hub keeps files under the names of their addresses, in which the first eight digits often stand.
        names = {card.file, Path(url.path).name, f"*{card.sha256[:8].lower()}*"} - {""}
        checkpoints = torch_home / "hub" / "checkpoints"
        for path in sorted({path for name in names for path in checkpoints.glob(name)}):
            if path.is_file() and matches(path, card):
                yield path
    parts = url.path.strip("/").split("/")
    if url.hostname == "huggingface.co" and len(parts) == 5 and parts[2] == "resolve":
        home = os.environ.get("HF_HOME")
        hub = Path(home).expanduser() if home else _user_cache() / "huggingface"
        hub = Path(os.environ.get("HF_HUB_CACHE") or hub / "hub").expanduser()
        for path in sorted(hub.glob(f"models--{parts[0]}--{parts[1]}/snapshots/*/{parts[4]}")):
            # The hub names a large file by its SHA-256, so that the link proves what a card without digest cannot.
            if path.is_file() and matches(path, card) and (card.sha256 or path.resolve().name == sha256(path)):
                yield path


def _missing(card: Card, reason: str) -> str:
    size = f"{card.bytes:,} bytes" if card.bytes is not None else "size not known"
    if card.bytes is None and card.about is not None:
        size = f"about {card.about / 1e6:,.0f} MB"
    digest = f"sha256 {card.sha256}{'...' if len(card.sha256) < 64 else ''}" if card.sha256 else "sha256 not known"
    digest = f"md5 {card.md5}" if card.md5 and not card.sha256 else digest
    return (
        f"The weights of {card.name} are not on this machine, and {reason}. They are {card.url} ({size}, {digest}). "
        f'Run `genbench fetch "{card.fetch or card.name}"` where there is a connection, '
        f"or give the file by --weights {card.name}=PATH."
    )


def _download(card: Card, target: Path, received: downloads.Received | None) -> Path:
    if urlsplit(card.url or "").scheme != "https":
        raise MissingAsset(f"The weights of {card.name} have the address {card.url}; only https is allowed.")
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        downloads.forget(target.parent)
        part = downloads.Part(target)
    except OSError as error:
        raise MissingAsset(
            f"Cannot write to {shown(target.parent)} ({error.strerror}); set GENBENCH_CACHE to a directory of yours."
        ) from error
    try:
        proved = card.sha256 is not None or card.md5 is not None
        if not (proved and part.size() and matches(part.path, card)):  # else only its name is missing
            begun = part.size()
            transfer = partial(
                downloads.transfer,
                str(card.url),
                part,
                most=card.most,
                proved=proved,
                expected=card.bytes,
                received=received,
            )
            transfer()
            if begun and not matches(part.path, card):  # the rest of another file than that of the beginning
                part.empty()
                transfer()
        _accept(card, part, target)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise MissingAsset(_missing(card, f"the download failed ({shown(error)})")) from error
    except OSError as error:
        part.remove()
        raise OutOfResources(f"Cannot write {shown(target)} ({error.strerror or error}); free some space.") from error
    finally:
        part.close()
    return target


def _accept(card: Card, part: downloads.Part, target: Path) -> None:
    """Gives a whole download its name, once it is what the card says."""
    if not matches(part.path, card):
        size, found = part.size(), sha256(part.path)
        part.path.replace(_bad(target))
        part.remove()
        raise MissingAsset(
            f"{card.url} gave {size:,} bytes with sha256 {found}, not {card.bytes or 'any number of'} bytes with "
            f"{card.sha256 or card.md5}. The file is kept as {shown(_bad(target))} and not used; try again or another "
            "network."
        )
    if card.member is None:
        part.path.replace(target)
        part.remove()
        return
    try:
        _extract(part.path, card.member, target)
    finally:
        part.remove()


def _extract(archive: Path, member: str, target: Path) -> None:
    """Writes one file of a zip archive, whole or not at all. Its name in the archive chooses no path here."""
    whole = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(archive) as content, content.open(member) as inner, whole.open("wb") as outer:
            shutil.copyfileobj(inner, outer, _CHUNK)
        whole.replace(target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise MissingAsset(f"The archive of {target.name} holds no {member} ({error}).") from error
    finally:
        whole.unlink(missing_ok=True)


def load_state(path: Path) -> dict[str, Tensor]:
    """Reads a state dict: a .safetensors file, or a torch file of tensors.

    Returns:
        Name to tensor on the CPU. Of a checkpoint with the single entry "state_dict", that entry; of names that all
        begin with "module." (data-parallel training), the names without it.

    Raises:
        InputRejected: a file that would have to be unpickled with arbitrary classes, a TorchScript archive, or one that
            holds anything but tensors.
    """
    import torch

    with path.open("rb") as stream:
        head = stream.read(9)
    # A safetensors file begins with the length of its JSON header; its name need not say what it is.
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputRejected(f"{shown(path)} is not a whole safetensors file ({shown(error)}).") from error
    try:
        with warnings.catch_warnings():
            # torch warns that it will treat a TorchScript archive as one, and then refuses, which is told below.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Which exception it is depends on what the file holds (UnpicklingError, RuntimeError, EOFError, KeyError ...).
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputRejected(
            f"{shown(path)} is not a state dict of tensors ({shown(first[:120])}), and files that run code when read "
            "are refused. Where you trust it, convert it: "
            "safetensors.torch.save_file(network.state_dict(), 'weights.safetensors')."
        ) from error
    if isinstance(content, Mapping) and set(content) == {"state_dict"}:
        content = content["state_dict"]
    strange = [] if isinstance(content, Mapping) else [type(content).__name__]
    if not strange:
        strange = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if strange or not content:
        raise InputRejected(
            f"{shown(path)} is not a state dict of tensors alone ({shown(', '.join(strange[:10])) or 'it is empty'}). "
            "Say which weights are meant by saving them alone: torch.save(checkpoint['model'], 'weights.pth')."
        )
    state = {str(name): value for name, value in content.items()}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


def load_into(network: nn.Module, state: State, *, origin: str = "The state dict") -> None:
    """Copies weights into a network, all of them or none.

    Args:
        network: in place; put into eval mode, without gradients.
        state: every parameter and buffer of the network and nothing else. Counters of batches that batch normalisation
            keeps while it is trained may be missing or there; they have no part in inference.
        origin: of the state, for the message.

    Raises:
        InputRejected: missing, unexpected or differently shaped entries, and numbers of another kind than those of the
            network (integers or complex ones for floats, sparse tensors), with the first ten of each.
    """
    counter = "num_batches_tracked"
    own = {k: v for k, v in network.state_dict().items() if not k.endswith(counter)}
    given = {k: v for k, v in state.items() if not k.endswith(counter)}
    wrong = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(value.shape)}"
            for name, value in own.items()
            if name in given and given[name].shape != value.shape
        ],
        "of another kind": [
            f"{name} {_kind(given[name])} for {_kind(value)}"
            for name, value in own.items()
            if name in given and _kind(given[name]).split()[0] != _kind(value).split()[0]
        ],
    }
    if any(wrong.values()):
        parts = [
            f"{len(v)} {k}: {shown(', '.join(v[:10]))}{', ...' if len(v) > 10 else ''}" for k, v in wrong.items() if v
        ]
        raise InputRejected(f"{shown(origin)} does not fit the network. {'; '.join(parts)}.")
    network.load_state_dict(given, strict=False)
    network.eval().requires_grad_(False)


def _kind(values: Tensor) -> str:
    """What numbers a tensor holds, and their dtype in brackets."""
    import torch

    if values.layout != torch.strided or values.is_quantized:
        return f"sparse-or-quantised ({values.dtype})"
    kind = "floats" if values.is_floating_point() else "complex-numbers" if values.is_complex() else "integers"
    return f"{kind} ({str(values.dtype).removeprefix('torch.')})"


def shipped_cards() -> list[Path]:
    """The JSON cards of all weights that are part of this installation, extractors and models."""
    root = Path(__file__).resolve().parent
    return sorted([*root.glob("extractors/weights/*.json"), *root.parent.glob("baselines/weights/*.json")])


def shipped() -> str:
    """Digest over those cards: results of other weights do not answer a request."""
    return digest([json.loads(card.read_text(encoding="utf-8"))["sha256"] for card in shipped_cards()])
