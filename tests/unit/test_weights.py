"""Where weight files come from, that wrong ones are never used, and that nothing in them is executed."""

from __future__ import annotations

import hashlib
import io
import pickle
import socket
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

from baselines.published import PUBLISHED
from genbench import weights
from genbench.errors import InputRejected, MissingAsset, OutOfResources, UsageError
from genbench.weights import Card, cache_directory, load_into, load_state, offline, resolve, sha256

CONTENT = bytes(range(256)) * 5000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
CARD = Card(
    name="thing", file="thing.pth", url="https://example.org/files/thing.pth", bytes=len(CONTENT), sha256=DIGEST,
    licence="MIT",
)  # fmt: skip


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
    def __init__(self, content: bytes, kind: str, length: int | None) -> None:
        super().__init__(content)
        self.headers = Message()
        self.headers["Content-Type"] = kind
        if length is not None:
            self.headers["Content-Length"] = str(length)


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes, kind: str = "binary/octet-stream", **more: Any) -> list[str]:
    """Answers every request with the content; returns the list of addresses that were asked for."""
    asked: list[str] = []

    def answer(_: urllib.request.OpenerDirector, request: urllib.request.Request, timeout: float) -> Reply:
        assert timeout > 0
        asked.append(request.full_url)
        if "error" in more:
            raise more["error"]
        return Reply(content, kind, more.get("length", len(content)))

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


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("true", True), ("0", False), ("", False), ("no", False)])
@pytest.mark.parametrize("name", ["GENBENCH_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_switches(name: str, value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert offline() is expected


def test_digest_is_read_again_when_the_file_changes(home: Path) -> None:
    path = put(home / "file")
    assert sha256(path) == DIGEST
    put(path, CONTENT + b"x")
    assert sha256(path) == hashlib.sha256(CONTENT + b"x").hexdigest()


def test_a_given_path_is_taken_whatever_it_holds(home: Path) -> None:
    assert resolve(CARD, given=put(home / "mine.pth", b"other")) == home / "mine.pth"
    with pytest.raises(MissingAsset, match=r"--weights thing=.*absent.*no such file"):
        resolve(CARD, given=home / "absent")


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
    path = resolve(CARD, watch=lambda done, total: seen.append((done, total)))
    assert path == home / "cache" / "weights" / "thing.pth" and path.read_bytes() == CONTENT
    assert leftovers(home) == ["thing.pth"]
    assert seen[-1] == (len(CONTENT), len(CONTENT)) and sorted(seen) == seen
    assert resolve(CARD) == path and asked == [CARD.url]


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"x", b""])
def test_wrong_content_is_kept_aside_and_refused(home: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, content)
    with pytest.raises(MissingAsset, match=r"sha256 [0-9a-f]{64}, not 1280000 bytes with .*thing\.pth\.bad"):
        resolve(CARD)
    assert leftovers(home) == ["thing.pth.bad"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"kind": "text/html"}, "web page"),
        ({"length": len(CONTENT) + 7}, "of 1,280,007 bytes came"),
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


def test_only_https(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, CONTENT)
    with pytest.raises(MissingAsset, match="only https"):
        resolve(Card(name="thing", file="x.pth", url="http://example.org/x.pth", licence="MIT"))
    assert not asked
    handler = weights._SecureRedirects()
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

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "_transfer", full)
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


def test_counters_of_batches_are_neither_missed_nor_refused() -> None:
    network, other = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    state = {k: v + 1 for k, v in other.state_dict().items()}
    load_into(network, {k: v for k, v in state.items() if k != "num_batches_tracked"})
    assert torch.equal(network.running_mean, torch.ones(2))
    load_into(nn.Linear(3, 2), {**STATE, "num_batches_tracked": torch.ones(())})


# Weights of models


def published(name: str, **more: Any) -> Card:
    return weights.of_published(replace(PUBLISHED[name], **more))


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
