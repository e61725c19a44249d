"""Where weight files come from, that wrong ones are never used, and that nothing in them is executed."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import socket
import time
import urllib.error
import urllib.request
import warnings
import zipfile
from dataclasses import replace
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from baselines.files import catalogue
from genbench import downloads, files, weights
from genbench.errors import InputRejected, MissingAsset, OutOfResources, UsageError
from genbench.weights import Card, cache_directory, load_into, load_state, offline, resolve, sha256

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
CARD = Card(
    name="thing",
    file="thing.pth",
    url="https://example.org/files/thing.pth",
    bytes=len(CONTENT),
    sha256=DIGEST,
    licence="MIT",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and cache, and no way to the network unless a test opens one."""
    for name in ("XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "GENBENCH_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tmp_path


class Reply(io.BytesIO):
    def __init__(self, content: bytes, status: int = 200, **headers: object) -> None:
        super().__init__(content)
        self.status, self.headers = status, Message()
        for name, value in headers.items():
            if value is not None:
                self.headers[name.replace("_", "-")] = str(value)


def serve(
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    *,
    kind: str = "binary/octet-stream",
    length: object = "right",
    etag: str | None = None,
    error: Exception | None = None,
    ranges: bool = True,
) -> list[str]:
    """Answers every request as a server of files does, also for what is missing of one; returns what was asked for."""
    asked: list[str] = []

    def answer(_: urllib.request.OpenerDirector, request: urllib.request.Request, timeout: float) -> Reply:
        assert timeout > 0
        wanted = request.get_header("Range")
        asked.append(request.full_url + (f" {wanted}" if wanted else ""))
        if error is not None:
            raise error
        told = {"Content_Type": kind, "Content_Length": len(content) if length == "right" else length, "ETag": etag}
        known = request.get_header("If-range")
        if not wanted or not ranges or known not in (None, etag):
            return Reply(content, **told)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            raise urllib.error.HTTPError(request.full_url, 416, "Range Not Satisfiable", Message(), None)
        told |= {"Content_Length": len(content) - start}
        return Reply(content[start:], 206, Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}", **told)

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", answer)
    return asked


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def leftovers(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "cache" / "weights").iterdir())


def test_cache_directory_follows_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_directory() == home / "cache"
    monkeypatch.delenv("GENBENCH_CACHE")
    assert cache_directory() == home / ".cache" / "genbench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert cache_directory() == home / "xdg" / "genbench"
    assert not (home / "xdg").exists()


