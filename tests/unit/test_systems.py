"""Releases and presets as data: every name leads somewhere, and what is said of a file fits its network."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from baselines.files import cards, catalogue
from baselines.files.arguments import training
from baselines.files.loading import of_file
from baselines.files.weights import network_of
from baselines.networks.autoencoder import AutoencoderConfig
from baselines.networks.classifier import ClassifierConfig
from baselines.networks.ncsnpp import NCSNppConfig
from baselines.networks.refinenet import RefineNetConfig
from baselines.networks.transformer import LabelTokensConfig, TextEncoderConfig
from baselines.networks.unet import UNetConfig
from baselines.records import Release
from baselines.schedules import Discrete
from baselines.systems import ddim
from genbench import papers, protocols, registry, requests
from genbench.records import Ref

LOADERS = {name: registry.get("model", name) for name in registry.BUILTIN["model"] if name != "diffusers"}
PRESETS = [(name, data) for name, loader in LOADERS.items() for data in loader.presets]
WHERE = {"device": "cpu", "precision": "float32"}
RELEASES = catalogue.releases()


def network(release: Release, role: str) -> object:
    return network_of(release.parts[role], role)


def configuration(release: Release, role: str) -> object:
    return catalogue.configuration_of(release.parts[role], role)


@pytest.mark.parametrize("name", [name for name in RELEASES if not name.startswith("shapes-")])
def test_networks_fit_what_is_said_of_the_release(name: str) -> None:
    release = RELEASES[name]
    channels = release.state[0]
    for role in ("unet", "unconditional"):
        if role not in release.parts:
            continue
        part, unet = release.parts[role], network(release, role)
        if isinstance(unet, NCSNppConfig | RefineNetConfig):
            told = training(configuration(release, role))
            assert told is not None and unet.channels == channels * (2 if part.kind == "velocity" else 1)
            assert (told.process, told.kind, told.side) == (part.process, part.kind, release.shape[1])
            return
        assert isinstance(unet, UNetConfig) and unet.in_channels == channels
        assert unet.out_channels == channels * (2 if part.learned_variance else 1)
        assert unet.low_resolution == name.startswith("adm-u-")
        # What the published arguments say of the process is what the release says.
        told = training(configuration(release, role))
        if told is not None:
            assert (told.process, told.kind, told.side) == (part.process, part.kind, release.shape[1])
            assert told.learned_variance == part.learned_variance
    unet = network(release, "unet")
    assert isinstance(unet, UNetConfig)
    if release.latent is None:
        conditional = name != "adm-imagenet256-unconditional" and release.classes
        assert unet.classes == (release.classes if conditional else None)
    else:
        stage = network(release, "first_stage")
        assert isinstance(stage, AutoencoderConfig)
        assert stage.code_channels == channels and 2 ** (len(stage.multipliers) - 1) == release.latent.factor
    if "classifier" in release.parts:
        classifier = network(release, "classifier")
        assert isinstance(classifier, ClassifierConfig)
        assert (classifier.classes, classifier.image_size) == (release.classes, release.shape[1])
    if "condition" in release.parts:
        condition = network(release, "condition")
        assert isinstance(condition, LabelTokensConfig | TextEncoderConfig) and condition.width == unet.context
        if isinstance(condition, LabelTokensConfig):
            assert condition.classes == release.classes + (release.null is not None)
    assert all(file in catalogue.files() for file in release.files)


@pytest.mark.parametrize(("model", "dataset"), PRESETS)
def test_every_preset_makes_a_model_and_its_paper_has_numbers(model: str, dataset: str) -> None:
    loader = LOADERS[model]
    preset = loader.presets[dataset]
    made = loader(dataset=dataset, **WHERE, **preset.arguments)
    assert made.shape == preset.release.shape
    if model in ("ddpm", "ddim", "cfg", "adm-g", "adm-u", "ldm"):
        steps = inspect.signature(loader).parameters["steps"].default
        guided = model in ("cfg", "ldm") and preset.arguments.get("scale", 1.5) != 1
        expected = preset.arguments.get("steps", steps) * (2 if guided else 1) + (250 if model == "adm-u" else 0)
        # Two of the quadratic timesteps of CIFAR-10 coincide.
        assert made.evaluations == expected - ((model, dataset) == ("ddim", "cifar10"))
    else:
        assert made.evaluations is None or made.evaluations >= 1
    assert dataset in registry.table("dataset"), "the images of the papers have a data set of that name"
    if preset.protocol is not None:
        assert preset.protocol in protocols.PROTOCOLS and preset.source
    published = dataset != "shapes" and (model, dataset) not in {("cfg", "imagenet256"), ("ddpm", "celebahq")}
    if published:
        _, ref = registry.bind("model", Ref(model, dict(preset.arguments)))
        row = papers.lookup(ref, "fid", dataset)
        assert row is not None and papers.DATASETS[papers._plain(dataset)] == (row.dataset, row.resolution)


def test_arguments_of_presets_select_the_rows_of_the_papers() -> None:
    def row(model: str, dataset: str) -> float:
        _, ref = registry.bind("model", Ref(model, dict(LOADERS[model].presets[dataset].arguments)))
        found = papers.lookup(ref, "fid", dataset)
        assert found is not None
        # Not the row that stands in where none has these arguments.
        assert found.steps in (None, ref.args["steps"])
        if "scale" in ref.args:
            unguided = 0.0 if model.startswith("adm") else 1.0
            known = found.guidance_scale is not None or found.guidance == "none"
            assert not known or ref.args["scale"] == (found.guidance_scale or unguided)
        return found.value

    assert [row("ddpm", "cifar10"), row("ddim", "cifar10"), row("ddim", "celeba")] == [3.17, 4.67, 9.17]
    assert [row("ddpm", f"lsun-{kind}") for kind in ("bedroom", "cat", "church")] == [6.36, 19.75, 7.89]
    assert [row("adm-g", f"imagenet{side}") for side in (64, 128, 256, 512)] == [2.07, 2.97, 4.59, 7.72]
    assert [row("adm-u", f"imagenet{side}") for side in (256, 512)] == [3.94, 3.85]
    assert [row("adm-g", f"lsun-{kind}") for kind in ("bedroom", "cat", "horse")] == [1.90, 5.57, 2.57]
    assert [row("ldm", data) for data in ("imagenet256", "celebahq", "ffhq", "coco")] == [3.60, 5.11, 4.98, 12.63]
    assert row("cfg", "imagenet64") == 1.55


def test_rows_of_score_models_and_of_edm() -> None:
    def row(model: str, dataset: str, **arguments: str | int) -> float:
        preset = LOADERS[model].presets[dataset]
        _, ref = registry.bind("model", Ref(model, dict(preset.arguments) | arguments))
        found = papers.lookup(ref, "fid", dataset)
        assert found is not None
        return found.value

    assert (row("edm", "cifar10"), row("edm", "imagenet64")) == (1.97, 1.36)
    assert (row("cld", "cifar10"), row("cld", "cifar10", sampler="ode")) == (2.25, 2.25)
    assert row("cld", "cifar10", sampler="euler-maruyama", striding="linear") == 3.96
    assert (row("ncsn", "cifar10"), row("ncsn", "cifar10", version=1), row("ncsn", "celeba")) == (10.87, 25.32, 10.23)
    assert row("score-sde", "cifar10") == 2.38
    assert row("score-sde", "cifar10", weights="ncsnpp-discrete-cifar10") == 2.45
    discrete = {"weights": "ddpmpp-discrete-cifar10", "process": "vp", "sampler": "ancestral"}
    assert row("score-sde", "cifar10", **discrete) == 2.78


@pytest.mark.parametrize(
    ("model", "dataset", "name"),
    [
        ("cld", "cifar10", "cld-cifar10"),
        ("ncsn", "celeba", "ncsnv2-celeba"),
        ("edm", "imagenet64", "edm-imagenet64-cond-adm"),
    ],
)
def test_a_path_alone_is_the_network_of_the_paper_on_its_data_set(model: str, dataset: str, name: str) -> None:
    base = LOADERS[model].presets[dataset].release
    own = of_file("mine.pth", None, base=base)
    assert configuration(own, "unet") == name and own.files == ("mine.pth",)
    assert own.parts["unet"].process == RELEASES[name].parts["unet"].process
    assert LOADERS[model](dataset=dataset, weights="mine.pth", **WHERE).shape == RELEASES[name].shape


def test_the_rule_from_floats_to_8_bits_is_that_of_the_paper() -> None:
    """Latent diffusion truncates although the protocol of its data set rounds."""
    assert protocols.protocol("tf1").quantise == "round"
    assert requests.of_run("ldm", dataset="celebahq").spec.quantise == "truncate"
    assert requests.of_run("ldm", dataset="celebahq", quantise="round").spec.quantise == "round"
    assert requests.of_run("ddim", dataset="celeba").spec.quantise == "round"


@pytest.mark.parametrize("model", LOADERS)
def test_arguments_of_presets_are_parameters_of_the_loader(model: str) -> None:
    taken = set(inspect.signature(LOADERS[model]).parameters)
    for preset in LOADERS[model].presets.values():
        assert set(preset.arguments) <= taken


def test_a_file_of_ones_own_takes_the_place_of_the_published_one() -> None:
    base = RELEASES["adm-imagenet256"]
    own = of_file("mine.pt", None, base=base)
    assert {role: part.file for role, part in own.parts.items()} == {
        "unet": "mine.pt", "classifier": "adm-256x256-classifier"
    }  # fmt: skip
    assert configuration(own, "unet") == "adm-imagenet256"
    assert own.parts["unet"].process == base.parts["unet"].process
    other = of_file("mine.pt", "adm-imagenet256-unconditional", base=base)
    assert configuration(other, "unet") == "adm-imagenet256-unconditional"
    assert configuration(other, "classifier") == "adm-classifier256" and other.classes == 1000

    whole = of_file("mine.ckpt", None, base=RELEASES["ldm-imagenet256"])
    assert set(whole.files) == {"mine.ckpt"}
    roles = ("ldm-4-imagenet256", "vq-f4", "ldm-4-imagenet256-labels")
    assert tuple(configuration(whole, role) for role in ("unet", "first_stage", "condition")) == roles


def test_a_named_configuration_brings_its_process_its_size_and_its_classes() -> None:
    for base in (None, RELEASES["ddpm-cifar10"], RELEASES["adm-imagenet64"]):
        own = of_file("mine.pt", "iddpm-imagenet64-conditional", base=base)
        assert (own.shape, own.classes, set(own.parts)) == ((3, 64, 64), 1000, {"unet"})
        part = own.parts["unet"]
        assert part.process is not None and part.learned_variance
        assert (part.process.schedule, part.process.steps, part.process.told) == ("cosine", 4000, 1.0)
        plain = of_file("mine.pt", "ddpm-cifar10", base=base)
        assert (plain.shape, plain.classes) == ((3, 32, 32), 0)
        assert plain.parts["unet"].process == Discrete() and not plain.parts["unet"].learned_variance
        vlb = of_file("iddpm-cifar10-uncond-vlb-50M-500K", None, base=base).parts["unet"]
        assert vlb.process is not None and vlb.learned_variance
        assert (vlb.process.schedule, vlb.process.steps, vlb.process.told) == ("cosine", 4000, 0.25)
    assert of_file("adm-lsun-cat", None, base=None) == RELEASES["adm-lsun-cat"]
    assert of_file("mine.ckpt", "ldm-4", base=None).latent == RELEASES["ldm-celebahq"].latent
    with pytest.raises(ValueError, match="name its configuration"):
        of_file("mine.pt", None, base=None)
    with pytest.raises(ValueError, match="No configuration named 'adm'"):
        of_file("mine.pt", "adm", base=None)
    with pytest.raises(ValueError, match="alone makes no model"):
        of_file("mine.ckpt", "kl-f8", base=None)


def test_a_file_with_a_card_beside_it_needs_nothing_else(tmp_path: Path) -> None:
    told = cards.description("shapes-pixel") | {"name": "mine", "file": "mine.safetensors"}
    (tmp_path / "mine.json").write_text(json.dumps(told))
    path = str(tmp_path / "mine.safetensors")
    assert cards.described(path) and not cards.described(str(tmp_path / "other.safetensors"))
    found, shipped = cards.release(path), cards.release("shapes-pixel")
    assert (found.shape, found.null) == (shipped.shape, shipped.null)
    assert found.parts["unet"].process == shipped.parts["unet"].process
    with pytest.raises(FileNotFoundError, match="which is not beside it"):
        cards.file_of(path)
    assert ddim.load(dataset="folder", **WHERE, weights=path).shape == (3, 32, 32)
    del told["kind"]
    (tmp_path / "mine.json").write_text(json.dumps(told))
    assert cards.release(path) == found, "descriptions of before there were kinds are of U-Nets"
    (tmp_path / "mine.json").write_text("{}")
    with pytest.raises(ValueError, match="describes no weights: it has no file, sha256, network"):
        cards.release(path)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("ddpm", {"dataset": "moon"}, "no weights for the data set 'moon'; .*cifar10.*weights='PATH'"),
        ("ddpm", {"dataset": "cifar10", "variance": "learned"}, "needs a network that predicts it"),
        ("ddpm", {"dataset": "ffhq", "weights": "ldm-ffhq"}, "weights are of latents; use ldm"),
        ("ddpm", {"dataset": "cifar10", "config": "ddpm-cifar10"}, "give both"),
        ("cfg", {"dataset": "cifar10", "weights": "ddpm-cifar10"}, "null class, or a second"),
        ("adm-g", {"dataset": "lsun-cat", "scale": 1.0}, "no classifier .* use scale=0.0, not 1.0"),
        ("ldm", {"dataset": "ffhq", "scale": 2.0}, "no null condition .* use scale=1.0, not 2.0"),
        ("ldm", {"dataset": "ffhq", "scale": 1.0, "condition": "label"}, "auto for these weights"),
        ("ldm", {"dataset": "cifar10", "weights": "ddpm-cifar10"}, "these weights are of pixels"),
        ("ldm", {"dataset": "ffhq", "scale": 1.0, "last": "second"}, "last is clean or first"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(
    model: str, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LOADERS[model](**WHERE, **arguments)  # type: ignore[arg-type]


def test_published_parameters_are_sizes() -> None:
    millions = {name: found.parameters for name, found in catalogue.configurations().items()}
    assert catalogue.files()["adm-256x256-diffusion"].estimated_bytes == round(4e6 * millions["adm-imagenet256"])
    # The archives of latent diffusion hold the average beside the trained weights.
    both = 4e6 * (2 * millions["ldm-4"] + millions["vq-f4"])
    assert catalogue.files()["ldm-celebahq"].estimated_bytes == pytest.approx(both)
