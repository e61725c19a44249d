from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from genbench import papers, registry
from genbench.errors import InputRejected, MissingAsset
from genbench.papers import COLUMNS, FORMULA, NUMBERS, TIERS, Reported, comparable, lookup, read, reported
from genbench.records import Ref, Result, RunSpec, Scalar, Score, Side
from scripts.import_paper_results import DISPUTED, leaderboard, main

HOME = Path(__file__).resolve().parents[2]

COLLECTED = (
    "system", "paper_title", "arxiv_id", "year", "venue", "dataset", "resolution", "conditioning", "variant",
    "nfe_or_steps", "guidance_kind", "guidance_scale", "metric", "value", "n_samples", "reference_set",
    "feature_extractor", "source", "verified_by", "note",
)  # fmt: skip


def collected(**cells: str) -> dict[str, str]:
    """A row as the importer reads it: an FID of a paper's own, with what a test is about in place."""
    row = dict.fromkeys(COLLECTED, "") | {
        "system": "S", "paper_title": "A Paper", "arxiv_id": "0000.00000", "dataset": "CIFAR-10", "resolution": "32",
        "guidance_kind": "none", "metric": "fid", "value": "3.70", "n_samples": "50000", "reference_set": "train 50k",
        "feature_extractor": "Inception-v3", "source": "Table 1",
        "verified_by": "text copy of the paper (full text of the A paper)",
    }  # fmt: skip
    return row | cells


def imported(**cells: str) -> dict[str, str]:
    (row,) = csv.DictReader(io.StringIO(leaderboard([collected(**cells)]).decode(), newline=""))
    return row


def rows(**wanted: object) -> list[Reported]:
    return [r for r in reported() if all(getattr(r, name) == value for name, value in wanted.items())]


def value(text: str, **wanted: object) -> float:
    """The one number of these columns whose variant contains a text."""
    (row,) = (r for r in rows(**wanted) if text in r.variant)
    return row.value


def find(model: str, metric: str = "fid", dataset: str = "cifar10") -> float | None:
    row = lookup(Ref.parse(model), metric, dataset)
    return row.value if row else None


# The file


def test_every_row_of_the_collection_is_there_with_its_tier() -> None:
    assert Counter(r.verified for r in reported()) == {"read": 2512, "secondary": 473, "digitised": 64, "recalled": 21}
    assert len(reported()) == 3070
    assert len({r.system for r in reported()}) == 298
    assert len({r.paper for r in reported()}) == 64
    assert {r.origin for r in reported()} == {"own", "quoted", "remeasured"}
    assert all(r.source and r.metric and r.dataset and r.system and r.paper for r in reported())


def test_recalled_rows_are_the_ones_nobody_saw() -> None:
    recalled = Counter(r.system for r in rows(verified="recalled"))
    expected = {"BigGAN-deep": 15, "MaskGIT": 2, "LSGM (balanced)": 2, "ImageBART": 1, "XMC-GAN": 1}
    assert recalled == expected
    assert not any(r.read_in for r in rows(verified="recalled"))
    assert {r.system for r in rows(verified="digitised")} == {f"Stable Diffusion v1.{i}" for i in range(1, 5)}


def test_bytes_are_those_of_a_clean_csv() -> None:
    content = (papers.leaderboards() / "reported.csv").read_bytes()
    assert b"\r" not in content and content.endswith(b"\n") and not content.startswith(b"\xef\xbb\xbf")
    cells = list(csv.reader(io.StringIO(content.decode("utf-8"), newline=""), strict=True))
    assert tuple(cells[0]) == COLUMNS
    assert {len(line) for line in cells} == {len(COLUMNS)}
    assert len(set(map(tuple, cells))) == len(cells)
    for line in cells[1:]:
        for name, cell in zip(COLUMNS, line, strict=True):
            assert cell == cell.strip() and cell.lower() not in ("nan", "n/a", "-", "null", "inf")
            if name in NUMBERS:
                assert re.fullmatch(r"(-?\d+(\.\d+)?)?", cell), (name, cell)
            else:
                assert not cell.startswith(FORMULA), (name, cell)


def test_no_cell_speaks_of_files_that_a_reader_cannot_open() -> None:
    private = re.compile(
        r"text copy|\bseed (?!42\b)|SEED|unverified|\bnote says|\bthe notes? |\boffset|\bids \d"
        r"|(?<![\w.])/(work|tmp|home|root)"
    )
    for row in reported():
        for name in COLUMNS:
            cell = str(getattr(row, name))
            assert not private.search(cell), (name, cell)
            # A .txt or .md can be opened only where it says in which public repository it lies.
            assert all("github.com/" in part for part in cell.split("; ") if re.search(r"\.(txt|md)\b", part)), cell


def test_every_known_error_is_marked_and_nothing_else() -> None:
    assert {r.disputed for r in reported()} - {""} == {reason for _, reason in DISPUTED}
    disputed = {(r.system, r.arxiv, r.metric, r.value) for r in reported() if r.disputed}
    assert len([r for r in reported() if r.disputed]) == 21
    for known in [
        ("Improved DDPM", "", "fid", 2.94),
        ("DDIM", "2303.01469", "fid", 8.23),
        ("ADM-G,U", "2112.10752", "fid", 3.85),
        ("ADM-G,U", "2112.10752", "is", 221.72),
        ("ADM-G", "2112.10752", "fid", 5.58),
        ("DALL-E", "2205.11487", "fid", 17.89),
        ("DALL-E", "2301.00704", "fid", 17.89),
    ]:
        assert known in disputed
    # The same 2.94 as a likelihood is right, and so are ADM's own numbers at 512.
    assert not any(r.disputed for r in reported() if r.metric == "nll_bpd" and r.value == 2.94)
    assert not any(r.disputed for r in rows(arxiv="2105.05233", system="ADM-G,U", resolution=512))


# Anchors: numbers that were compared with the papers one by one


def test_score_sde_rows_name_the_samplers_of_the_configurations() -> None:
    """Only NCSN++ was sampled by predictor and corrector; the collection says so of DDPM++ too."""
    own = [r for r in rows(arxiv="2011.13456") if "best checkpoint" in r.variant]
    found = Counter((r.system.split()[0], r.variant.split(", ")[1], r.steps) for r in own)
    assert found == {
        ("NCSN++", "PC sampler", 2000.0): 6,
        ("DDPM++", "ancestral sampling", 1000.0): 2,
        ("DDPM++", "Euler-Maruyama", 1000.0): 8,
    }
    told = imported(
        system="DDPM++ cont.", arxiv_id="2011.13456", variant="VP, PC sampler, best checkpoint over training",
        nfe_or_steps="2000 (PC: 1000 predictor + 1000 corrector)",
    )  # fmt: skip
    assert (told["variant"], told["steps"]) == ("VP, Euler-Maruyama, best checkpoint over training", "1000")
    assert "corrector" not in told["note"]


