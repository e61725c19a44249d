"""Latent diffusion (Rombach et al. 2022), Stable Diffusion v1 among it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from baselines import steps as samplers
from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser
from baselines.files.cards import release as shipped
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.guidance import classifier_free
from baselines.ranges import finite
from baselines.records import Configuration, Latent, Part, Preset, PublishedFile, Release, named, sized, square
from baselines.sampling import walk
from baselines.schedules import CLEAN, Discrete, subsequence
from baselines.system import System, told


def ldm(
    weights: Weights,
    *,
    scale: float = 1.5,
    steps: int = 50,
    eta: float = 0.0,
    spacing: str = "offset",
    last: Literal["clean", "first"] = "first",
    condition: str = "auto",
) -> System:
    """Latent diffusion: DDIM in the latent space of an autoencoder, conditioned by cross-attention.

    Args:
        scale: of classifier-free guidance, as of `cfg`, 1 for networks without a condition.
        spacing, last: "offset" and "first" are those of the original code, whose last step lands on the noise level of
            timestep 0 instead of on the clean latent.
        condition: "auto" is what the weights were trained for; "label" gives a network of captions the caption that
            names only a class.

    Source: Rombach et al. 2022; CompVis/latent-diffusion `ddim.py`.
    """
    r, process = weights.release, weights.process
    finite(scale=scale)
    if last not in ("clean", "first"):
        raise ValueError(f"last is clean or first; got {last!r}.")
    if condition not in ("auto", "label") or (condition == "label" and not r.classes):
        raise ValueError(f"condition is auto{', or label' if r.classes else ' for these weights'}; got {condition!r}.")
    if scale != 1 and not r.tokenizer and r.null is None:
        raise ValueError(f"These weights have no null condition to guide with; use scale=1.0, not {scale}.")

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        context, null = told(weights, given)
        return classifier_free(weights.denoiser(), scale=scale, null=null), context

    step = samplers.ddim(eta)
    end = CLEAN if last == "clean" else process.grid([0])[0]
    grid = process.grid(subsequence(steps, process.steps, spacing), last=end)
    return System(
        weights=weights,
        sampler=walk(lambda: step, grid),
        build=build,
        takes=frozenset({"labels"}) if condition == "label" else r.takes,
    )


def _autoencoder(
    embed: int, multipliers: Sequence[int], attention: Sequence[int], codes: int = 0, **more: Any
) -> dict[str, Any]:
    ddconfig = {
        "double_z": not codes, "z_channels": embed, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
        "ch_mult": multipliers, "num_res_blocks": 2, "attn_resolutions": attention, "dropout": 0.0, **more,
    }  # fmt: skip
    return {"embed_dim": embed, "ddconfig": ddconfig} | ({"n_embed": codes} if codes else {})


_REPOSITORY = "CompVis/latent-diffusion "
_VQ4 = {
    "image_size": 64, "in_channels": 3, "out_channels": 3, "model_channels": 224, "attention_resolutions": [8, 4, 2],
    "num_res_blocks": 2, "channel_mult": [1, 2, 3, 4], "num_head_channels": 32,
}  # fmt: skip
_TEXT = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2, "channel_mult": [1, 2, 4, 4], "num_heads": 8, "use_spatial_transformer": True,
    "transformer_depth": 1, "context_dim": 1280, "use_checkpoint": True, "legacy": False,
}  # fmt: skip

CONFIGURATIONS = {
    "ldm-4-imagenet256": Configuration(
        arguments=_VQ4 | {
            "model_channels": 192, "channel_mult": [1, 2, 3, 5], "num_head_channels": -1, "num_heads": 1,
            "use_spatial_transformer": True, "transformer_depth": 1, "context_dim": 512,
        },
        parameters=400.92,
        source=_REPOSITORY + "configs/latent-diffusion/cin256-v2.yaml",
    ),
    "ldm-8-imagenet256": Configuration(
        arguments={
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 256,
            "attention_resolutions": [4, 2, 1], "num_res_blocks": 2, "channel_mult": [1, 2, 4], "num_head_channels": 32,
            "use_spatial_transformer": True, "transformer_depth": 1, "context_dim": 512,
        },
        parameters=394.98,
        source=_REPOSITORY + "configs/latent-diffusion/cin-ldm-vq-f8.yaml",
    ),
    "ldm-4": Configuration(
        arguments=_VQ4,
        parameters=274.06,
        source=_REPOSITORY + "configs/latent-diffusion/{celebahq,ffhq,lsun_bedrooms}-ldm-vq-4.yaml",
    ),
    "ldm-8-churches": Configuration(
        arguments={
            "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 192,
            "attention_resolutions": [1, 2, 4, 8], "num_res_blocks": 2, "channel_mult": [1, 2, 2, 4, 4], "num_heads": 8,
            "use_scale_shift_norm": True, "resblock_updown": True,
        },
        parameters=294.97,
        source=_REPOSITORY + "configs/latent-diffusion/lsun_churches-ldm-kl-8.yaml",
    ),
    "ldm-8-text": Configuration(
        arguments=_TEXT, parameters=872.30, source=_REPOSITORY + "configs/latent-diffusion/txt2img-1p4B-eval.yaml"
    ),
    "stable-diffusion-v1": Configuration(
        arguments=_TEXT | {"context_dim": 768},
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
        source=_REPOSITORY + "configs/latent-diffusion/cin256-v2.yaml, cond_stage_config",
    ),
    "ldm-8-imagenet256-labels": Configuration(
        arguments={"n_classes": 1000, "embed_dim": 512},
        parameters=0.51,
        source=_REPOSITORY + "configs/latent-diffusion/cin-ldm-vq-f8.yaml, cond_stage_config",
    ),
    "ldm-8-text-encoder": Configuration(
        arguments={"n_embed": 1280, "n_layer": 32},
        parameters=542.90,
        source=_REPOSITORY + "configs/latent-diffusion/txt2img-1p4B-eval.yaml, cond_stage_config",
    ),
    "vq-f4": Configuration(
        arguments=_autoencoder(3, [1, 2, 4], [], 8192),
        parameters=55.32,
        source=_REPOSITORY + "models/first_stage_models/vq-f4/config.yaml",
    ),
    "vq-f4-noattn": Configuration(
        arguments=_autoencoder(3, [1, 2, 4], [], 8192, attn_type="none"),
        parameters=53.22,
        source=_REPOSITORY + "models/first_stage_models/vq-f4-noattn/config.yaml",
    ),
    "vq-f8": Configuration(
        arguments=_autoencoder(4, [1, 2, 2, 4], [32], 16384),
        parameters=67.72,
        source=_REPOSITORY + "models/first_stage_models/vq-f8/config.yaml",
    ),
    "vq-f8-n256": Configuration(
        arguments=_autoencoder(4, [1, 2, 2, 4], [32], 256),
        parameters=67.65,
        source=_REPOSITORY + "models/first_stage_models/vq-f8-n256/config.yaml",
    ),
    "vq-f16": Configuration(
        arguments=_autoencoder(8, [1, 1, 2, 2, 4], [16], 16384),
        parameters=69.59,
        source=_REPOSITORY + "models/first_stage_models/vq-f16/config.yaml",
    ),
    "kl-f4": Configuration(
        arguments=_autoencoder(3, [1, 2, 4], []),
        parameters=55.31,
        source=_REPOSITORY + "models/first_stage_models/kl-f4/config.yaml",
    ),
    "kl-f8": Configuration(
        arguments=_autoencoder(4, [1, 2, 4, 4], []),
        parameters=83.65,
        source=_REPOSITORY + "models/first_stage_models/kl-f8/config.yaml",
    ),
    "kl-f16": Configuration(
        arguments=_autoencoder(16, [1, 1, 2, 2, 4], [16]),
        parameters=69.61,
        source=_REPOSITORY + "models/first_stage_models/kl-f16/config.yaml",
    ),
    "kl-f32": Configuration(
        arguments=_autoencoder(64, [1, 1, 2, 2, 4, 4], [16, 8]),
        parameters=103.88,
        source=_REPOSITORY + "models/first_stage_models/kl-f32/config.yaml",
    ),
}  # fmt: skip

_ADDRESS = "https://ommer-lab.com/files/latent-diffusion/"
_HUB = "https://huggingface.co/CompVis/"
_VQ4_PARTS = {"unet": "ldm-4", "first_stage": "vq-f4"}
_CHURCH_PARTS = {"unet": "ldm-8-churches", "first_stage": "kl-f8"}
_LABEL_PARTS = {"unet": "ldm-4-imagenet256", "first_stage": "vq-f4", "condition": "ldm-4-imagenet256-labels"}
_LABEL_8_PARTS = {"unet": "ldm-8-imagenet256", "first_stage": "vq-f8", "condition": "ldm-8-imagenet256-labels"}
_TEXT_PARTS = {"unet": "ldm-8-text", "first_stage": "kl-f8", "condition": "ldm-8-text-encoder"}
_SD_PARTS = {"unet": "stable-diffusion-v1", "first_stage": "kl-f8", "condition": "stable-diffusion-v1-text-encoder"}


def _authors(name: str, url: str, networks: dict[str, str], dataset: str, **more: Any) -> PublishedFile:
    """A file of the authors, whole models as Lightning left them."""
    told: dict[str, Any] = {"licence": "MIT", "source": _REPOSITORY + "README.md"} | more
    return PublishedFile(
        name=name, url=url if "://" in url else _ADDRESS + url, networks=networks, dataset=dataset, **told
    )


# These archives hold the average beside the trained weights.
_BOTH: Any = {"member": "model.ckpt", "weights": "average", "copies": 2}


def _stage(name: str, url: str = "") -> PublishedFile:
    return _authors(f"ldm-{name}", url or f"{name}.zip", {"first_stage": name}, "openimages", member="model.ckpt")


def _on_the_hub(
    repository: str, folder: str, role: str, configuration: str, dataset: str, licence: str, file: str = ""
) -> PublishedFile:
    suffix = "safetensors" if repository.startswith("stable") else "bin"
    return PublishedFile(
        name=f"compvis-{repository}-{folder.replace('_', '-')}",
        url=f"{_HUB}{repository}/resolve/main/{folder}/{file or f'diffusion_pytorch_model.{suffix}'}",
        networks={role: configuration},
        dataset=dataset,
        licence=licence,
        source=f"huggingface.co/CompVis/{repository}",
    )


_RAIL = "CreativeML-OpenRAIL-M"
FILES = sized(
    [
        _authors("ldm-celebahq", "celeba.zip", _VQ4_PARTS, "celebahq", **_BOTH),
        _authors("ldm-ffhq", "ffhq.zip", _VQ4_PARTS, "ffhq", **_BOTH),
        _authors("ldm-bedroom", "lsun_bedrooms.zip", _VQ4_PARTS, "lsun-bedroom", **_BOTH),
        _authors("ldm-church", "lsun_churches.zip", _CHURCH_PARTS, "lsun-church", **_BOTH),
        _authors("ldm-imagenet256-vq8", "cin.zip", _LABEL_8_PARTS, "imagenet256", **_BOTH),
        # These have the size of the networks alone, 1.7 and 5.7 GiB: there is no average beside the weights.
        _authors(
            "ldm-imagenet256",
            "nitro/cin/model.ckpt",
            _LABEL_PARTS,
            "imagenet256",
            source=_REPOSITORY + "README.md and scripts/latent_imagenet_diffusion.ipynb",
        ),
        _authors("ldm-text", "nitro/txt2img-f8-large/model.ckpt", _TEXT_PARTS, "laion-400m"),
        _stage("vq-f4"),
        _stage("vq-f4-noattn", "https://heibox.uni-heidelberg.de/f/9c6681f64bb94338a069/?dl=1"),
        _stage("vq-f8"),
        _stage("vq-f8-n256"),
        _stage("vq-f16", "https://heibox.uni-heidelberg.de/f/0e42b04e2e904890a9b6/?dl=1"),
        _stage("kl-f4"),
        _stage("kl-f8"),
        _stage("kl-f16"),
        _stage("kl-f32"),
        _on_the_hub("ldm-celebahq-256", "unet", "unet", "ldm-4", "celebahq", "Apache-2.0"),
        _on_the_hub("ldm-celebahq-256", "vqvae", "first_stage", "vq-f4", "celebahq", "Apache-2.0"),
        _on_the_hub("ldm-text2im-large-256", "unet", "unet", "ldm-8-text", "laion-400m", "Apache-2.0"),
        _on_the_hub("ldm-text2im-large-256", "vqvae", "first_stage", "kl-f8", "laion-400m", "Apache-2.0"),
        _on_the_hub(
            "ldm-text2im-large-256",
            "bert",
            "condition",
            "ldm-8-text-encoder",
            "laion-400m",
            "Apache-2.0",
            file="pytorch_model.bin",
        ),
        _on_the_hub("stable-diffusion-v1-4", "unet", "unet", "stable-diffusion-v1", "laion-aesthetics", _RAIL),
        _on_the_hub("stable-diffusion-v1-4", "vae", "first_stage", "kl-f8", "laion-aesthetics", _RAIL),
        _on_the_hub(
            "stable-diffusion-v1-4",
            "text_encoder",
            "condition",
            "stable-diffusion-v1-text-encoder",
            "laion-aesthetics",
            _RAIL,
            file="model.safetensors",
        ),
        _authors(
            "sd-v1-4",
            f"{_HUB}stable-diffusion-v-1-4-original/resolve/main/sd-v1-4.ckpt",
            _SD_PARTS,
            "laion-aesthetics",
            licence=_RAIL,
            weights="average",
            sha256="fe4efff1e174c627256e44ec2991ba279b3816e364b49f9be2abc0b3ff3f8556",
            source="CompVis/stable-diffusion README.md; digest as in lmmx/deforum-stable-diffusion model_map.py",
        ),
        PublishedFile(
            name="bert-base-uncased-vocabulary",
            url="https://huggingface.co/google-bert/bert-base-uncased/resolve/main/vocab.txt",
            networks={},
            dataset="",
            licence="Apache-2.0",
            source="CompVis/latent-diffusion `modules.py:BERTTokenizer`, which reads it from there",
        ),
    ],
    CONFIGURATIONS,
)


def _process(high: float = 0.0195, low: float = 0.0015) -> Discrete:
    return Discrete(schedule="scaled_linear", low=low, high=high)


def _release(file: str, latent: Latent, process: Discrete, side: int = 256, **more: Any) -> Release:
    """All networks of a system in one file. A file of a condition too where there are labels or captions."""
    parts = {"unet": Part(file=file, process=process), "first_stage": Part(file=file)}
    if more:
        parts["condition"] = Part(file=file)
    return Release(parts=parts, shape=square(side), latent=latent, **more)


_F4, _F8 = Latent(channels=3, factor=4), Latent(channels=4, factor=8, scale=0.18215)
RELEASES = named(
    {
        "ldm-imagenet256": _release("ldm-imagenet256", _F4, _process(), classes=1000, null=1000),
        "ldm-imagenet256-vq8": _release("ldm-imagenet256-vq8", Latent(channels=4, factor=8), _process(), classes=1000),
        "ldm-celebahq": _release("ldm-celebahq", _F4, _process()),
        "ldm-ffhq": _release("ldm-ffhq", _F4, _process()),
        "ldm-lsun-bedroom": _release("ldm-bedroom", _F4, _process()),
        "ldm-lsun-church": _release("ldm-church", Latent(channels=4, factor=8, scale=None), _process(0.0155)),
        "ldm-text": _release("ldm-text", _F8, _process(0.012, 0.00085), tokenizer="bert").with_parts(
            vocabulary=Part(file="bert-base-uncased-vocabulary")
        ),
        "stable-diffusion-v1-4": _release("sd-v1-4", _F8, _process(0.012, 0.00085), 512, tokenizer="clip"),
    }
)

_TABLES = "Rombach et al. 2022 Tables 1, 3 and 17; CompVis/latent-diffusion README.md"
_PAPER: dict[str, Any] = {"arxiv": "2112.10752", "steps": "{steps}"}


def _guided(system: str) -> tuple[dict[str, Any], ...]:
    return (
        {**_PAPER, "system": system, "guidance": "none", "when": {"scale": 1.0}},
        {**_PAPER, "system": f"{system}-G", "guidance": "cfg", "guidance_scale": "{scale}"},
    )


def _plain(data: str, steps: int, eta: float, said: str = "") -> Preset:
    """Images without a condition. The original code truncates them to 8 bits (`sample_diffusion.py:custom_to_np`)."""
    return Preset(
        release=RELEASES[f"ldm-{data}"],
        arguments={"scale": 1.0, "steps": steps, "eta": eta},
        num_samples=50_000,
        protocol="tf1",
        quantise="truncate",
        source=_TABLES + said,
        rows=({**_PAPER, "guidance": "none"},),
    )


PRESETS = {
    "shapes": Preset(release=shipped("shapes-latent"), arguments={"spacing": "uniform", "last": "clean"}),
    "imagenet256": Preset(
        release=RELEASES["ldm-imagenet256"],
        arguments={"scale": 1.5, "steps": 250, "eta": 1.0},
        num_samples=50_000,
        protocol="adm",
        source=_TABLES,
        differs=("labels are drawn, not 50 of every class",),
        rows=_guided("LDM-4"),
    ),
    "celebahq": _plain("celebahq", 500, 0.0, ", whose command has 200 steps where Table 1 has 500"),
    "ffhq": _plain("ffhq", 200, 1.0),
    "lsun-bedroom": _plain("lsun-bedroom", 200, 1.0),
    "lsun-church": _plain("lsun-church", 200, 0.0, ", whose command has 400 steps where Table 1 has 200"),
    "coco": Preset(
        release=RELEASES["ldm-text"],
        arguments={"scale": 1.5, "steps": 250, "eta": 0.0},
        num_samples=30_000,
        protocol="tf1",
        quantise="truncate",
        source="Rombach et al. 2022 Table 2",
        rows=_guided("LDM-KL-8"),
    ),
}

load = loader(ldm, PRESETS, latents=True)