@pytest.mark.parametrize(
    ("value", "expected"), [("1", True), (" True", True), ("on", True), ("0", False), ("", False), ("no", False)]
)
@pytest.mark.parametrize("name", ["GENBENCH_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_switches(name: str, value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert offline() is expected


@pytest.mark.parametrize("value", ["2", "y", "enabled", "\x1b[31m"])
def test_a_switch_that_says_neither_yes_nor_no_connects_nowhere(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, CONTENT)
    monkeypatch.setenv("GENBENCH_OFFLINE", value)
    with pytest.raises(UsageError, match=r"GENBENCH_OFFLINE is 1 or true") as caught:
        resolve(CARD)
    assert asked == [] and str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["GENBENCH_CACHE", "XDG_CACHE_HOME"])
def test_a_home_of_nobody_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENBENCH_CACHE")
    monkeypatch.setenv(name, "~nobody-of-this-name/x")
    with pytest.raises(UsageError, match=rf"{name}=~nobody-of-this-name/x names the home of a user"):
        cache_directory()


def test_digest_is_read_again_when_the_file_changes(home: Path) -> None:
    path = put(home / "file")
    assert sha256(path) == DIGEST
    put(path, CONTENT + b"x")
    assert sha256(path) == hashlib.sha256(CONTENT + b"x").hexdigest()


def test_a_given_path_is_taken_whatever_it_holds(home: Path) -> None:
    assert resolve(CARD, given=put(home / "mine.pth", b"other")) == home / "mine.pth"
    with pytest.raises(MissingAsset, match=r"--weights thing=.*absent.*no such file"):
        resolve(CARD, given=home / "absent")
    for path, message in (
        ("a" * 300, "File name too long"),
        ("~nobody-of-this-name/x", "home"),
        (str(home), "that is no file"),
        ("\x1b[2J", r"\\x1b\[2J: there is no such file"),
    ):
        with pytest.raises(MissingAsset, match=message):
            resolve(CARD, given=Path(path))
    with pytest.raises(MissingAsset, match="cannot be read: No such file"):
        sha256(home / "absent")


def test_shipped_files_come_first_and_are_checked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SHIPPED", home / "package")
    put(home / "cache" / "weights" / "thing.pth")
    shipped = put(home / "package" / "thing.pth")
    assert resolve(CARD) == shipped
    put(shipped, CONTENT[:-1] + b"x")
    with pytest.raises(MissingAsset, match="install genbench again"):
        resolve(CARD)


@pytest.mark.parametrize("digest", [DIGEST, DIGEST[:8], DIGEST.upper(), None])
def test_cached_file_needs_no_socket(home: Path, digest: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_OFFLINE", "1")
    path = put(home / "cache" / "weights" / "thing.pth")
    card = Card(name="thing", file="thing.pth", url=CARD.url, sha256=digest, licence="MIT")
    assert resolve(card) == path


def test_a_broken_cached_file_is_put_aside_and_fetched_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = CONTENT[:-1] + b"\0"
    put(home / "cache" / "weights" / "thing.pth", broken)
    asked = serve(monkeypatch, CONTENT)
    assert resolve(CARD).read_bytes() == CONTENT
    assert asked == [CARD.url]
    assert leftovers(home) == ["thing.pth", "thing.pth.bad"]
    assert (home / "cache" / "weights" / "thing.pth.bad").read_bytes() == broken


def test_torch_hub_is_honoured_where_the_digest_fits(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_OFFLINE", "1")
    hub = home / ".cache" / "torch" / "hub" / "checkpoints"
    # Another program's name for the same bytes: torch.hub puts the first digits of the digest into it.
    path = put(hub / f"weights-{DIGEST[:8]}.pth")
    assert resolve(CARD) == path
    put(path, b"wrong")
    with pytest.raises(MissingAsset):
        resolve(CARD)
    monkeypatch.setenv("TORCH_HOME", str(home / "elsewhere"))
    path = put(home / "elsewhere" / "hub" / "checkpoints" / "thing.pth")
    assert resolve(CARD) == path


def test_hugging_face_cache_is_honoured_where_a_name_proves_the_content(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    url = "https://huggingface.co/org/model/resolve/main/open.safetensors"
    card = Card(name="thing", file="other.safetensors", url=url, licence="MIT")
    model = home / ".cache" / "huggingface" / "hub" / "models--org--model"
    link = model / "snapshots" / "abc" / "open.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(put(model / "blobs" / ("0" * 64)))
    with pytest.raises(MissingAsset):
        resolve(card)
    link.unlink()
    link.symlink_to(put(model / "blobs" / DIGEST))
    assert resolve(card) == link


@pytest.mark.parametrize("switch", ["GENBENCH_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_and_absent_is_one_message_with_the_remedy(switch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(switch, "1")
    with pytest.raises(MissingAsset) as caught:
        resolve(CARD)
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == 6
    for part in (CARD.url, "1,280,000 bytes", DIGEST, 'genbench fetch "thing"', "--weights thing=PATH"):
        assert str(part) in message


def test_unknown_facts_are_called_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_OFFLINE", "1")
    card = Card(name="thing", file="x.pth", url="https://example.org/x.pth", licence="MIT", fetch="thing(size='big')")
    with pytest.raises(MissingAsset, match=r"size not known, sha256 not known.*genbench fetch \"thing\(size='big'\)\""):
        resolve(card)
    with pytest.raises(MissingAsset, match=r"x.pth is nowhere.*--weights thing=PATH"):
        resolve(Card(name="thing", file="x.pth", licence="MIT"))


def test_download_is_checked_and_then_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, seen = serve(monkeypatch, CONTENT), []
    path = resolve(CARD, received=lambda done, total: seen.append((done, total)))
    assert path == home / "cache" / "weights" / "thing.pth" and path.read_bytes() == CONTENT
    assert leftovers(home) == ["thing.pth"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and sorted(seen) == seen
    assert resolve(CARD) == path and asked == [CARD.url]


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT[:-5], b""])
def test_wrong_content_is_kept_aside_and_refused(home: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, content)
    with pytest.raises(MissingAsset, match=r"sha256 [0-9a-f]{64}, not 1280000 bytes with .*thing\.pth\.bad"):
        resolve(CARD)
    assert leftovers(home) == ["thing.pth.bad"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"kind": "text/html"}, "web page"),
        ({"length": len(CONTENT) + 7}, "1,280,007 bytes are announced, and it has at most 1,280,000"),
        ({"error": urllib.error.HTTPError(str(CARD.url), 404, "Not Found", Message(), None)}, "404"),
        ({"error": urllib.error.URLError("Temporary failure in name resolution")}, "name resolution"),
        ({"error": TimeoutError("timed out")}, "timed out"),
    ],
)
def test_failed_downloads_leave_nothing(
    home: Path, more: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = serve(monkeypatch, CONTENT, **more)
    with pytest.raises(MissingAsset, match=message) as caught:
        resolve(CARD)
    assert DIGEST in str(caught.value) and "genbench fetch" in str(caught.value)
    assert leftovers(home) == [] and len(asked) == 1


@pytest.mark.parametrize("length", ["abc", "-5", "٣", "", None])
def test_a_length_that_is_no_number_is_no_length(length: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, CONTENT, length=length)
    assert resolve(CARD).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("card", "most"),
    [
        (CARD, len(CONTENT)),
        (replace(CARD, bytes=None, about=100), (1 << 30) + 200),
        (replace(CARD, bytes=None), 64 << 30),
    ],
)
def test_a_download_has_an_end(home: Path, card: Card, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert card.most == most
    asked = serve(monkeypatch, CONTENT + b"x", length=None)
    monkeypatch.setattr(Card, "most", property(lambda _: len(CONTENT)))
    with pytest.raises(MissingAsset, match="does not end after the 1,280,000 bytes"):
        resolve(card)
    assert leftovers(home) == [] and len(asked) == 1


def test_a_download_that_hardly_moves_is_given_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, CONTENT)
    monkeypatch.setattr(downloads, "_CHUNK", 1)
    clock = iter(range(1000))
    monkeypatch.setattr(downloads.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(MissingAsset, match=r"61 bytes came in 61 seconds"):
        resolve(CARD)


def begin(home: Path, content: bytes, etag: str = "") -> None:
    put(home / "cache" / "weights" / ".thing.pth.part", content)
    if etag:
        (home / "cache" / "weights" / ".thing.pth.etag").write_text(etag)


def test_a_download_that_broke_off_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, CONTENT[:500_000], length=len(CONTENT), etag='"v1"')
    with pytest.raises(MissingAsset, match="500,000 of 1,280,000 bytes came"):
        resolve(CARD)
    assert leftovers(home) == [".thing.pth.etag", ".thing.pth.part"]
    asked, seen = serve(monkeypatch, CONTENT, etag='"v1"'), []
    assert resolve(CARD, received=lambda *now: seen.append(now)).read_bytes() == CONTENT
    assert asked == [f"{CARD.url} bytes=500000-"] and leftovers(home) == ["thing.pth"]
    assert seen[0] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("more", [{}, {"ranges": False}, {"etag": '"v2"'}], ids=["ranges", "no ranges", "changed"])
@pytest.mark.parametrize("begun", [CONTENT[:1000], b"another file" * 10, CONTENT + b"longer", CONTENT])
def test_whatever_was_begun_the_file_is_right(
    home: Path, begun: bytes, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(home, begun, '"v1"')
    asked = serve(monkeypatch, CONTENT, **more)
    assert resolve(CARD).read_bytes() == CONTENT and leftovers(home) == ["thing.pth"]
    assert len(asked) <= 2 and (begun != CONTENT or asked == []), "a whole part lacks its name alone"


def test_without_digest_and_mark_nothing_is_pieced_together(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(home, b"another file")
    asked = serve(monkeypatch, CONTENT)
    assert resolve(replace(CARD, sha256=None, bytes=None)).read_bytes() == CONTENT and asked == [CARD.url]
    (home / "cache" / "weights" / "thing.pth").unlink()
    begin(home, CONTENT[:10], '"v1"')
    asked = serve(monkeypatch, CONTENT, etag='"v1"')
    assert resolve(replace(CARD, sha256=None)).read_bytes() == CONTENT and asked == [f"{CARD.url} bytes=10-"]


def test_two_downloads_at_once_do_not_share_a_part(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(home, b"written by another process")
    with (home / "cache" / "weights" / ".thing.pth.part").open("rb") as other:
        assert files.lock(other.fileno())
        serve(monkeypatch, CONTENT)
        assert resolve(CARD).read_bytes() == CONTENT
    assert (home / "cache" / "weights" / ".thing.pth.part").read_bytes() == b"written by another process"
    assert leftovers(home) == [".thing.pth.part", "thing.pth"]


def test_downloads_that_nobody_continued_are_removed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / "cache" / "weights"
    for name, days in ((".old.pth.part", 8), (".old.pth.etag", 8), (".old.pth.abc.part", 8), (".new.pth.part", 1)):
        path = put(folder / name)
        os.utime(path, (time.time() - days * 86400,) * 2)
    serve(monkeypatch, CONTENT)
    resolve(CARD)
    assert leftovers(home) == [".new.pth.part", "thing.pth"]


def test_a_file_larger_than_the_disk_is_not_begun(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, CONTENT)
    monkeypatch.setattr(files, "free_bytes", lambda _: 1000)
    with pytest.raises(OutOfResources, match=r"thing\.pth has 1,280,000 bytes, and 1,000 are free"):
        resolve(CARD)
    assert leftovers(home) == []


def test_what_is_not_proved_is_told_on_the_card() -> None:
    assert CARD.cautions == () and Card(name="x", file="x", licence="MIT").cautions == ()
    bare = replace(CARD, sha256=None, url="https://huggingface.co/org/model/resolve/main/a.bin")
    assert [text.split()[0] for text in bare.cautions] == ["No", "The"]
    assert replace(CARD, sha256=None, md5="0" * 32).cautions[0].startswith("MD5 is the only digest")


def test_only_https(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, CONTENT)
    with pytest.raises(MissingAsset, match="only https"):
        resolve(Card(name="thing", file="x.pth", url="http://example.org/x.pth", licence="MIT"))
    assert not asked
    handler = downloads.SecureRedirects()
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(urllib.error.URLError, match="not https"):
        handler.redirect_request(request, io.BytesIO(), 302, "Found", Message(), "http://example.org/b")  # type: ignore[arg-type]
    followed = handler.redirect_request(request, io.BytesIO(), 302, "Found", Message(), "https://example.org/b")  # type: ignore[arg-type]
    assert followed is not None and urlsplit(followed.full_url).path == "/b"


def test_unwritable_cache_and_full_disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, CONTENT)
    monkeypatch.setenv("GENBENCH_CACHE", str(put(home / "file")))
    with pytest.raises(MissingAsset, match="GENBENCH_CACHE"):
        resolve(CARD)
    monkeypatch.setenv("GENBENCH_CACHE", str(home / "cache"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(downloads, "transfer", full)
    with pytest.raises(OutOfResources, match="No space left"):
        resolve(CARD)
    assert leftovers(home) == []


def test_home_may_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENBENCH_CACHE")

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(UsageError, match="GENBENCH_CACHE"):
        cache_directory()


STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([1.0, 2.0])}


def same(found: dict[str, torch.Tensor]) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[k], v) for k, v in STATE.items())


def test_state_dicts_of_every_safe_kind(home: Path) -> None:
    save_file(STATE, home / "a.safetensors")
    torch.save(STATE, home / "a.pth")
    torch.save(STATE, home / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": {f"module.{k}": v for k, v in STATE.items()}}, home / "wrapped.pth")
    # The name says nothing about the content.
    (home / "renamed.bin").write_bytes((home / "a.safetensors").read_bytes())
    for name in ("a.safetensors", "a.pth", "old.pth", "wrapped.pth", "renamed.bin"):
        assert same(load_state(home / name)), name


class Trap:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_files_that_run_code_are_refused(home: Path) -> None:
    marker = home / "executed"
    with (home / "plain.pkl").open("wb") as stream:
        pickle.dump({"weight": Trap(marker)}, stream)
    torch.save({"weight": Trap(marker)}, home / "trap.pth")
    torch.save(nn.Linear(3, 2), home / "module.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated; files of it remain
        torch.jit.save(torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3)), home / "script.pt")
    (home / "empty.pth").write_bytes(b"")
    (home / "noise.pth").write_bytes(b"<!DOCTYPE html><html></html>")
    for name in ("plain.pkl", "trap.pth", "module.pth", "script.pt", "empty.pth", "noise.pth"):
        with pytest.raises(InputRejected, match="convert it") as caught:
            load_state(home / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)
    assert not marker.exists()


def test_cut_safetensors_are_refused(home: Path) -> None:
    save_file(STATE, home / "a.safetensors")
    put(home / "b.safetensors", (home / "a.safetensors").read_bytes()[:-3])
    with pytest.raises(InputRejected, match="not a whole safetensors file"):
        load_state(home / "b.safetensors")


@pytest.mark.parametrize(
    "content", [{"model": STATE, "model_ema": STATE}, {"weight": STATE["weight"], "epoch": 3}, {}, [1]]
)
def test_checkpoints_with_a_choice_in_them_are_refused(home: Path, content: Any) -> None:
    torch.save(content, home / "checkpoint.pth")
    with pytest.raises(InputRejected, match="Say which weights"):
        load_state(home / "checkpoint.pth")


def test_load_into_takes_all(home: Path) -> None:
    network = nn.Linear(3, 2).train()
    load_into(network, {k: v.half() for k, v in STATE.items()})
    assert same(network.state_dict()) and network.weight.dtype == torch.float32
    assert not network.training and not network.weight.requires_grad


def test_load_into_takes_all_or_nothing() -> None:
    network = nn.Sequential(*[nn.Linear(3, 2) for _ in range(8)])
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = {"0.weight": torch.zeros(2, 3), "1.weight": torch.zeros(9, 9)}
    state |= {f"extra{i}": torch.zeros(1) for i in range(12)}
    with pytest.raises(InputRejected) as caught:
        load_into(network, state, origin="x.pth")
    message = str(caught.value)
    assert message.startswith("x.pth does not fit the network. 14 missing: 0.bias, 1.bias, 2.weight")
    assert "12 unexpected: extra0, extra1" in message and "extra9, ..." in message and "extra10" not in message
    assert "1 of another shape: 1.weight (9, 9) for (2, 3)." in message
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (STATE["weight"].int(), r"weight integers \(int32\) for floats \(float32\)"),
        (STATE["weight"].bool(), r"weight integers \(bool\)"),
        (STATE["weight"].to(torch.complex64), r"weight complex-numbers \(complex64\)"),
        (STATE["weight"].to_sparse(), r"weight sparse-or-quantised"),
    ],
)
def test_weights_that_would_be_cut_to_fit_are_refused(wrong: torch.Tensor, message: str) -> None:
    network = nn.Linear(3, 2)
    with pytest.raises(InputRejected, match=rf"1 of another kind: {message}"):
        load_into(network, {**STATE, "weight": wrong})
    buffers = nn.Module()
    buffers.register_buffer("places", torch.arange(3))
    load_into(buffers, {"places": torch.arange(3, dtype=torch.int32)})
    with pytest.raises(InputRejected, match=r"places floats \(float32\) for integers"):
        load_into(buffers, {"places": torch.zeros(3)})


def test_names_of_tensors_do_not_reach_the_terminal_raw(home: Path) -> None:
    with pytest.raises(InputRejected) as caught:
        load_into(nn.Linear(3, 2), {**STATE, "\x1b[31mevil\n": torch.zeros(1)})
    assert str(caught.value).isprintable() and "evil" in str(caught.value)
    torch.save({**STATE, "\x1b]0;evil\x07": 3}, home / "a.pth")
    with pytest.raises(InputRejected) as caught:
        load_state(home / "a.pth")
    assert str(caught.value).isprintable() and "evil" in str(caught.value)


def test_counters_of_batches_are_neither_missed_nor_refused() -> None:
    network, other = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    state = {k: v + 1 for k, v in other.state_dict().items()}
    load_into(network, {k: v for k, v in state.items() if k != "num_batches_tracked"})
    assert torch.equal(network.running_mean, torch.ones(2))
    load_into(nn.Linear(3, 2), {**STATE, "num_batches_tracked": torch.ones(())})


# Weights of models


def published(name: str, **more: Any) -> Card:
    return weights.of_published(replace(catalogue.files()[name], **more))


def archive(content: bytes, member: str = "model.ckpt") -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr(member, content)
        file.writestr("readme.txt", "x")
    return whole.getvalue()


def test_a_published_file_is_checked_by_md5_where_that_is_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = published("ddpm-ema-cifar10", md5=hashlib.md5(CONTENT, usedforsecurity=False).hexdigest())
    asked = serve(monkeypatch, CONTENT)
    assert weights.cached(card) is None
    path = resolve(card)
    assert path.read_bytes() == CONTENT and path.name == "ddpm-ema-cifar10.ckpt"
    assert weights.cached(card) == path and len(asked) == 1
    with pytest.raises(MissingAsset, match="not used"):
        resolve(published("ddpm-cifar10", md5="0" * 32))


def test_a_member_of_an_archive_is_taken_out_and_the_archive_left(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, archive(CONTENT))
    path = resolve(published("ldm-ffhq"))
    assert path.read_bytes() == CONTENT and path.suffix == ".ckpt"
    assert resolve(published("ldm-ffhq")) == path and len(asked) == 1
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_archive_without_the_member_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (archive(CONTENT, "other.ckpt"), CONTENT):
        serve(monkeypatch, content)
        with pytest.raises(MissingAsset, match=r"holds no model\.ckpt"):
            resolve(published("ldm-ffhq"))
        assert list((cache_directory() / "weights").iterdir()) == []


def test_a_missing_published_file_tells_size_and_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENBENCH_OFFLINE", "1")
    with pytest.raises(MissingAsset, match=r"about 143 MB, md5 1fa350b9.*genbench fetch .ddpm-ema-cifar10"):
        resolve(published("ddpm-ema-cifar10"))
    with pytest.raises(MissingAsset, match=r"sha256 fe4efff1e174c627"):
        resolve(published("sd-v1-4"))


def test_a_file_is_proved_by_a_digest_alone(tmp_path: Path) -> None:
    from dataclasses import replace
    from hashlib import md5, sha256

    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights")
    bare = weights.Card(name="n", file="f", url=None, bytes=7, sha256=None, licence="MIT", note="")
    assert weights.matches(path, bare) and not weights.proved(path, bare), "nothing is known that could prove it"
    assert weights.proved(path, replace(bare, sha256=sha256(b"weights").hexdigest()))
    assert weights.proved(path, replace(bare, md5=md5(b"weights").hexdigest()))
    assert not weights.proved(path, replace(bare, sha256=sha256(b"others").hexdigest()))
    assert not weights.proved(tmp_path / "absent", replace(bare, md5=md5(b"weights").hexdigest()))
    member = replace(bare, sha256=sha256(b"weights").hexdigest(), member="inside.bin")
    assert not weights.proved(path, member), "the digest is that of the archive"


def test_files_that_are_proved_to_be_published_are_nobodys_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace
    from hashlib import sha256

    from genbench import pipeline, registry

    path = tmp_path / "ema.ckpt"
    path.write_bytes(b"weights")
    (name, card), (other, unknown), *_ = registry.published().items()
    proved = replace(card, sha256=sha256(b"weights").hexdigest(), member=None, bytes=7)
    monkeypatch.setattr(registry, "published", lambda: {name: proved, other: unknown})
    given = pipeline.Execution(weights={name: path, other: path, "inception": path})
    assert pipeline.given_weights(given) == [other], "no digest of it is known"
    path.write_bytes(b"others!")
    assert pipeline.given_weights(given) == sorted([name, other])