def test_ddim_table_1_is_complete() -> None:
    steps = (10, 20, 50, 100, 1000)
    table = {
        ("CIFAR-10", "eta=0.0"): (13.36, 6.84, 4.67, 4.16, 4.04),
        ("CIFAR-10", "eta=0.2"): (14.04, 7.11, 4.77, 4.25, 4.09),
        ("CIFAR-10", "eta=0.5"): (16.66, 8.35, 5.25, 4.46, 4.29),
        ("CIFAR-10", "eta=1.0"): (41.07, 18.36, 8.01, 5.78, 4.73),
        ("CIFAR-10", "sigma-hat"): (367.43, 133.37, 32.72, 9.99, 3.17),
        ("CelebA", "eta=0.0"): (17.33, 13.73, 9.17, 6.53, 3.51),
        ("CelebA", "eta=0.2"): (17.66, 14.11, 9.51, 6.79, 3.64),
        ("CelebA", "eta=0.5"): (19.86, 16.06, 11.01, 8.09, 4.28),
        ("CelebA", "eta=1.0"): (33.12, 26.03, 18.48, 13.93, 5.98),
        ("CelebA", "sigma-hat"): (299.71, 183.83, 71.71, 45.20, 3.26),
    }
    for (dataset, kind), expected in table.items():
        found = [value(kind, arxiv="2010.02502", dataset=dataset, metric="fid", steps=s) for s in steps]
        assert tuple(found) == expected
    assert len(rows(arxiv="2010.02502", source="Table 1")) == 50
    assert {r.verified for r in rows(arxiv="2010.02502")} == {"read"}


def test_anchors() -> None:
    ddpm = {"arxiv": "2006.11239", "system": "DDPM", "dataset": "CIFAR-10"}
    assert value("large", **ddpm, metric="fid") == 3.17
    assert value("large", **ddpm, metric="is") == 9.46
    assert value("test set", **ddpm, metric="fid") == 5.24
    edm = {"arxiv": "2206.00364", "dataset": "CIFAR-10", "steps": 35}
    for conditioning, expected in (("uncond", 1.97), ("class", 1.79)):
        assert min(r.value for r in rows(**edm, conditioning=conditioning)) == expected
    deep = rows(arxiv="2011.13456", system="NCSN++ cont. deep", origin="own", verified="read")
    assert {(r.metric, r.value, r.steps) for r in deep} == {("fid", 2.20, 2000), ("is", 9.89, 2000)}

    def adm(system: str, **more: object) -> dict[str, float]:
        found = rows(arxiv="2105.05233", system=system, dataset="ImageNet", resolution=256, **more)
        return {r.metric: r.value for r in found}

    names = ("fid", "sfid", "is", "precision", "recall")
    assert adm("ADM", steps=250) == dict(zip(names, (10.94, 6.02, 100.98, 0.69, 0.63), strict=True))
    guided = adm("ADM-G", steps=250, guidance_scale=1.0)
    assert guided == dict(zip(names, (4.59, 5.25, 186.70, 0.82, 0.52), strict=True))
    few = adm("ADM-G", steps=25, guidance_scale=2.5)
    assert few == {"fid": 5.44, "sfid": 5.32, "precision": 0.81, "recall": 0.49}
    assert adm("ADM-G,U") == dict(zip(names, (3.94, 6.14, 215.84, 0.83, 0.53), strict=True))
    ldm = {"arxiv": "2112.10752", "dataset": "ImageNet", "resolution": 256}
    assert {r.metric: r.value for r in rows(**ldm, system="LDM-4")}.items() >= {"fid": 10.56, "is": 103.49}.items()
    best = {r.metric: r.value for r in rows(**ldm, system="LDM-4-G", guidance_scale=1.5)}
    assert best.items() >= {"fid": 3.60, "is": 247.67}.items()
    for scale, expected in ((1.0, 1.80), (1.1, 1.55), (2.0, 12.6)):
        cfg = {"arxiv": "2207.12598", "resolution": 64, "metric": "fid", "guidance_scale": scale}
        assert value("p_uncond=0.1", **cfg) == expected
    assert value("T=256", arxiv="2207.12598", resolution=128, metric="fid", guidance_scale=1.3) == 2.43
    cd = rows(arxiv="2303.01469", system="CD (LPIPS)", dataset="CIFAR-10")
    assert {(r.steps, r.metric, r.value) for r in cd} >= {
        (1, "fid", 3.55), (1, "is", 9.48), (2, "fid", 2.93), (2, "is", 9.75)
    }  # fmt: skip
    coco = {"dataset": "MS-COCO", "resolution": 256, "metric": "fid"}
    for arxiv, system, expected in (
        ("2112.10752", "LDM-KL-8-G", 12.63),
        ("2112.10741", "GLIDE", 12.24),
        ("2204.06125", "DALL-E 2 (diffusion prior)", 10.39),
        ("2205.11487", "Imagen", 7.27),
        ("2206.10789", "Parti-20B", 7.23),
    ):
        own = [r.value for r in rows(**coco, arxiv=arxiv, system=system, origin="own")]
        assert own.count(expected) == 1
    cas = {"dataset": "ImageNet", "resolution": 256}
    cdm = {(r.system, r.metric): r.value for r in rows(**cas, arxiv="2106.15282") if r.metric.startswith("cas")}
    assert cdm == {
        ("Real data", "cas_top1"): 73.09, ("Real data", "cas_top5"): 91.47,
        ("BigGAN-deep", "cas_top1"): 42.65, ("BigGAN-deep", "cas_top5"): 65.92,
        ("VQ-VAE-2", "cas_top1"): 54.83, ("VQ-VAE-2", "cas_top5"): 77.59,
        ("CDM", "cas_top1"): 63.02, ("CDM", "cas_top5"): 84.06,
    }  # fmt: skip
    maskgit = {(r.system, r.metric): r.value for r in rows(**cas, arxiv="2202.04200") if r.metric.startswith("cas")}
    assert maskgit["MaskGIT", "cas_top1"] == 63.14 and maskgit["VQGAN* (MaskGIT authors)", "cas_top1"] == 53.10
    dino = {"metric": "fd_dinov2", "resolution": 512, "arxiv": "2312.02696"}
    assert value("no guidance, EMA tuned for FD", **dino, system="EDM2-S") == 68.64
    assert value("no guidance, EMA tuned for FD", **dino, system="EDM2-XXL") == 42.84
    (floor,) = rows(system="Test set (real)", dataset="CIFAR-10", metric="fd_dinov2")
    assert floor.value == 31.07


# The importer


