"""Work that several processes share gives what one process gives, and what they say to each other survives the way."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import normal

from genbench import environment, neighbours, ranks
from genbench.arrays import Features
from genbench.errors import MissingAsset, UsageError
from genbench.metrics import kernel, manifold


def passed(value: Any) -> Any:
    """A value as the other side of a socket has it."""
    arrays: list[np.ndarray] = []
    text = json.dumps(ranks._packed(value, arrays))
    return ranks._unpacked(json.loads(text), iter(arrays).__next__)


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Has work spread over three processes that are this one, and lists the pieces that the others got."""
    seen: list[list[int]] = []

    def spread(
        job: Callable[..., Any], items: Sequence[int], *, own: Callable[..., Any], **arguments: Any
    ) -> list[Any]:
        answers = [own(items[::3], lambda _: None)]
        for share in (items[1::3], items[2::3]):
            if share:
                seen.append(list(share))
                answers.append(passed(job(list(share), lambda _: None, **passed(arguments))))
        return answers

    for room, name, size in ((neighbours, "_ROWS", 16), (neighbours, "_COLUMNS", 24), (kernel, "_TILE", 16)):
        monkeypatch.setattr(room, name, size)
    monkeypatch.setattr(ranks, "spread", spread)
    return seen


def features(seed: int, count: int, path: Path | None = None) -> Features:
    values = normal(seed, count, 5)
    # A crowd far from all others, whose distances float32 cannot tell, and copies.
    values[: count // 2] = 30 + normal(seed, count // 2, 5, scale=1e-4)
    values[: count // 8] = values[count // 8]
    if path is None:
        return Features(extractor="test", tap="pooled", array=values)
    np.save(path, values)
    return Features(extractor="test", tap="pooled", path=path)


def fields(found: Any) -> dict[str, Any]:
    names = getattr(type(found), "__dataclass_fields__", None)
    return {name: getattr(found, name) for name in names} if names else {"": found}


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize(
    "measure",
    [
        lambda x, y: manifold.memberships(x, y, k=2),
        lambda x, y: manifold.memberships(x, y, k=2, arithmetic="fp16-adm"),
        lambda x, y: manifold.occupancies(x, y, k=2),
        lambda x, y: manifold.realism_scores(x, y, k=2),
        lambda x, y: manifold.authentic_images(x, y),
        lambda x, y: kernel.kernel_sums(x.values(), y.values(), kernel.polynomial(5)),
        lambda x, y: kernel.kernel_sums(x.values(), y.values(), kernel.gaussian_less_one(200.0)),
    ],
    ids=["memberships", "memberships of adm", "occupancies", "realism", "authentic", "polynomial", "gaussian"],
)
def test_tiles_that_others_make_change_no_bit(
    measure: Callable[..., Any], on_disk: bool, tmp_path: Path, shares: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = (features(seed, 70 + 20 * seed, tmp_path / f"{seed}.npy" if on_disk else None) for seed in (1, 2))
    divided = fields(measure(x, y))
    assert shares
    monkeypatch.setattr(manifold, "recalled", lambda *_: None)
    monkeypatch.setattr(ranks, "spread", lambda job, items, *, own, **_: [own(items, lambda _: None)])
    whole = fields(measure(x, y))
    assert whole.keys() == divided.keys()
    for name, value in whole.items():
        assert np.array_equal(value, divided[name]), name


def test_arrays_of_whole_files_travel_as_their_names(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(12).reshape(4, 3))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    arrays: list[np.ndarray] = []
    assert ranks._packed({"all": mapped}, arrays)["all"]["path"] == str(tmp_path / "a.npy") and not arrays
    told = passed({"all": mapped, "some": mapped[1:], "path": Path("x"), "n": [1, 2.5, None, "text"]})
    assert np.array_equal(told["all"], mapped) and np.array_equal(told["some"], mapped[1:])
    assert told["path"] == Path("x").absolute() and told["n"] == [1, 2.5, None, "text"]


def test_helpers_do_nothing_that_is_not_of_this_package() -> None:
    assert ranks.function(ranks.name_of(neighbours.walk_elsewhere)) is neighbours.walk_elsewhere
    with pytest.raises(UsageError, match="in this package"):
        ranks.function("os:system")


def test_a_process_is_one_of_several_only_where_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "3"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "host")):
        monkeypatch.setenv(name, value)
    assert (ranks.count(), ranks.rank()) == (1, 0), "no port to meet at"
    monkeypatch.setenv("MASTER_PORT", "1")
    assert (ranks.count(), ranks.rank(), ranks.local_rank()) == (4, 3, 3)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ranks.local_rank() == 1 and ranks.here("cpu") == "cpu"
    for wrong in ("4", "-1", "first"):
        monkeypatch.setenv("RANK", wrong)
        with pytest.raises(UsageError, match="below WORLD_SIZE=4"):
            ranks.rank()


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    told = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "host", "MASTER_PORT": "1"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    for count, device in ((4, "cuda:1"), (1, "cuda:0")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        assert ranks.here("cuda:0") == device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert (environment.choose_device("auto"), environment.choose_device("cpu")) == ("cuda:1", "cpu")
    monkeypatch.setenv("LOCAL_RANK", "4")
    with pytest.raises(UsageError, match="torch sees 4"):
        environment.choose_device("cuda")
    with pytest.raises(UsageError, match="of all processes"):
        environment.choose_device("cuda:1")


def test_an_error_elsewhere_is_the_same_error_here_with_its_traceback() -> None:
    from genbench.errors import ComponentError, Interrupted, calling

    line = ranks._Line(2, "node7", None)

    def arrived(error: BaseException) -> BaseException:
        return ranks._error_of(line, passed(ranks._told(error)))

    missing = arrived(MissingAsset("no weights\nno data"))
    assert isinstance(missing, MissingAsset)
    assert str(missing) == "rank 2 on node7: no weights\nrank 2 on node7: no data" and missing.exit_code == 6
    with pytest.raises(ComponentError) as caught, calling("The model"):
        raise RuntimeError("tired")
    failed = arrived(caught.value)
    assert isinstance(failed, ComponentError) and "RuntimeError: tired" in str(failed.__cause__)
    assert "tired" in str(arrived(RuntimeError("tired")))
    stopped = arrived(Interrupted(3, 7))
    assert isinstance(stopped, Interrupted) and (stopped.kept, stopped.total) == (3, 7)
    assert type(arrived(KeyboardInterrupt())) is KeyboardInterrupt


def pair() -> tuple[ranks._Line, ranks._Line]:
    """Both ends of a connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = ranks._connection(socket.create_connection(server.getsockname()))
        return ranks._Line(1, "here", one), ranks._Line(0, "there", ranks._connection(server.accept()[0]))


def test_a_large_message_waits_for_a_process_that_works_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_SILENCE", 4.0)
    busy, sender = pair()
    busy.read()
    sent = np.arange(4_000_000.0)
    sending = threading.Thread(target=sender.send, kwargs={"of": 1, "done": sent})
    sending.start()
    time.sleep(9)  # nobody asks for the message, and no buffer of the system holds all of it
    sending.join(30)
    assert not sending.is_alive() and not busy.ended.is_set()
    assert np.array_equal(busy.receive().unpacked()["done"], sent)
    sender.close()
    with pytest.raises(ranks.Lost, match="Rank 1 on here ended"):
        busy.receive()
    with pytest.raises(ranks.Lost):
        for _ in range(3):
            sender.send(of=2)
    busy.close()


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1"])
def test_helpers_find_the_leader_beside_strangers_and_commands_that_have_ended(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if address == "::1" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": address, "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(ranks, "_GREETING", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as ended:
        gone = ended.getsockname()[1]
    told = {ranks._KEY: json.dumps({"host": "127.0.0.1", "port": gone, "key": "old"})}
    store = type("Store", (), {"get": staticmethod(told.__getitem__), "set": staticmethod(told.__setitem__)})
    monkeypatch.setattr(ranks, "_store", lambda: store)
    found: list[ranks._Line] = []
    helper = threading.Thread(target=lambda: found.append(ranks._of_leader()), daemon=True)
    helper.start()
    time.sleep(0.3)  # the helper has heard of the command that has ended
    team = ranks._Leader([])
    leading = threading.Thread(target=ranks._gather, args=(team, store), daemon=True)
    leading.start()
    while json.loads(told[ranks._KEY])["port"] == gone:
        time.sleep(0.01)
    with socket.create_connection((address, json.loads(told[ranks._KEY])["port"])):  # a stranger who says nothing
        leading.join(20)
    helper.join(5)
    assert not leading.is_alive() and [line.rank for line in team.lines] == [1]
    found[0].send(of=1, advance=3)
    line, come = team.inbox.get(timeout=5)
    assert (line, come.packed) == (team.lines[0], {"of": 1, "advance": 3})
    for one in (*team.lines, *found):
        one.close()


def test_nobody_who_leads_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    told = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ranks, "ARRIVAL", 0.5)
    with pytest.raises(ranks.Lost, match=r"do not meet at MASTER_ADDR=127\.0\.0\.1"):
        ranks._of_leader()


def test_a_file_that_a_helper_does_not_see_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2)))
    arrays: list[np.ndarray] = []
    packed = ranks._packed({"x": np.load(tmp_path / "a.npy", mmap_mode="r")}, arrays)
    (tmp_path / "a.npy").unlink()
    with pytest.raises(MissingAsset, match="GENBENCH_CACHE"):
        ranks._Message(packed, arrays).unpacked()


def test_what_is_sent_has_the_size_that_the_page_on_scale_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: dict[str, tuple[int, int]] = {}

    def size(value: Any) -> int:
        arrays: list[np.ndarray] = []
        return len(json.dumps(ranks._packed(value, arrays))) + sum(array.nbytes for array in arrays)

    def spread(
        job: Callable[..., Any], items: Sequence[int], *, own: Callable[..., Any], **arguments: Any
    ) -> list[Any]:
        told = size(arguments)
        answer = job(list(items[1::2]), lambda _: None, **arguments)
        sent.setdefault(arguments.get("walk", job.__name__).partition(":")[2], (told, size(answer)))
        return [own(items[::2], lambda _: None), answer]

    monkeypatch.setattr(ranks, "spread", spread)
    n, m = 3000, 2000
    x, y = (features(seed, count, tmp_path / f"{seed}.npy") for seed, count in ((5, n), (6, m)))
    manifold.memberships(x, y, k=3)
    manifold.occupancies(x, y, k=5)
    manifold.realism_scores(x, y)
    manifold.authentic_images(x, y)
    assert {name: answer for name, (_, answer) in sent.items()} == pytest.approx(
        {
            "nearest_of_rows": 120 * n, "membership_of_rows": n + 40 * m, "occupancy_of_rows": 8 * n + 20 * m,
            "realism_of_rows": 4 * n, "nearest_of_reference": 12 * n,
        },
        rel=0.05,
    )  # fmt: skip
    tasks = {"nearest_of_rows": 8 * n, "membership_of_rows": 101 * n + 13 * m}
    assert {name: sent[name][0] for name in tasks} == pytest.approx(tasks, rel=0.05)
