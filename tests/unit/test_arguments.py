"""What arguments of the original repositories mean, and which are refused."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from baselines.files import catalogue
from baselines.files.arguments import Architecture, ConfigurationError, architecture
from baselines.networks.autoencoder import AutoencoderConfig
from baselines.networks.classifier import ClassifierConfig
from baselines.networks.unet import UNetConfig

VQ_F4 = catalogue.configurations()["vq-f4"].arguments


def unet(config: Any) -> UNetConfig:
    network = architecture(config).network
    assert isinstance(network, UNetConfig)
    return network


def test_ddpm_of_the_yaml_is_the_default_network() -> None:
    # `stem` only says once more what the first level has.
    network = unet("ddpm-cifar10")
    assert network == UNetConfig(dropout=0.1, stem=128)


def test_adm_64_and_consistency_models_alone_have_queries_first() -> None:
    first = [name for name in catalogue.configurations() if architecture(name).qkv == "qkv_first"]
    assert first == ["adm-imagenet64", "consistency-imagenet64", "consistency-lsun256"]


def test_attention_resolutions_become_factors() -> None:
    assert unet("adm-imagenet512").attention == (16, 32, 64)
    assert unet("adm-u-128-512").attention == (16, 32)
    assert unet("ldm-4").attention == (8, 4, 2)
    classifier = architecture("adm-classifier128").network
    assert isinstance(classifier, ClassifierConfig)
    assert classifier.trunk.attention == (4, 8, 16)
    vq = architecture("vq-f8").network
    assert isinstance(vq, AutoencoderConfig)
    assert vq.attention == (8,)


def test_the_512_upsampler_has_the_multipliers_of_256() -> None:
    assert unet("adm-u-128-512").multipliers == (1, 1, 2, 2, 4, 4)
    assert unet("adm-imagenet512").multipliers == (0.5, 1, 1, 2, 2, 4, 4)


def test_a_pooled_encoder_and_its_u_net_are_told_apart_by_the_file() -> None:
    both = {"image_size": 64, "num_channels": 128, "classifier_width": 128}
    assert isinstance(architecture(both, keys=["input_blocks.0.0.weight"]).network, ClassifierConfig)
    assert isinstance(architecture(both, keys=["input_blocks.0.0.weight", "output_blocks.0.0"]).network, UNetConfig)
    assert isinstance(architecture({"image_size": 64}, keys=["input_blocks.0.0.weight"]).network, ClassifierConfig)
    assert isinstance(architecture({"image_size": 64}).network, UNetConfig)


def test_a_configuration_passes_through_unchanged() -> None:
    config = UNetConfig(width=32)
    assert architecture(config) == Architecture(network=config)
    found = Architecture(network=config, qkv="qkv_first")
    assert architecture(found) is found


def test_flat_arguments_of_autoencoders_and_of_ddpm() -> None:
    nested = catalogue.configurations()["kl-f8"].arguments
    flat = {**nested["ddconfig"], "embed_dim": 4}
    assert architecture(flat) == architecture("kl-f8")
    model = dict(catalogue.configurations()["ddpm-256"].arguments["model"])
    assert architecture(model | {"resolution": 256}) == architecture("ddpm-256")


def test_widths_of_diffusers_survive_as_multipliers() -> None:
    # In floating point, 54 / 98 * 98 is below 54, and the integer part of it 53.
    widths = [98, 54, 32, 196, 441]
    assert int(54 / 98 * 98) == 53
    config = {
        "block_out_channels": widths, "norm_num_groups": 2, "down_block_types": ["DownBlock2D"] * 5,
        "up_block_types": ["UpBlock2D"] * 5,
    }  # fmt: skip
    network = unet(config)
    assert [int(m * network.width) for m in network.multipliers] == widths


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("adm-imagenet46", "Did you mean 'adm-imagenet64'"),
        ({"num_channels": 32, "num_head_channel": 64}, "no argument 'num_head_channel'. Did you mean 'num_head_chan"),
        ({"num_channels": 32, "image_size": 100}, "image_size=100 has no default channel_mult"),
        ({"num_channels": 32, "class_cond": "maybe"}, "Cannot read 'maybe'"),
        ({"image_size": 64, "classifier_pool": "max"}, "No pooling 'max'"),
        ({"model_channels": 32, "in_channels": 3}, "UNetModel needs the argument 'out_channels'"),
        (dict(catalogue.configurations()["ldm-4"].arguments) | {"dims": 3}, "dims=3 is not implemented, only with 2"),
        (dict(catalogue.configurations()["ldm-4"].arguments) | {"context_dim": 5}, "contradicts context_dim=5"),
        (dict(catalogue.configurations()["ldm-4"].arguments) | {"n_embed": 5}, "n_embed=5 is not implemented"),
        ({"params": {"unet_config": {}}, "target": "ldm.LatentDiffusion"}, "whole latent diffusion model"),
        ({"embed_dim": 4, "ddconfig": VQ_F4["ddconfig"]}, "double_z=False does not go"),
        ({"num_hidden_layers": 2, "intermediate_size": 100}, "intermediate_size=100 of hidden_size=512"),
        ({"_class_name": "UNet2DModel", "add_attention": False}, "add_attention=False is not implemented"),
        ({"_class_name": "UNet1DModel"}, "'UNet1DModel' of diffusers is not implemented"),
        ({"_class_name": "UNet2DModel", "freq_shift": 1}, "freq_shift=1"),
        ({"_class_name": "UNet2DModel", "resnet_time_scale_shift": "scale_shift"}, "attn_norm_num_groups=32"),
        ({"_class_name": "UNet2DModel", "down_block_types": ["KDownBlock2D"] * 4}, "the block 'KDownBlock2D'"),
        ({"_class_name": "UNet2DModel", "up_block_types": ["UpBlock2D"] * 4}, "the same ones down and up"),
        ({"_class_name": "UNet2DConditionModel", "attention_head_dim": [5, 5, 5, 5]}, "heads of one width"),
        ({"_class_name": "UNet2DConditionModel", "cross_attention_dim": [5, 6, 5, 5]}, "one value for all levels"),
    ],
)  # fmt: skip
def test_what_is_not_implemented_is_refused(config: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        architecture(config)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


SONG = {"model_type": "SongUNet", "img_resolution": 24, "attn_resolutions": [16, 12, 7, 3]}


def test_sides_that_no_feature_map_has_mean_nothing() -> None:
    """EDM and Score SDE compare sides; 24 // 16 = 1, and there is no attention on whole images for that."""
    nested = {"model": {"name": "ncsnpp", "attn_resolutions": [16, 12, 7, 3]}, "data": {"image_size": 24}}
    for arguments in (SONG, SONG | {"model_type": "DhariwalUNet"}, nested):
        network: Any = architecture(arguments).network
        assert network.attention == (2, 8)