def test_the_bytes_depend_on_the_rows_and_not_on_their_order(tmp_path: Path) -> None:
    source = [
        collected(system=s, metric=m, value=v, nfe_or_steps=n)
        for s, m, v, n in [
            ("B", "fid", "2.90", "100"), ("A", "is", "9.5", "20"), ("A", "fid", "3.1", "9"), ("C, d", "fid", "4", "")
        ]
    ]  # fmt: skip
    written = []
    for attempt in range(2):
        Random(attempt).shuffle(source)
        collection, output = tmp_path / f"in{attempt}.csv", tmp_path / f"out{attempt}.csv"
        with collection.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLLECTED)
            writer.writeheader()
            writer.writerows(source)
        main([str(collection), "--output", str(output)])
        written.append(output.read_bytes())
    assert written[0] == written[1]
    before, after = "A Paper,0000.00000,,CIFAR-10,32,,", "own,Table 1,the paper,read,,"
    unknown = ",".join(["not stated"] * 3)
    fid = f"50000,train (50k),Inception-v3,train,,50000,{unknown},,,,,,,not stated,,,,{after}"
    score = f"50000,train (50k),Inception-v3,,,,{unknown},,,not stated,not stated,,,not stated,,,,{after}"
    assert written[0].decode().splitlines() == [
        ",".join(COLUMNS),
        f"A,{before},9,none,,fid,3.1,{fid}",
        f"A,{before},20,none,,is,9.5,{score}",
        f"B,{before},100,none,,fid,2.90,{fid}",
        f'"C, d",{before},,none,,fid,4,{fid}',
    ]
    assert [r.value for r in read(tmp_path / "out0.csv")] == [3.1, 9.5, 2.9, 4.0]


def test_numbers_and_remarks_are_separated() -> None:
    remarks = {"nfe_or_steps": "100 (recalled)", "guidance_scale": "7.5 (default)", "n_samples": "about 30000"}
    row = imported(**remarks, note="+-0.11")
    assert (row["steps"], row["guidance_scale"], row["num_samples"]) == ("100", "7.5", "30000")
    assert row["note"] == "printed with +-0.11; steps: recalled; guidance scale: default; samples: about 30000"
    two_stages = imported(nfe_or_steps="250+250")
    assert (two_stages["steps"], two_stages["note"]) == ("", "steps: 250+250")
    assert imported(value="2.90")["value"] == "2.90"


def test_a_row_takes_only_what_belongs_to_its_metric() -> None:
    shared = {"reference_set": "train 50k (FID); test (NLL)", "note": "P/R K=5; upper bound, test"}
    assert imported(**shared)["reference"] == "train (50k)"
    likelihood = imported(metric="nll_bpd", **shared)
    assert [likelihood[c] for c in ("reference", "num_samples", "extractor")] == ["test", "", ""]
    assert imported(metric="recall", **shared)["note"].startswith("k=5")
    assert imported(metric="nll_bpd", reference_set="train")["reference"] == ""
    torch_fidelity = "Inception-v3 via torch-fidelity; P/R with ADM script"
    assert imported(feature_extractor=torch_fidelity)["extractor"] == "Inception-v3 (torch-fidelity)"
    assert imported(feature_extractor=torch_fidelity, metric="recall")["extractor"] == "Inception-v3 (ADM evaluator)"


def test_the_guidance_scale_of_one_paper_is_brought_to_that_of_all_others() -> None:
    assert imported(arxiv_id="2207.12598", guidance_kind="cfg", guidance_scale="0.3")["guidance_scale"] == "1.3"
    assert imported(arxiv_id="2112.10752", guidance_kind="cfg", guidance_scale="1.50")["guidance_scale"] == "1.5"


@pytest.mark.parametrize(
    ("verified_by", "metric", "verified", "read_in"),
    [
        ("text copy of the paper (ar5iv copy of DDIM paper)", "fid", "read", "the paper"),
        ("text copy of the paper (structured notes on LSGM)", "fid", "secondary", "notes on LSGM"),
        ("a/b README ; text copy of the paper (full text)", "fid", "read", "github.com/a/b README; the paper"),
        ("c/d figures/e.png , read from the image", "fid", "read", "github.com/c/d figures/e.png"),
        ("c/d assets/e.jpg , digitised from the plot", "fid", "digitised", "github.com/c/d assets/e.jpg"),
        ("github a/b: research/c.md (quoted)", "fid", "secondary", "github.com/a/b research/c.md"),
        ("unverified: recalled", "fid", "recalled", ""),
        ("mmgeneration README (FID 3.19)", "fid", "read", "github.com/open-mmlab/mmgeneration README"),
        ("mmgeneration README (FID 3.19)", "nll_bpd", "secondary", ""),
    ],
)
def test_where_a_number_was_read(verified_by: str, metric: str, verified: str, read_in: str) -> None:
    row = imported(verified_by=verified_by, metric=metric)
    assert (row["verified"], row["read_in"]) == (verified, read_in)
    assert verified in TIERS


def test_what_must_not_be_published_stops_the_import() -> None:
    with pytest.raises(ValueError, match="no line of PLACES knows"):
        imported(verified_by="a dream")
    with pytest.raises(ValueError, match="reader cannot open"):
        imported(note="copied from /home/someone/list")
    with pytest.raises(ValueError, match="holds numbers"):
        imported(value="about 3")


def test_text_that_a_spreadsheet_would_run_is_defused_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "reported.csv"
    path.write_bytes(leaderboard([collected(variant="=cmd|'/C calc'!A0", value="-88.6")]))
    assert b",'=cmd|" in path.read_bytes() and b",-88.6," in path.read_bytes()
    (row,) = read(path)
    assert (row.variant, row.value) == ("=cmd|'/C calc'!A0", -88.6)


# Reading


def test_a_broken_file_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "reported.csv"
    good = leaderboard([collected()]).decode()
    path.write_text("system,value\n", encoding="utf-8")
    with pytest.raises(InputRejected, match=r"reported\.csv, line 1"):
        read(path)
    path.write_text(good.replace(",3.70,", ",three,"), encoding="utf-8")
    with pytest.raises(InputRejected, match=r"line 2.*three"):
        read(path)
    path.write_text(good + "short,row\n", encoding="utf-8")
    with pytest.raises(InputRejected, match="line 3"):
        read(path)


def test_the_file_is_found_in_a_checkout_and_in_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "genbench"
    package.mkdir(parents=True)
    monkeypatch.setattr(papers, "__file__", str(package / "papers.py"))
    with pytest.raises(MissingAsset):
        papers.leaderboards()
    for folder in (package.parent / "leaderboards", package / "leaderboards"):
        folder.mkdir()
        (folder / "reported.csv").write_text("", encoding="utf-8")
        assert papers.leaderboards() == folder  # the packaged one wins over whatever lies beside the package


def test_importing_needs_neither_torch_nor_numpy_nor_pandas() -> None:
    code = "import sys, genbench.papers; print(*sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# Looking up


