"""Published architectures as data, in the argument names of the repositories that published them.

Every entry can be held against its source word by word; `baselines.architectures` says what the arguments mean. Nothing
here needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A published architecture.

    Attributes:
        arguments: in the names of the repository that published it, see `baselines.architectures.architecture`.
        parameters: in millions, as printed in the source or counted from its code; the tests count this package's.
        source: where the arguments stand.
    """

    arguments: Mapping[str, Any] = field(repr=False)
    parameters: float
    source: str


def _ddim(resolution: int, multipliers: Sequence[int], *, dropout: float = 0.0) -> dict[str, Any]:
    return {
        "data": {"image_size": resolution},
        "model": {
            "type": "simple", "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": multipliers, "num_res_blocks": 2,
            "attn_resolutions": [16], "dropout": dropout, "resamp_with_conv": True,
        },
    }  # fmt: skip


def _classifier(size: int, depth: int = 2) -> Configuration:
    parameters = {64: 65.44, 128: 42.57, 256: 54.10, 512: 54.45}[size]
    return Configuration(
        arguments={"image_size": size, "classifier_depth": depth}, parameters=parameters, source=_ADM + ", classifiers"
    )


def _autoencoder(
    embed: int, multipliers: Sequence[int], attention: Sequence[int], codes: int = 0, **more: Any
) -> dict[str, Any]:
    ddconfig = {
        "double_z": not codes, "z_channels": embed, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": multipliers, "num_res_blocks": 2, "attn_resolutions": attention, "dropout": 0.0, **more,
    }  # fmt: skip
    return {"embed_dim": embed, "ddconfig": ddconfig} | ({"n_embed": codes} if codes else {})


_DDIM = "ermongroup/ddim configs/"
_IDDPM = "openai/improved-diffusion README.md, models and hyperparameters; Nichol and Dhariwal 2021"
_ADM = "openai/guided-diffusion README.md; Dhariwal and Nichol 2021 App. I"
_LDM = "CompVis/latent-diffusion "
_ADM_FLAGS = {
    "attention_resolutions": "32,16,8",
    "learn_sigma": True,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
}
_IDDPM_FLAGS = {"num_res_blocks": 3, "learn_sigma": True}
_ADM_256 = _ADM_FLAGS | {"image_size": 256, "num_channels": 256, "num_head_channels": 64}
_LDM_VQ4 = {
    "image_size": 64, "in_channels": 3, "out_channels": 3, "model_channels": 224, "attention_resolutions": [8, 4, 2],
    "num_res_blocks": 2, "channel_mult": [1, 2, 3, 4], "num_head_channels": 32,
}  # fmt: skip
_LDM_TEXT = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2, "channel_mult": [1, 2, 4, 4], "num_heads": 8, "use_spatial_transformer": True,
    "transformer_depth": 1, "context_dim": 1280, "use_checkpoint": True, "legacy": False,
}  # fmt: skip