@pytest.mark.parametrize(
    "arguments",
    [
        SONG | {"channel_mult": 5},
        SONG | {"attn_resolutions": None},
        SONG | {"attn_resolutions": ["a"]},
        {"class_name": "EDMPrecond", "init_kwargs": [1]},
        {"sde": "cld", "ch_mult": "1,b"},
        {"model": {"ngf": 8}, "data": 3},
        {"model": {"name": "ncsnpp"}, "data": {"image_size": "x"}},
        {"image_size": 64, "num_res_blocks": "two"},
    ],
)
def test_values_of_another_type_are_refused_in_words(arguments: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read \("):
        architecture(arguments)


def test_arguments_of_processes_and_scripts_do_not_matter() -> None:
    arguments = dict(catalogue.configurations()["adm-imagenet128"].arguments)
    scripts = {
        "use_fp16": True, "diffusion_steps": 1000, "noise_schedule": "linear", "timestep_respacing": "250",
        "use_ddim": False, "classifier_scale": 0.5, "num_samples": 50000, "rescale_learned_sigmas": False,
        "use_kl": False,
    }  # fmt: skip
    assert architecture(arguments | scripts) == architecture(arguments)


def test_cards_name_configurations_and_addresses() -> None:
    # Several files of one archive or folder are told apart by their names in it.
    assert len(catalogue.files()) == len({(card.url, card.member) for card in catalogue.files().values()})
    for name, card in catalogue.files().items():
        assert card.name == name
        assert card.url.startswith("https://")
        assert card.networks.keys() <= {"unet", "classifier", "first_stage", "condition"}
        for digest, length in ((card.md5, 32), (card.sha256, 64)):
            assert digest is None or (len(digest) == length and int(digest, 16) >= 0)
        assert all(isinstance(architecture(configuration), Architecture) for configuration in card.networks.values())


def test_estimated_sizes_are_near_the_known_ones() -> None:
    # `cin/model.ckpt` is 1.7 GiB; the text-to-image file, 5.7 GiB, also has the output layer that is not used.
    assert round(catalogue.files()["ldm-imagenet256"].estimated_bytes / 2**30, 1) == 1.7
    unused = 4 * 1281 * 30522
    assert round((catalogue.files()["ldm-text"].estimated_bytes + unused) / 2**30, 1) == 5.7


def test_records_need_no_torch() -> None:
    code = "import sys, baselines.records, baselines.schedules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