def test_ddim_rows_are_selected_by_steps_and_eta() -> None:
    assert [find(f"ddim(steps={s}, eta=0.0)") for s in (10, 20, 50, 100, 1000)] == [13.36, 6.84, 4.67, 4.16, 4.04]
    assert find("ddim(steps=50, eta=0.0, spacing='uniform', clip=True)") == 4.67
    assert find("ddim(steps=50, eta=0.5)", "fid@compact", "cifar10") == 5.25
    assert find("ddim(steps=50, eta=1.0)") == 8.01
    assert find("ddim(steps=50)", dataset="celeba") == 9.17
    assert find("ddim(steps=50)", dataset="lsun-bedroom") == 6.75
    assert find("ddim(steps=49)") == 4.67, "no paper took 49 steps: the headline row, of 50"
    assert find("ddim(steps=50, eta=0.3)") == 4.67
    assert find("ddim(steps=50)", "clip-score") is None
    row = lookup(Ref.parse("ddim(steps=50)"), "fid", "cifar10")
    assert row is not None and (row.dataset, row.citation) == ("CIFAR-10", "arXiv:2010.02502, Table 1")


def test_a_data_set_that_no_paper_of_the_system_used_has_no_row() -> None:
    for system in ("ddpm", "ddim", "adm-g", "adm-u", "cfg", "ldm"):
        assert find(system, dataset="shapes") is None
        assert find(system, dataset="folder(path='photos')") is None
    assert find("ddpm", dataset="imagenet256") is None
    assert find("adm-g", dataset="cifar10") is None


def test_a_disputed_row_is_never_found(monkeypatch: pytest.MonkeyPatch) -> None:
    doubted = tuple(replace(r, disputed="a slip") if r.value == 4.67 else r for r in reported())
    monkeypatch.setattr(papers, "reported", lambda: doubted)
    assert find("ddim(steps=50)") is None
    assert find("ddim(steps=20)") == 6.84


def test_ddpm_rows_are_selected_by_steps_and_variance() -> None:
    assert find("ddpm(steps=1000, variance='large')") == 3.17
    assert find("ddpm(steps=1000, variance='large')", "is") == 9.46
    assert find("ddpm(steps=1000, variance='small')") == 4.73
    assert find("ddpm(steps=100, variance='large')") == 9.99
    assert find("ddpm(steps=100, variance='small')") == 5.78
    assert find("ddpm(steps=1000, variance='learned')") == 3.17, "nothing was published: the headline row"
    assert find("ddpm(steps=250)") == 3.17
    row = lookup(Ref.parse("ddpm(steps=1000)"), "fid", "cifar10")
    assert row is not None and (row.arxiv, row.origin, row.reference) == ("2006.11239", "own", "train (50k)")
    other = lookup(Ref.parse("ddpm(steps=1000)"), "recall", "cifar10")
    assert other is not None and (other.arxiv, other.origin) == ("2206.09479", "remeasured")


def test_guided_systems_are_selected_by_scale_and_resolution() -> None:
    assert find("adm-g(scale=1.0)", dataset="imagenet256") == 4.59
    assert find("adm-g", "is", "imagenet256") == 186.70
    assert find("adm-g", dataset="imagenet128") == 2.97
    assert find("adm-g", dataset="imagenet512") == 7.72
    assert find("adm-g(steps=25, scale=2.5)", dataset="imagenet256") == 5.44
    assert find("adm-g(scale=0.0)", dataset="imagenet256") == 10.94
    assert find("adm-g(scale=0.0)", dataset="imagenet64") == 2.07  # with dropout; 2.61 without
    assert find("adm-g(scale=3.0)", dataset="imagenet256") == 4.59
    assert [find(f"cfg(scale={s})", dataset="imagenet64") for s in (1.0, 1.1, 2.0)] == [1.80, 1.55, 12.6]
    assert find("cfg(scale=1.3, steps=256)", dataset="imagenet128") == 2.43
    assert find("cfg(scale=1.3, steps=128)", dataset="imagenet128") == 3.04
    assert find("cfg(scale=1.15)", dataset="imagenet64") == 1.55
    assert find("ldm(scale=1.5)", dataset="imagenet256") == 3.60
    assert find("ldm(scale=1.25)", dataset="imagenet256") == 3.95
    assert find("ldm(scale=1.0)", dataset="imagenet256") == 10.56
    assert find("ldm(scale=1.5)", dataset="coco") == 12.63
    assert find("ldm(steps=500)", dataset="celebahq") == 5.11
    assert find("someone.else:model") is None


def test_metrics_meet_the_names_under_which_they_are_published() -> None:
    features = "dinov2(architecture='vit_large_patch14_dinov2')"
    for ours, theirs in (
        ("fid", "fd_dinov2"),
        ("fd", "fd_dinov2"),
        ("fid-inf(method='line')", "fd_inf_dinov2"),
        ("kid", "kd_dinov2"),
        ("authpct", "authpct"),
        ("precision(k=5)", "precision_dinov2"),
        ("coverage", "coverage_dinov2"),
    ):
        assert papers._column(f"{ours}@{features}") == theirs
        assert rows(metric=theirs), theirs
    for ours, theirs in (
        ("fid@inception", "fid"),
        ("clip-score@clip", "clip_score"),
        ("sfid", "sfid"),
        ("cas", "cas_top1"),
    ):
        assert papers._column(ours) == theirs and rows(metric=theirs)


def test_every_number_of_a_table_is_found_by_exactly_one_row() -> None:
    """Where two rows of a paper fit, the first would win silently."""
    once: Counter[str] = Counter()
    names = {papers._plain(name): name for name in registry.table("dataset")}
    for name, dataset in (("ddim", "CIFAR-10"), ("adm-g", "ImageNet"), ("cfg", "ImageNet"), ("ldm", "ImageNet")):
        for plain, (published, resolution) in papers.DATASETS.items():
            if published != dataset:
                continue
            for steps in (10, 25, 50, 250, 256, 1000):
                for scale in (0.0, 1.0, 1.3, 1.5, 2.5):
                    args = {"ddim": {"steps": steps, "eta": 0.0}}.get(name, {"steps": steps, "scale": scale})
                    holding = (papers.wanted(row, args) for row in registry.paper_rows(name, names[plain]))
                    for want in [want for want in holding if want is not None][:1]:
                        same = {"metric": "fid", "dataset": published, "resolution": resolution, "disputed": ""}
                        fit = [r for r in rows(**same) if papers._agrees(r, want)]
                        assert len(fit) <= 1, (name, plain, args, fit)
                        once[name] += len(fit)
    # The table of DDIM has three of these steps, found for all five scales; that of guidance at 64 pixels has three
    # of the scales, found for all six numbers of steps, and at 128 pixels the same three for 256 steps.
    assert once == {"ddim": 3 * 5, "cfg": 3 * 6 + 3, "adm-g": 3, "ldm": 2}