CONFIGURATIONS: dict[str, Configuration] = {
    "ddpm-cifar10": Configuration(
        arguments=_ddim(32, [1, 2, 2, 2], dropout=0.1),
        parameters=35.75,
        source=_DDIM + "cifar10.yml; Ho et al. 2020 App. B",
    ),
    "ddim-celeba64": Configuration(
        arguments=_ddim(64, [1, 2, 2, 2, 4], dropout=0.1),
        parameters=78.70,
        source=_DDIM + "celeba.yml; Song et al. 2021 App. D",
    ),
    "ddpm-256": Configuration(
        arguments=_ddim(256, [1, 1, 2, 2, 4, 4]),
        parameters=113.67,
        source=_DDIM + "bedroom.yml, church.yml; Ho et al. 2020 App. B",
    ),
    "iddpm-cifar10": Configuration(
        arguments=_IDDPM_FLAGS | {"image_size": 32, "num_channels": 128, "dropout": 0.3},
        parameters=52.55,
        source=_IDDPM,
    ),
    "iddpm-imagenet64": Configuration(
        arguments=_IDDPM_FLAGS | {"image_size": 64, "num_channels": 128}, parameters=121.06, source=_IDDPM
    ),
    "iddpm-imagenet64-conditional": Configuration(
        arguments=_IDDPM_FLAGS | {"image_size": 64, "num_channels": 192, "class_cond": True},
        parameters=273.05,
        source=_IDDPM,
    ),
    "iddpm-lsun256": Configuration(
        arguments={
            "image_size": 256, "num_channels": 128, "num_res_blocks": 2, "num_heads": 1, "learn_sigma": True,
            "use_scale_shift_norm": False, "attention_resolutions": "16",
        },
        parameters=113.68,
        source=_IDDPM,
    ),
    "adm-imagenet64": Configuration(
        arguments=_ADM_FLAGS | {
            "image_size": 64, "num_channels": 192, "num_res_blocks": 3, "num_head_channels": 64, "dropout": 0.1,
            "class_cond": True, "use_new_attention_order": True,
        },
        parameters=295.90,
        source=_ADM,
    ),
    "adm-imagenet128": Configuration(
        arguments=_ADM_FLAGS | {"image_size": 128, "num_channels": 256, "num_heads": 4, "class_cond": True},
        parameters=421.53,
        source=_ADM,
    ),
    "adm-imagenet256": Configuration(arguments=_ADM_256 | {"class_cond": True}, parameters=553.84, source=_ADM),
    "iddpm-imagenet64-256": Configuration(
        arguments={
            "large_size": 256, "small_size": 64, "num_channels": 192, "num_res_blocks": 2, "learn_sigma": True,
            "class_cond": True,
        },
        parameters=279.79,
        source=_IDDPM + ", upsample_cond_500K",
    ),
    "adm-imagenet256-unconditional": Configuration(arguments=_ADM_256, parameters=552.81, source=_ADM),
    "adm-lsun256": Configuration(arguments=_ADM_256 | {"dropout": 0.1}, parameters=552.81, source=_ADM),
    "adm-imagenet512": Configuration(
        arguments=_ADM_256 | {"image_size": 512, "class_cond": True}, parameters=559.00, source=_ADM
    ),
    "adm-u-64-256": Configuration(
        arguments=_ADM_FLAGS | {
            "large_size": 256, "small_size": 64, "num_channels": 192, "num_heads": 4, "class_cond": True,
        },
        parameters=311.80,
        source=_ADM,
    ),
    "adm-u-128-512": Configuration(
        arguments=_ADM_FLAGS | {
            "large_size": 512, "small_size": 128, "num_channels": 192, "num_head_channels": 64, "class_cond": True,
            "attention_resolutions": "32,16",
        },
        parameters=308.84,
        source=_ADM,
    ),
    "adm-classifier64": _classifier(64, depth=4),
    "adm-classifier128": _classifier(128),
    "adm-classifier256": _classifier(256),
    "adm-classifier512": _classifier(512),
    "ldm-4-imagenet256": Configuration(
        arguments=_LDM_VQ4 | {
            "model_channels": 192, "channel_mult": [1, 2, 3, 5], "num_head_channels": -1, "num_heads": 1,
            "use_spatial_transformer": True, "transformer_depth": 1, "context_dim": 512,
        },
        parameters=400.92,
        source=_LDM + "configs/latent-diffusion/cin256-v2.yaml",
    ),
    "ldm-8-imagenet256": Configuration(
        arguments={
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 256,
            "attention_resolutions": [4, 2, 1], "num_res_blocks": 2, "channel_mult": [1, 2, 4], "num_head_channels":
            32, "use_spatial_transformer": True,
            "transformer_depth": 1, "context_dim": 512,
        },
        parameters=394.98,
        source=_LDM + "configs/latent-diffusion/cin-ldm-vq-f8.yaml",
    ),
    "ldm-4": Configuration(
        arguments=_LDM_VQ4,
        parameters=274.06,
        source=_LDM + "configs/latent-diffusion/{celebahq,ffhq,lsun_bedrooms}-ldm-vq-4.yaml",
    ),
    "ldm-8-churches": Configuration(
        arguments={
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 192,
            "attention_resolutions": [1, 2, 4, 8], "num_res_blocks": 2, "channel_mult": [1, 2, 2, 4, 4], "num_heads":
            8, "use_scale_shift_norm": True,
            "resblock_updown": True,
        },
        parameters=294.97,
        source=_LDM + "configs/latent-diffusion/lsun_churches-ldm-kl-8.yaml",
    ),
    "ldm-8-text": Configuration(
        arguments=_LDM_TEXT, parameters=872.30, source=_LDM + "configs/latent-diffusion/txt2img-1p4B-eval.yaml"
    ),
    "stable-diffusion-v1": Configuration(
        arguments=_LDM_TEXT | {"context_dim": 768},
        parameters=859.52,
        source="CompVis/stable-diffusion configs/stable-diffusion/v1-inference.yaml",
    ),
    "stable-diffusion-v1-text-encoder": Configuration(
        arguments={
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
            "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
        },
        parameters=123.06,
        source="huggingface.co/CompVis/stable-diffusion-v1-4 text_encoder/config.json: that of CLIP ViT-L/14",
    ),
    "ldm-4-imagenet256-labels": Configuration(
        arguments={"n_classes": 1001, "embed_dim": 512},
        parameters=0.51,
        source=_LDM + "configs/latent-diffusion/cin256-v2.yaml, cond_stage_config",
    ),
    "ldm-8-imagenet256-labels": Configuration(
        arguments={"n_classes": 1000, "embed_dim": 512},
        parameters=0.51,
        source=_LDM + "configs/latent-diffusion/cin-ldm-vq-f8.yaml, cond_stage_config",
    ),
    "ldm-8-text-encoder": Configuration(
        arguments={"n_embed": 1280, "n_layer": 32},
        parameters=542.90,
        source=_LDM + "configs/latent-diffusion/txt2img-1p4B-eval.yaml, cond_stage_config",
    ),
    "vq-f4": Configuration(
        arguments=_autoencoder(3, [1, 2, 4], [], 8192),
        parameters=55.32,
        source=_LDM + "models/first_stage_models/vq-f4/config.yaml",
    ),
    "vq-f4-noattn": Configuration(
        arguments=_autoencoder(3, [1, 2, 4], [], 8192, attn_type="none"),
        parameters=53.22,
        source=_LDM + "models/first_stage_models/vq-f4-noattn/config.yaml",
    ),
    "vq-f8": Configuration(
        arguments=_autoencoder(4, [1, 2, 2, 4], [32], 16384),
        parameters=67.72,
        source=_LDM + "models/first_stage_models/vq-f8/config.yaml",
    ),
    "vq-f8-n256": Configuration(
        arguments=_autoencoder(4, [1, 2, 2, 4], [32], 256),
        parameters=67.65,
        source=_LDM + "models/first_stage_models/vq-f8-n256/config.yaml",
    ),
    "vq-f16": Configuration(
        arguments=_autoencoder(8, [1, 1, 2, 2, 4], [16], 16384),
        parameters=69.59,
        source=_LDM + "models/first_stage_models/vq-f16/config.yaml",
    ),
    "kl-f4": Configuration(
        arguments=_autoencoder(3, [1, 2, 4], []),
        parameters=55.31,
        source=_LDM + "models/first_stage_models/kl-f4/config.yaml",
    ),
    "kl-f8": Configuration(
        arguments=_autoencoder(4, [1, 2, 4, 4], []),
        parameters=83.65,
        source=_LDM + "models/first_stage_models/kl-f8/config.yaml",
    ),
    "kl-f16": Configuration(
        arguments=_autoencoder(16, [1, 1, 2, 2, 4], [16]),
        parameters=69.61,
        source=_LDM + "models/first_stage_models/kl-f16/config.yaml",
    ),
    "kl-f32": Configuration(
        arguments=_autoencoder(64, [1, 1, 2, 2, 4, 4], [16, 8]),
        parameters=103.88,
        source=_LDM + "models/first_stage_models/kl-f32/config.yaml",
    ),
}  # fmt: skip
"""Name to published architecture."""


def arguments_of(configuration: str) -> Mapping[str, Any]:
    """The arguments of a published configuration by its name, or those in a .json file of the user.

    Raises:
        ValueError: neither.
    """
    if configuration in CONFIGURATIONS:
        return CONFIGURATIONS[configuration].arguments
    path = Path(configuration).expanduser()
    if path.suffix == ".json" and path.is_file():
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}).") from error
        if isinstance(told, dict):
            return told
        raise ValueError(f'{path} holds no arguments by name, such as {{"image_size": 64, "num_channels": 128}}.')
    raise ValueError(
        f"No configuration named {configuration!r}, and no .json file of arguments; there are "
        f"{', '.join(CONFIGURATIONS)}."
    )
