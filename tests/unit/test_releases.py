"""Releases and presets as data: every name leads somewhere, and what is said of a file fits its network."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from baselines import models, releases
from baselines.architectures import architecture
from baselines.configurations import CONFIGURATIONS
from baselines.networks.autoencoder import AutoencoderConfig
from baselines.networks.classifier import ClassifierConfig
from baselines.networks.transformer import LabelTokensConfig, TextEncoderConfig
from baselines.networks.unet import UNetConfig
from baselines.published import PUBLISHED
from baselines.releases import RELEASES, Release
from genbench import papers, protocols, registry
from genbench.records import Ref

LOADERS = {
    "ddpm": models.ddpm, "ddim": models.ddim, "cfg": models.cfg, "adm-g": models.adm_g, "adm-u": models.adm_u,
    "ldm": models.ldm,
}  # fmt: skip
PRESETS = [(name, data) for name, loader in LOADERS.items() for data in loader.presets]  # type: ignore[attr-defined]
WHERE = {"device": "cpu", "precision": "float32"}


def network(release: Release, role: str) -> object:
    return architecture(release.configuration(role)).network


@pytest.mark.parametrize("name", RELEASES)
def test_networks_fit_what_is_said_of_the_release(name: str) -> None:
    release = RELEASES[name]
    channels = release.shape[0] if release.latent is None else release.latent.channels
    for role in ("unet", "unconditional"):
        if role in release.networks:
            unet = network(release, role)
            assert isinstance(unet, UNetConfig) and unet.in_channels == channels
            assert unet.out_channels == channels * (2 if release.process.learned_variance else 1)
            assert unet.low_resolution == name.startswith("adm-u-")
    unet = network(release, "unet")
    assert isinstance(unet, UNetConfig)
    if release.latent is None:
        conditional = name != "adm-imagenet256-unconditional" and release.classes
        assert unet.classes == (release.classes if conditional else None)
    else:
        stage = network(release, "first_stage")
        assert isinstance(stage, AutoencoderConfig)
        assert stage.code_channels == channels and 2 ** (len(stage.multipliers) - 1) == release.latent.factor
    if "classifier" in release.networks:
        classifier = network(release, "classifier")
        assert isinstance(classifier, ClassifierConfig)
        assert (classifier.classes, classifier.image_size) == (release.classes, release.shape[1])
    if "condition" in release.networks:
        condition = network(release, "condition")
        assert isinstance(condition, LabelTokensConfig | TextEncoderConfig) and condition.width == unet.context
        if isinstance(condition, LabelTokensConfig):
            assert condition.classes == release.classes + (release.null is not None)
    assert all(file in PUBLISHED for file in release.files)


@pytest.mark.parametrize(("model", "dataset"), PRESETS)
def test_every_preset_makes_a_model_and_its_paper_has_numbers(model: str, dataset: str) -> None:
    loader = LOADERS[model]
    preset = loader.presets[dataset]  # type: ignore[attr-defined]
    made = loader(dataset=dataset, **WHERE, **preset.arguments)
    assert made.shape == releases.release(preset.release).shape
    steps = (made.base.timesteps, made.upsampler.timesteps) if model == "adm-u" else (made.timesteps,)
    assert made.evaluations == sum(map(len, steps)) * (1 if getattr(made, "scale", 1.0) == 1 else 2)
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
        _, ref = registry.bind("model", Ref(model, dict(LOADERS[model].presets[dataset].arguments)))  # type: ignore[attr-defined]
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


@pytest.mark.parametrize("model", LOADERS)
def test_arguments_of_presets_are_parameters_of_the_loader(model: str) -> None:
    taken = set(inspect.signature(LOADERS[model]).parameters)
    for preset in LOADERS[model].presets.values():  # type: ignore[attr-defined]
        assert set(preset.arguments) <= taken


def test_a_file_of_ones_own_takes_the_place_of_the_published_one() -> None:
    base = releases.release("adm-imagenet256")
    own = releases.of_file("mine.pt", None, base=base)
    assert own.networks == {"unet": "mine.pt", "classifier": "adm-256x256-classifier"}
    assert own.configuration("unet") == "adm-imagenet256" and own.process == base.process
    other = releases.of_file("mine.pt", "adm-imagenet256-unconditional", base=base)
    assert other.configuration("unet") == "adm-imagenet256-unconditional"
    assert other.configuration("classifier") == "adm-classifier256"

    whole = releases.of_file("mine.ckpt", None, base=releases.release("ldm-imagenet256"))
    assert set(whole.networks.values()) == {"mine.ckpt"}
    roles = ("ldm-4-imagenet256", "vq-f4", "ldm-4-imagenet256-labels")
    assert tuple(whole.configuration(role) for role in ("unet", "first_stage", "condition")) == roles


def test_without_a_preset_the_configuration_says_what_there_is_to_know() -> None:
    own = releases.of_file("mine.pt", "iddpm-imagenet64-conditional", base=None)
    assert (own.shape, own.classes) == ((3, 64, 64), 1000)
    assert (own.process.schedule, own.process.steps, own.process.learned_variance) == ("cosine", 4000, True)
    plain = releases.of_file("mine.pt", "ddpm-cifar10", base=None)
    assert (plain.shape, plain.classes, plain.process) == ((3, 32, 32), 0, releases.Process())
    assert releases.of_file("adm-lsun-cat", None, base=None) == RELEASES["adm-lsun-cat"]
    with pytest.raises(ValueError, match="name its configuration"):
        releases.of_file("mine.pt", None, base=None)
    with pytest.raises(ValueError, match="No configuration named 'adm'"):
        releases.of_file("mine.pt", "adm", base=None)
    with pytest.raises(ValueError, match="alone makes no model"):
        releases.of_file("mine.ckpt", "ldm-4", base=None)


def test_a_file_with_a_card_beside_it_needs_nothing_else(tmp_path: Path) -> None:
    told = releases.card("shapes-pixel") | {"name": "mine", "file": "mine.safetensors"}
    (tmp_path / "mine.json").write_text(json.dumps(told))
    path = str(tmp_path / "mine.safetensors")
    assert releases.described(path) and not releases.described(str(tmp_path / "other.safetensors"))
    found = releases.release(path)
    shipped = releases.release("shapes-pixel")
    assert (found.shape, found.null, found.process) == (shipped.shape, shipped.null, shipped.process)
    with pytest.raises(FileNotFoundError, match="which is not beside it"):
        releases.file_of(path)
    assert models.ddim(dataset="folder", **WHERE, weights=path).shape == (3, 32, 32)


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
    card = PUBLISHED["adm-256x256-diffusion"]
    assert card.estimated_bytes == round(4e6 * CONFIGURATIONS["adm-imagenet256"].parameters)