# Columns of the protocol


ADM = "Inception-v3 (TF, guided-diffusion evaluator; P/R k=3, 10k reference images)"
DGM = "DINOv2 ViT-L/14 (dgm-eval)"
ON_SUBSETS = "P/R/density/coverage with k=5 on 10k subsets (dgm_eval defaults)"


@pytest.mark.parametrize(
    ("cells", "columns"),
    [
        ({"reference_set": "train 50k"}, {"split": "train", "num_reference": "50000", "subset": ""}),
        ({"reference_set": "train"}, {"split": "train", "num_reference": "50000"}),
        ({"reference_set": "train", "dataset": "FFHQ"}, {"split": "train", "num_reference": "not stated"}),
        ({"reference_set": "full training set", "dataset": "ImageNet"}, {"num_reference": "1281167"}),
        ({"reference_set": "full training set", "dataset": "FFHQ"}, {"num_reference": "not stated"}),
        ({"reference_set": "train 1281167", "dataset": "ImageNet"}, {"num_reference": "1281167"}),
        ({"reference_set": "30000 COCO val images"},
         {"split": "val", "num_reference": "30000", "subset": "not stated"}),
        ({"reference_set": "full COCO val 2014"}, {"num_reference": "not stated", "subset": "COCO 2014"}),
        ({"reference_set": "COCO2017 val 5k"}, {"num_reference": "5000", "subset": "COCO 2017"}),
        ({"reference_set": "filtered COCO val"}, {"subset": "filtered"}),
        ({"reference_set": "val (assumed)"}, {"split": "not stated", "num_reference": "not stated"}),
        ({"note": "reference set not spelled out in the text copy"}, {"split": "not stated"}),
        ({"reference_set": "as quoted"}, {"split": "not stated", "num_reference": "not stated"}),
        ({"metric": "is", "note": "IS: 10 x 5k samples, averaged"}, {"parts": "10", "split": "", "num_reference": ""}),
        ({"metric": "is", "note": "+-2.5, 10 splits"}, {"parts": "10", "logits": "not stated"}),
        ({"metric": "is", "note": "IS computed without ten splits, so higher"}, {"parts": "1"}),
        ({"metric": "is", "feature_extractor": ADM}, {"parts": "chunks of 5000", "logits": "unbiased"}),
        ({"metric": "is"}, {"parts": "not stated", "neighbours": "", "resize": "not stated"}),
        ({"feature_extractor": ADM},
         {"resize": "tf1", "scaling": "tf", "weights": "inception-2015-12-05", "parts": ""}),
        ({"metric": "recall", "feature_extractor": ADM},
         {"neighbours": "3", "num_reference": "10000", "arithmetic": "fp16-adm"}),
        ({"metric": "recall", "feature_extractor": ADM, "arxiv_id": "2105.05233", "resolution": "512"},
         {"num_reference": "1000"}),
        ({"metric": "recall", "resolution": "512", "note": "512: precision/recall use 1000 real images as in ADM"},
         {"num_reference": "1000"}),
        ({"metric": "precision", "note": "P/R K=5"}, {"neighbours": "5", "arithmetic": "not stated"}),
        ({"metric": "precision"}, {"neighbours": "not stated"}),
        ({"metric": "recall_dinov2", "feature_extractor": DGM, "note": ON_SUBSETS},
         {"neighbours": "5", "num_reference": "10000", "num_samples": "10000", "resize": "pil-bicubic"}),
        ({"metric": "fd_dinov2", "feature_extractor": DGM, "note": ON_SUBSETS},
         {"neighbours": "", "num_reference": "50000", "num_samples": "50000", "weights": "dinov2-vitl14"}),
        ({"metric": "fd_dinov2", "feature_extractor": DGM, "dataset": "FFHQ", "reference_set": "train"},
         {"split": "train", "num_reference": "50000"}),
        ({"metric": "fd_inf_dinov2", "feature_extractor": DGM}, {"estimator": "line"}),
        ({"metric": "clip_score", "feature_extractor": "CLIP ViT-B/16 via torchmetrics, x100"}, {"factor": "100"}),
        ({"metric": "clip_score", "note": "mean cosine similarity CLIP ViT-L/14, not x100"}, {"factor": "1"}),
        ({"metric": "clip_score"}, {"factor": "not stated"}),
        ({"conditioning": "text"}, {"prompts": "not stated"}),
        ({"feature_extractor": "Inception-v3 (NVIDIA pickle of the TF graph), min of 3 runs"},
         {"runs": "minimum of 3", "resize": "nvidia"}),
        ({"note": "min of several evaluations"}, {"runs": "minimum of several"}),
        ({"note": "mean over 5 sampling runs (sd 0.01)"}, {"runs": "mean of 5"}),
        ({"variant": "VP, best checkpoint over training"}, {"runs": "minimum over checkpoints"}),
        ({"arxiv_id": "2312.02696"}, {"runs": "minimum of several"}),
        ({"arxiv_id": "2312.02696", "source": "Table 3 (quoted)"}, {"runs": ""}),
        ({"variant": "16 samples + CoCa rerank"}, {"candidates": "best of 16"}),
        ({"variant": "60 candidates, CLIP re-ranked"}, {"candidates": "best of 60"}),
        ({"variant": "CLIP re-ranking"}, {"candidates": "best of several"}),
        ({"variant": "no re-ranking, cfg 2.1"}, {"candidates": ""}),
        ({"note": "table separates FIDs with and without re-ranking"}, {"candidates": ""}),
        ({"note": "NUWA row is re-ranked by CLIP"}, {"candidates": ""}),
        ({"note": "NUWA row is re-ranked by CLIP", "system": "NUWA"}, {"candidates": "best of several"}),
        ({"metric": "nll_bpd"}, dict.fromkeys(papers.PROTOCOL, "")),
    ],
)  # fmt: skip
def test_columns_of_the_protocol_are_read_from_the_words(cells: dict[str, str], columns: dict[str, str]) -> None:
    assert imported(**cells).items() >= columns.items()


def test_all_own_numbers_of_edm_edm2_and_autoguidance_are_minima() -> None:
    for arxiv, count in (("2206.00364", 50), ("2312.02696", 28), ("2406.02507", 32)):
        own = rows(arxiv=arxiv, origin="own")
        assert len(own) == count and all(r.runs.startswith("minimum of") for r in own)


# Comparing


INCEPTION = "inception(resize='tf1', scaling='tf')"
LARGE = "dinov2(architecture='vit_large_patch14_dinov2', resize='pil-bicubic')"


