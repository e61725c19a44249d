"""What identities are made of, and what they are not made of; `docs/identities.md` says it in words."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from made_up import random_images

from genbench import features, identities, measuring, pipeline, registry
from genbench.arrays import Samples, image_digests
from genbench.images import open_images, write_images, write_npz
from genbench.protocols import protocol
from genbench.records import Measurement, Ref, Result

EVERYTHING = frozenset({"order", "labels", "captions"})


def real(count: int = 40) -> Samples:
    return Samples.of(
        random_images(count),
        labels=np.arange(count) % 4,
        captions=[f"text {i % 5}" for i in range(count)],
        origin="real",
    )


def content(samples: Samples, *what: str) -> str:
    return identities.content(samples, features.pixel_digests(samples), frozenset(what))


def shuffled(samples: Samples) -> Samples:
    order = np.random.default_rng(1).permutation(samples.count)
    return Samples.of(
        samples.read(0, samples.count)[order],
        labels=samples.labels[order],
        captions=[samples.captions[i] for i in order],
        classes=samples.classes,
        origin="shuffled",
    )


def test_the_same_pixels_have_one_digest_in_every_form_and_order(tmp_path: Path) -> None:
    samples = real()
    write_images(samples, tmp_path / "folder")
    write_npz(samples, tmp_path / "a.npz")
    forms = [open_images(tmp_path / "folder"), open_images(tmp_path / "a.npz"), samples, shuffled(samples)]
    assert len({content(form) for form in forms}) == 1
    assert len({content(form, "order") for form in forms[:3]}) == 1
    assert content(forms[3], "order") != content(samples, "order")
    with_labels = [content(form, "labels", "captions") for form in forms[1:]]
    assert len(set(with_labels)) == 1 and with_labels[0] != content(samples)


def test_what_a_metric_reads_of_an_image_belongs_to_that_image() -> None:
    samples = real()
    assert samples.labels is not None and samples.captions is not None
    turned = replace(samples, labels=np.roll(samples.labels, 1), captions=[*samples.captions[1:], "text 0"])
    assert content(turned) == content(samples)
    for what in ("labels", "captions"):
        assert content(turned, what) != content(samples, what)


def test_copies_count() -> None:
    pixels = random_images(4)
    once, twice = Samples.of(pixels), Samples.of(np.concatenate([pixels, pixels]))
    other = Samples.of(np.concatenate([pixels, pixels[:1]]))
    assert len({content(once), content(twice), content(other)}) == 3
    first, second = (Samples.of(pixels[chosen]) for chosen in ([0, 0, 1], [0, 1, 1]))
    assert content(first) != content(second)


def test_classes_are_known_by_name_and_numbers_by_themselves() -> None:
    samples = real()
    assert content(replace(samples, classes=("0", "1", "2", "3")), "labels") == content(samples, "labels")
    named = replace(samples, classes=("a", "b", "c", "d"))
    moved = replace(samples, labels=(samples.labels + 1) % 4, classes=("d", "a", "b", "c"))
    assert content(named, "labels") == content(moved, "labels") != content(samples, "labels")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fid", set()), ("precision", set()), ("kid", set()), ("kid(subsets=3)", {"order"}), ("is", set()),
        ("is(splits=10)", {"order"}), ("is(chunk=500)", {"order"}), ("vendi", set()),
        ("vendi(per_class=True)", {"labels"}), ("fid-per-class", {"labels"}), ("top1", {"labels"}),
        ("cas", {"labels", "order"}), ("clip-score", {"captions"}), ("psnr", {"order"}),
    ],
)  # fmt: skip
def test_what_metrics_read(text: str, expected: set[str]) -> None:
    metric, ref = registry.bind("metric", Ref.parse(text))
    assert identities.reads(metric, ref) == expected


@pytest.mark.parametrize("name", sorted(registry.BUILTIN["metric"]))
def test_neutral_arguments_are_arguments(name: str) -> None:
    metric = registry.get("metric", name)
    assert set(metric.neutral) <= set(registry.parameters("metric", metric))
    assert set(metric.reads(registry.bind("metric", Ref(name))[1].args)) <= EVERYTHING


def measured(
    text: str, generated: Samples, reference: Samples | None, *, held_out: Samples | None = None, how: str = "embedded"
) -> Result:
    outcome = pipeline.score(
        generated,
        reference,
        [Measurement.parse(text)],
        protocol=protocol(how),
        held_out=held_out,
        execution=measuring.Execution(device="cpu", workers=0),
    )
    return outcome.results[0]


def ours(count: int = 30, seed: int = 7) -> Samples:
    return Samples.of(
        random_images(count, seed=seed),
        labels=np.arange(count) % 4,
        captions=[f"text {i % 3}" for i in range(count)],
        origin="ours",
    )


def test_how_the_error_was_made_is_no_part_of_the_protocol() -> None:
    texts = [
        "fid@pixels(side=2)",
        "fid(error='none')@pixels(side=2)",
        "fid(error='jackknife', blocks=7)@pixels(side=2)",
    ]
    found = [measured(text, ours(), real()) for text in texts]
    assert (
        len({r.score.value for r in found}) == len({r.protocol_hash for r in found}) == len({r.id for r in found}) == 1
    )
    assert len({r.score.stderr for r in found}) == 3


def test_another_value_has_another_hash() -> None:
    base = measured("precision@pixels(side=2)", ours(), real())
    others = [
        measured("precision(k=5)@pixels(side=2)", ours(), real()), measured("precision@pixels(side=4)", ours(), real()),
        measured("recall@pixels(side=2)", ours(), real()), measured("precision@pixels(side=2)", ours(20), real()),
        measured("precision@pixels(side=2)", ours(), real(30)),
        measured("precision@pixels(side=2)", replace(ours(), quantise="truncate"), real()),
    ]  # fmt: skip
    assert len({r.protocol_hash for r in [base, *others]}) == 7


def test_rounding_that_is_known_is_what_is_taken_where_nothing_is_known() -> None:
    told, silent = (measured("fid@pixels(side=2)", replace(ours(), quantise=q), real()) for q in ("round", None))
    assert told.protocol_hash == silent.protocol_hash
    assert (told.generated.quantise, silent.generated.quantise) == ("round", None)


def test_order_counts_only_where_it_is_read() -> None:
    for text, same in (("fid@pixels(side=2)", True), ("is@compact", True), ("is(splits=3)@compact", False)):
        sides = [measured(text, samples, real()).generated.digest for samples in (ours(), shuffled(ours()))]
        assert (sides[0] == sides[1]) is same, text
    of_reference = [measured("fid@pixels(side=2)", ours(), side) for side in (real(), shuffled(real()))]
    assert of_reference[0].protocol_hash == of_reference[1].protocol_hash
    assert of_reference[0].id == of_reference[1].id


def test_labels_belong_to_what_is_measured() -> None:
    labels = np.arange(30) % 4
    labellings = [labels, labels % 2, np.roll(labels, 1)]
    found = [measured("vendi(per_class=True)@pixels(side=2)", replace(ours(), labels=x), None) for x in labellings]
    assert len({r.id for r in found}) == 3
    assert found[0].protocol_hash == found[2].protocol_hash != found[1].protocol_hash, "four classes, and two"
    plain = [measured("vendi@pixels(side=2)", replace(ours(), labels=x), None) for x in labellings]
    assert len({r.id for r in plain}) == 1


def test_labels_of_the_reference_are_part_of_the_protocol() -> None:
    generated, reference = ours(80), real(80)
    assert reference.labels is not None
    other = replace(reference, labels=np.roll(reference.labels, 1))
    found = [measured("fid-per-class@pixels(side=1)", generated, side) for side in (reference, other)]
    assert found[0].score.value != found[1].score.value
    assert found[0].protocol_hash != found[1].protocol_hash and found[0].id != found[1].id


def test_floors_of_other_labels_are_other_floors() -> None:
    generated, reference = ours(60), real(80)
    held_out = Samples.of(random_images(60, seed=3), labels=np.arange(60) % 4, origin="held out")

    def floor(labels: np.ndarray) -> float:
        side = replace(held_out, labels=labels)
        result = measured("fid-per-class@pixels(side=1)", generated, reference, held_out=side)
        assert result.floor is not None
        return result.floor.value

    first, second = floor(held_out.labels), floor(np.roll(held_out.labels, 1))
    assert first != second and floor(held_out.labels) == first


@pytest.mark.parametrize("damage", [b"", b"[]", b"\xff\xfe", b'{"value": 1.0}', None])
def test_a_damaged_floor_is_made_anew(
    damage: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path))
    held_out = Samples.of(random_images(30, seed=3), origin="held out")

    def floor() -> float:
        result = measured("fid@pixels(side=2)", ours(), real(), held_out=held_out)
        assert result.floor is not None
        return result.floor.value

    truth = floor()
    (path,) = (tmp_path / "floors").glob("*.json")
    path.write_bytes(path.read_bytes().replace(b'"value": ', b'"value": 1') if damage is None else damage)
    assert floor() == truth and "damaged" in caplog.text


def test_prompts_and_data_sets_belong_to_metrics_without_a_reference() -> None:
    generated = replace(ours(), captions=["a red circle"] * 30)
    texts = [["a red circle"] * 30, ["a blue square"] * 30, ["a red circle"] * 29 + ["a blue square"]]
    found = [measured("clip-score", replace(generated, captions=t), None) for t in texts]
    assert len({r.protocol_hash for r in found}) == 3
    hashes = {measured("is@compact", ours(), replace(real(), dataset=name)).protocol_hash for name in ("a 1", "b 1")}
    assert len(hashes) == 2


def test_code_of_somebody_else_is_part_of_identities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lone_module.py").write_text("def load(): ...\n")
    (tmp_path / "some_package").mkdir()
    (tmp_path / "some_package" / "__init__.py").write_text("from some_package.inner import load\n")
    (tmp_path / "some_package" / "inner.py").write_text("def load(): ...\n")
    (tmp_path / "some_package" / "other.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, file in (("lone_module", "lone_module.py"), ("some_package", "some_package/other.py")):
        load = import_module(name).load
        before = identities.keyed(load, "key")
        assert before == identities.keyed(load, "key") != identities.keyed(load, "other") and before != "key"
        path = tmp_path / file
        path.write_text(path.read_text() + "# more\n")
        assert identities.keyed(load, "key") != before
        sys.modules.pop(name)
    assert identities.keyed(registry.get("model", "ddim"), "key") == "key"
    assert identities.code(registry.get("metric", "fid").compute) is None


def test_adding_a_component_a_card_or_an_argument_changes_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    before = measured("fid@pixels(side=2)", ours(), real())
    fid = registry.get("metric", "fid")

    def longer(*, generated, reference, error: str = "auto", blocks: int = 20, added: int = 3):
        return fid.compute(generated=generated, reference=reference, error=error, blocks=blocks)

    longer.__module__ = fid.compute.__module__
    monkeypatch.setattr(sys.modules[fid.compute.__module__], "FID", replace(fid, compute=longer))
    monkeypatch.setitem(registry.BUILTIN["metric"], "further", registry.BUILTIN["metric"]["fid"])
    registry.table.cache_clear()
    try:
        after = measured("fid@pixels(side=2)", ours(), real())
        changed = measured("fid(added=4)@pixels(side=2)", ours(), real())
    finally:
        registry.table.cache_clear()
    assert "added=3" in after.metric and (after.protocol_hash, after.id) == (before.protocol_hash, before.id)
    assert changed.protocol_hash != before.protocol_hash


def test_digests_of_images_are_made_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The pass that decodes images for features gives their digests too."""
    monkeypatch.setenv("GENBENCH_CACHE", str(tmp_path / "cache"))
    write_images(ours(), tmp_path / "images")
    samples = open_images(tmp_path / "images")
    reads = []
    read = samples.read
    counted = replace(samples, read=lambda a, b: reads.append(b - a) or read(a, b))
    measured("fid@pixels(side=2)", counted, real())
    assert sum(reads) == 30
    assert np.array_equal(features.pixel_digests(counted), image_digests(ours().read(0, 30))) and sum(reads) == 30