def result(
    *,
    metric: str = "fid",
    extractor: str | None = INCEPTION,
    key: str | None = "",
    model: str = "ddim(steps=50, eta=0.0, spacing='quadratic')",
    dataset: str = "cifar10",
    count: int = 50_000,
    reference: str | None = "cifar10 train",
    of: int | None = 50_000,
    quantise: Literal["round", "truncate"] = "round",
    precision: Literal["float32", "bfloat16"] = "float32",
    environment: Mapping[str, object] | None = None,
) -> Result:
    """A result as the pipeline makes it; `key` is that of the public weights where it is not given."""
    if key == "":
        key = min(papers.published_keys(extractor), default=None) if extractor else None
    return Result(
        metric=metric,
        metric_version=1,
        extractor=extractor,
        extractor_key=key,
        score=Score(value=1.0),
        floor=None,
        generated=Side(name="generated", count=count, digest="0"),
        reference=None if reference is None else Side(name=reference, count=of, digest="0"),
        protocol="tf1",
        protocol_hash="0",
        higher_is_better=False,
        spec=RunSpec(
            model=Ref.parse(model),
            dataset=Ref.parse(dataset),
            num_samples=count,
            quantise=quantise,
            precision=precision,
        ),
        seconds=0.0,
        created="",
        environment=environment or {},
    )


def paper(model: str = "ddim(steps=50)", metric: str = "fid", dataset: str = "cifar10") -> Reported:
    row = lookup(Ref.parse(model), metric, dataset)
    assert row is not None
    return row


GUIDED = "adm-g(scale=1.0, steps=250)"


def guided(**changed: object) -> Result:
    """ADM's evaluation of ImageNet at 256 pixels."""
    as_published: dict[str, object] = {
        "model": GUIDED, "dataset": "imagenet256", "reference": "imagenet256 train", "of": 1_281_167,
        "quantise": "truncate",
    }  # fmt: skip
    return result(**as_published | changed)  # type: ignore[arg-type]


BATCH = "imagenet256 train (ADM reference batch)"
NEIGHBOURS = "precision(k=3, arithmetic='fp16-adm')"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (result(), paper()),
        (result(key=max(papers.published_keys(INCEPTION))), paper()),
        (result(extractor="inception(resize='nvidia')"), paper()),
        (result(model="ddpm(steps=1000, variance='large')"), paper("ddpm")),
        (result(model="ddpm", metric="is(splits=10)", reference=None), paper("ddpm", "is")),
        (guided(), paper(GUIDED, dataset="imagenet256")),
        (guided(reference=f"{BATCH}, statistics of an unknown number of images", of=None),
         paper(GUIDED, dataset="imagenet256")),
        (guided(metric="sfid"), paper(GUIDED, "sfid", "imagenet256")),
        (guided(metric="is(chunk=5000)", reference=None), paper(GUIDED, "is", "imagenet256")),
        (guided(metric="is(splits=10)", reference=None), paper(GUIDED, "is", "imagenet256")),
        (guided(metric=NEIGHBOURS, reference=BATCH, of=10_000), paper(GUIDED, "precision", "imagenet256")),
        (guided(metric=NEIGHBOURS, reference="imagenet256 train, 10000 of 1281167", of=10_000),
         paper(GUIDED, "precision", "imagenet256")),
        (guided(model="adm-u(scale=0.0)"), paper("adm-u(scale=0.0)", dataset="imagenet256")),
        (guided(model="ldm(scale=1.5, steps=250)"), paper("ldm(scale=1.5)", dataset="imagenet256")),
    ],
)  # fmt: skip
def test_a_run_as_in_the_paper_is_comparable(ours: Result, theirs: Reported) -> None:
    assert comparable(ours, theirs) == (True, ())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"dataset": "cifar10-small"}, "other data set"),
        ({"metric": "sfid"}, "other metric"),
        ({"extractor": "inception(resize='clean')"}, "other resize"),
        ({"extractor": "inception(resize='bilinear')"}, "other resize"),
        ({"extractor": "inception(scaling='symmetric')"}, "scaling symmetric instead of tf"),
        ({"extractor": "dinov2"}, "other metric"),
        ({"extractor": None}, "other extractor"),
        ({"extractor": "incep"}, "other extractor"),
        ({"extractor": "mine:inception"}, "other extractor"),
        ({"key": "0123456789abcdef"}, "other weights of the extractor"),
        ({"key": None}, "weights of the extractor not known"),
        ({"count": 5000}, "5000 instead of 50000 samples"),
        ({"precision": "bfloat16"}, "samples in bfloat16"),
        ({"reference": "cifar10 test", "of": 50_000}, "other reference split"),
        ({"of": 10_000}, "10000 instead of 50000 reference images"),
        ({"of": None}, "number of reference images not known"),
        ({"quantise": "truncate"}, "pixels by quantise='truncate' instead of 'round'"),
        ({"model": "ddim(steps=50, spacing='uniform')"}, "uniform instead of quadratic steps"),
        ({"model": "ddim(steps=49, spacing='quadratic')"}, "49 instead of 50 steps"),
        ({"model": "ddim(steps=50, eta=0.3, spacing='quadratic')"}, "eta=0.3 instead of 0.0"),
        ({"model": "ddim(steps=50, weights='ema.pt', config='flags.json')"}, "own weights"),
        ({"environment": {"given_weights": ["ddpm-ema-cifar10"]}}, "weights not known to be the paper's"),
        ({"environment": {"differs": ["clip=False instead of True"]}}, "clip=False instead of True"),
    ],
)
def test_each_difference_is_named(changed: dict[str, object], reason: str) -> None:
    verdict, reasons = comparable(result(**changed), paper())  # type: ignore[arg-type]
    assert not verdict and reason in reasons
    if reason not in ("other metric", "other extractor"):
        assert reasons == (reason,)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"of": 100}, "100 instead of 1281167 reference images"),
        ({"reference": "imagenet256 train[0:1000]", "of": 1000}, "1000 instead of 1281167 reference images"),
        ({"reference": BATCH, "of": 10_000}, "10000 instead of 1281167 reference images"),
        ({"reference": "imagenet256 train, statistics of an unknown number of images", "of": None},
         "number of reference images not known"),
        ({"quantise": "round"}, "pixels by quantise='round' instead of 'truncate'"),
        ({"model": "adm-g(scale=3.0, steps=250)"}, "guidance of scale 3 instead of 1"),
        ({"extractor": "inception(resize='bilinear', scaling='symmetric')"}, "other resize"),
        ({"model": "adm-g(scale=2.5, steps=25, sampler='ancestral')"}, "sampler='ancestral' instead of 'ddim'"),
        ({"model": "adm-g(scale=1.0, steps=250, classifier='mine.pt')"}, "own weights"),
        ({"metric": NEIGHBOURS}, "1281167 instead of 10000 reference images"),
        ({"metric": NEIGHBOURS, "of": 100}, "100 instead of 10000 reference images"),
        ({"metric": "precision(k=3)", "of": 10_000}, "arithmetic of distances float32 instead of fp16-adm"),
        ({"metric": "precision(k=5, arithmetic='fp16-adm')", "of": 10_000}, "k = 5 instead of 3"),
        ({"metric": "is(splits=1)", "reference": None}, "1 instead of 10 splits"),
        ({"metric": "is(splits=50)", "reference": None}, "50 instead of 10 splits"),
        ({"metric": "is(chunk=100)", "reference": None}, "500 instead of 10 splits"),
    ],
)  # fmt: skip
def test_what_adm_measured_otherwise_is_named(changed: dict[str, object], reason: str) -> None:
    ours = guided(**changed)
    theirs = paper(str(changed.get("model", GUIDED)), ours.measurement, "imagenet256")
    assert reason in comparable(ours, theirs)[1]


def test_guidance_counts_from_where_there_is_none() -> None:
    plain = paper("adm-g(scale=0.0, steps=250)", dataset="imagenet256")
    assert plain.value == 10.94
    assert "guidance of scale 3 instead of 0" in comparable(guided(model="adm-g(scale=3.0, steps=250)"), plain)[1]
    own = guided(model="ldm(scale=1.0, steps=250)")
    assert not any("guidance" in r for r in comparable(own, paper("ldm(scale=1.0)", dataset="imagenet256"))[1])
    unknown = paper("adm-u", dataset="imagenet512")
    assert "scale of the guidance not stated" in comparable(guided(model="adm-u(scale=1.0)"), unknown)[1]
    for row, ours in (
        (paper(GUIDED, dataset="imagenet256"), guided(model="ddim(steps=250)")),
        (paper(GUIDED, dataset="imagenet256"), guided(model="cfg(scale=1.0, steps=250)")),
        (paper("ldm(scale=1.5)", dataset="imagenet256"), guided(model="adm-g(scale=1.5, steps=250)")),
    ):
        assert f"guidance of another kind ({row.guidance})" in comparable(ours, row)[1]
    truncated = next(r for r in reported() if r.guidance == "truncation" and r.guidance_scale is not None)
    assert "guidance of another kind (truncation)" in comparable(guided(), truncated)[1]


def test_a_variance_that_was_not_published_is_a_reason() -> None:
    ours = result(model="ddpm(steps=1000, variance='learned')")
    assert comparable(ours, paper("ddpm(variance='learned')")) == (False, ("variance='learned' instead of 'large'",))


def test_weights_that_the_preset_names_are_the_papers() -> None:
    named = result(model="ddim(steps=50, spacing='quadratic', weights='ddpm-ema-cifar10')")
    assert comparable(named, paper()) == (True, ())
    given = result(environment={"given_weights": ["inception"]})
    assert comparable(given, paper()) == (True, ()), "weights of an extractor are known by its key"


def test_the_default_run_is_not_and_says_why() -> None:
    measured = result(dataset="shapes", extractor="compact", count=1000, reference="shapes train", of=5000)
    assert comparable(measured, paper()) == (
        False, ("other data set", "other extractor", "1000 instead of 50000 samples")
    )  # fmt: skip


def test_antialiasing_counts_only_where_images_shrink() -> None:
    (small,) = (r for r in rows(system="DDPM", arxiv="2206.09479", metric="fid"))
    ours = result(extractor="inception(resize='bilinear-antialias', scaling='symmetric')", model="m:n")
    assert comparable(ours, small) == (True, ())
    large = replace(small, dataset="ImageNet", resolution=512, num_reference="1281167")
    bigger = replace(ours, spec=RunSpec(model=Ref("m:n"), dataset=Ref("imagenet512"), num_samples=50_000))
    bigger = replace(bigger, reference=Side(name="imagenet512 train", count=1_281_167, digest="0"))
    assert comparable(bigger, large) == (False, ("other resize",))


def test_logits_with_the_bias_make_another_inception_score() -> None:
    (once,) = rows(system="DDPM", arxiv="2206.09479", metric="is")
    ours = result(
        metric="is(splits=1)",
        extractor="inception(resize='bilinear', scaling='symmetric')",
        model="m:n",
        reference=None,
    )
    assert comparable(ours, once) == (False, ("unbiased instead of biased logits",))


def test_the_resize_and_the_size_of_a_transformer_count() -> None:
    (ours,) = (
        rows(system="PFGM++", metric="fd_dinov2", dataset="CIFAR-10", conditioning="class")
        or rows(metric="fd_dinov2", dataset="CIFAR-10", arxiv="2306.04675")[:1]
    )
    same = {"metric": "fd", "model": "m:n"}
    assert comparable(result(extractor=LARGE, **same), ours) == (True, ())  # type: ignore[arg-type]
    base = LARGE.replace("large", "base")
    assert comparable(result(extractor=base, **same), ours) == (False, ("other size of the extractor",))  # type: ignore[arg-type]
    edm2 = LARGE.replace("pil-bicubic", "bicubic-antialias")
    assert comparable(result(extractor=edm2, **same), ours) == (False, ("other resize",))  # type: ignore[arg-type]


def test_a_minimum_is_comparable_with_no_single_run() -> None:
    tuned = rows(system="EDM2-S", metric="fd_dinov2", arxiv="2312.02696", guidance="none")
    (edm2,) = (r for r in tuned if "FD" in r.variant)
    extractor = LARGE.replace("pil-bicubic", "bicubic-antialias")
    ours = guided(metric="fd", dataset="imagenet512", extractor=extractor, model="m:n", quantise="round")
    assert comparable(ours, edm2) == (False, ("minimum of several runs",))


def test_what_is_known_of_the_published_number_counts_too() -> None:
    (slip,) = rows(system="DDIM", arxiv="2303.01469", metric="fid", steps=10, dataset="CIFAR-10")
    assert "published number disputed" in comparable(result(), slip)[1]
    recalled = rows(verified="recalled")[0]
    assert "published number recalled, not read" in comparable(result(), recalled)[1]
    quoted = next(r for r in rows(origin="quoted", metric="fid", extractor="", dataset="CIFAR-10") if not r.num_samples)
    assert {
        "extractor not stated", "number of samples not stated", "reference not stated",
        "published number quoted from elsewhere",
    } <= set(comparable(result(), quoted)[1])  # fmt: skip
    picked = next(r for r in reported() if r.candidates == "best of 16")
    assert "re-ranked samples (best of 16)" in comparable(result(), picked)[1]
    text = rows(arxiv="2112.10752", dataset="MS-COCO", metric="fid", origin="own")[0]
    assert {"prompts not stated", "subset of the reference not stated"} <= set(
        comparable(result(dataset="coco", reference="coco val", of=5), text)[1]
    )


def test_the_scale_of_a_clip_score_counts() -> None:
    row = next(r for r in rows(metric="clip_score", factor="1"))
    ours = result(
        metric="clip-score(scale='hessel')", extractor="clip(architecture='ViT-L-14')", key="0", reference=None
    )
    assert "scale of the cosine 2.5 instead of 1" in comparable(ours, row)[1]
    ours = replace(ours, metric="clip-score(scale='cosine')")
    assert not any("cosine" in reason for reason in comparable(ours, row)[1])


def test_the_paper_stands_beside_a_result_with_the_verdict() -> None:
    from genbench.display import table_text
    from genbench.report import write_result

    few = result(count=1000)
    found = write_result(few)["paper"]
    assert (found["value"], found["comparable"], found["reasons"]) == (4.67, False, ["1000 instead of 50000 samples"])
    assert " 4.67 " in table_text([few]) and "CIFAR-10: 1000 instead of 50000 samples" in table_text([few])
    assert write_result(result())["paper"]["comparable"] and "yes" in table_text([result()])
    assert write_result(result(dataset="shapes"))["paper"] is None
    assert "paper" not in table_text([result(dataset="shapes")])


# Every published number, repeated exactly and with one thing changed


PLAIN = {published: name for name, published in papers.DATASETS.items()}
NAMES = {
    "fid": "fid", "sfid": "sfid", "is": "is", "precision": "precision", "recall": "recall", "density": "density",
    "coverage": "coverage", "fd_dinov2": "fd", "fd_inf_dinov2": "fid-inf", "kd_dinov2": "kid", "authpct": "authpct",
    "precision_dinov2": "precision", "recall_dinov2": "recall", "density_dinov2": "density",
    "coverage_dinov2": "coverage",
}  # fmt: skip
NEEDED = ("split", "num_reference", "resize", "scaling", "weights", "arithmetic", "neighbours", "parts", "logits")


def repeated(row: Reported) -> Result | None:
    """The result of who measures exactly as the columns say, or None where they do not say enough or forbid it."""
    stated = papers.NOT_STATED not in [getattr(row, name) for name in NEEDED]
    known = (row.dataset, row.resolution) in PLAIN and row.metric in NAMES and row.num_samples
    fit = row.subset in ("", papers.ADM_BATCH) and not row.runs.startswith("minimum") and row.logits != "biased"
    guided_otherwise = row.guidance not in ("", "none", "cfg", "classifier") or (
        row.guidance in ("cfg", "classifier") and row.guidance_scale is None
    )
    if not (stated and known and fit) or row.origin == "quoted" or row.disputed or row.prompts or row.candidates:
        return None
    if guided_otherwise or row.verified in ("digitised", "recalled"):
        return None
    name = NAMES[row.metric]
    args: dict[str, Scalar] = {}
    if row.neighbours:
        args["k"] = int(row.neighbours)
    if row.arithmetic and name in ("precision", "recall"):
        args["arithmetic"] = row.arithmetic
    if row.parts:
        args |= {"chunk": 5000} if "chunks" in row.parts else {"splits": int(row.parts)}
    if row.estimator:
        args["method"] = row.estimator
    extractor = Ref("inception", {"resize": row.resize, "scaling": row.scaling})
    if "dinov2" in row.weights:
        extractor = Ref("dinov2", {"architecture": "vit_large_patch14_dinov2", "resize": row.resize})
    dataset = PLAIN[row.dataset, row.resolution or 0]
    model = "m:n" if row.guidance_scale is None else f"m:n(scale={row.guidance_scale!r})"
    return result(
        metric=str(Ref(name, args)),
        extractor=str(extractor),
        model=model,
        dataset=dataset,
        count=row.num_samples or 0,
        reference=f"{dataset} {row.split}" if row.split else None,
        of=int(row.num_reference) if row.num_reference else None,
        quantise="truncate" if row.quantise == "truncate" else "round",
    )


@pytest.mark.slow
def test_whoever_repeats_a_stated_protocol_is_comparable_and_nobody_else() -> None:
    exact = {row: ours for row in reported() if (ours := repeated(row)) is not None}
    assert len(exact) > 500 and {row.metric for row in exact} == set(NAMES)
    for row, ours in exact.items():
        assert comparable(ours, row) == (True, ()), (row, ours)
    kinds = {(row.metric, row.dataset, *(getattr(row, name) for name in papers.PROTOCOL)): row for row in exact}
    for row in kinds.values():
        ours = exact[row]
        assert ours.spec is not None
        wrong = [
            replace(ours, generated=replace(ours.generated, count=(ours.generated.count or 0) - 1)),
            replace(ours, extractor_key="0" * 16),
            replace(ours, extractor_key=None),
            replace(ours, extractor=str(ours.extractor).replace(row.resize, "lanczos")),
            replace(ours, extractor="compact"),
            replace(ours, extractor=None),
            replace(ours, metric="vendi"),
            replace(ours, spec=replace(ours.spec, dataset=Ref("shapes"))),
            replace(ours, spec=replace(ours.spec, precision="bfloat16")),
            replace(ours, spec=replace(ours.spec, model=Ref("ddim", {"weights": "ema.pt"}))),
        ]
        if row.num_reference:
            assert ours.reference is not None
            wrong += [
                replace(ours, reference=replace(ours.reference, count=int(row.num_reference) // 2)),
                replace(ours, reference=replace(ours.reference, count=None)),
                replace(ours, reference=replace(ours.reference, name=f"{ours.spec.dataset} elsewhere")),
            ]
        if row.guidance in ("cfg", "classifier"):
            wrong += [replace(ours, spec=replace(ours.spec, model=Ref("m:n", a))) for a in ({}, {"scale": 99.0})]
        if row.neighbours:
            wrong.append(replace(ours, metric=ours.metric.replace(f"k={row.neighbours}", "k=4")))
        if row.parts:
            wrong += [replace(ours, metric=f"is(splits={n})") for n in (1, 2, 50)]
            wrong.append(replace(ours, metric="is(chunk=100)"))
        for other in wrong:
            assert not comparable(other, row)[0], (row, other)


@pytest.mark.parametrize("column", NEEDED)
def test_what_is_not_stated_is_a_reason(column: str) -> None:
    row, ours = next((r, o) for r in reported() if getattr(r, column) and (o := repeated(r)) is not None)
    verdict, reasons = comparable(ours, replace(row, **{column: papers.NOT_STATED}))  # type: ignore[arg-type]
    assert not verdict and len(reasons) == 1 and "not stated" in reasons[0]


# The page


def test_the_page_explains_every_column_and_counts_right() -> None:
    from genbench.report import COLUMNS as MEASURED

    page = (papers.leaderboards() / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([^`]+)`", re.sub("(?s)```.*?```", "", page)))
    assert set(COLUMNS) <= named
    assert set(MEASURED) <= named
    for tier, count in Counter(r.verified for r in reported()).items():
        assert f"| `{tier}` | {count} |" in page
