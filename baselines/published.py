"""Published weights, as data: where they lie, what is in them, under which licence. Nothing here needs torch.

Addresses and digests are those that the sources name; none of the files was downloaded while this was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from baselines.configurations import CONFIGURATIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One published file.

    Attributes:
        name: of this card.
        url: address of the file. Some are pages that lead to it (Google Drive).
        networks: role ("unet", "classifier", "first_stage", "condition") to name of the configuration, for
            `baselines.load_network(path, name)`.
        dataset: what it was trained on.
        licence: SPDX name, or that of the source.
        weights: "average" where `load_network` finds or the source names a moving average, "raw" for the trained
            weights, "unspecified" where the source does not say.
        member: file to extract, where the address is that of an archive.
        bytes: exact size, None if not published.
        sha256, md5: published digests.
        source: who names the address.
        mirrors: other addresses of the same weights, possibly in another layout.
    """

    name: str
    url: str
    networks: Mapping[str, str]
    dataset: str
    licence: str
    source: str
    weights: Literal["average", "raw", "unspecified"] = "unspecified"
    member: str | None = None
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    mirrors: tuple[str, ...] = ()

    @property
    def estimated_bytes(self) -> int:
        """Size of the networks in float32; a file that holds an average beside the weights is larger."""
        return sum(round(4e6 * CONFIGURATIONS[name].parameters) for name in self.networks.values())


_HEIBOX = {
    "cifar10": (
        "869980b53bf5416c8a28", "82ed3067fd1002f5cf4c339fb80c4669", "2e4f01e2d9ee49bab1d5",
        "1fa350b952534ae442b1d5235cce5cd3", "ddpm-cifar10",
    ),
    "lsun_bedroom": (
        "f179d4f21ebc4d43bbfe", "f70280ac0e08b8e696f42cb8e948ff1c", "b95206528f384185889b",
        "1921fa46b66a3665e450e42f36c2720f", "ddpm-256",
    ),
    "lsun_cat": (
        "fac870bd988348eab88e", "bbee0e7c3d7abfb6e2539eaf2fb9987b", "0701aac3aa69457bbe34",
        "646f23f4821f2459b8bafc57fd824558", "ddpm-256",
    ),
    "lsun_church": (
        "2711a6f712e34b06b9d8", "eb619b8a5ab95ef80f94ce8a5488dae3", "44ccb50ef3c6436db52e",
        "fdc68a23938c2397caba4a260bc2445f", "ddpm-256",
    ),
}  # fmt: skip
"""Data set to identifier and MD5 of the trained weights, the same of their average, and the configuration."""


def _ddpm() -> list[Card]:
    """The authors' TensorFlow checkpoints as converted to PyTorch by pesser, and those on the Hugging Face Hub."""
    cards = []
    for data, (raw, raw_md5, average, average_md5, configuration) in _HEIBOX.items():
        for prefix, identifier, digest in (("", raw, raw_md5), ("ema_", average, average_md5)):
            cards.append(
                Card(
                    name=f"ddpm-{prefix}{data}".replace("_", "-"),
                    url=f"https://heibox.uni-heidelberg.de/f/{identifier}/?dl=1",
                    networks={"unet": configuration},
                    dataset=data.replace("_", "-"),
                    licence="none named by the authors (hojonathanho/diffusion)",
                    weights="average" if prefix else "raw",
                    md5=digest,
                    source="ermongroup/ddim functions/ckpt_util.py",
                )
            )
    names = [("ddpm-cifar10-32", "unspecified")]
    names += [(f"ddpm-{data}-256", "raw") for data in ("celebahq", "bedroom", "church", "cat")]
    names += [(f"ddpm-ema-{data}-256", "average") for data in ("celebahq", "bedroom", "church", "cat")]
    for name, weights in names:
        data = name.removeprefix("ddpm-").removeprefix("ema-").rpartition("-")[0]
        cards.append(
            Card(
                name=f"google-{name}",
                url=f"https://huggingface.co/google/{name}/resolve/main/diffusion_pytorch_model.safetensors",
                mirrors=(f"https://huggingface.co/google/{name}/resolve/main/diffusion_pytorch_model.bin",),
                networks={"unet": "ddpm-cifar10" if data == "cifar10" else "ddpm-256"},
                dataset={"bedroom": "lsun-bedroom", "church": "lsun-church", "cat": "lsun-cat"}.get(data, data),
                licence="Apache-2.0",
                weights=weights,  # type: ignore[arg-type]
                source=f"huggingface.co/google/{name}",
            )
        )
    cards.append(
        Card(
            name="ddim-celeba64",
            url="https://drive.google.com/file/d/1R_H-fJYXSH79wfSKs9D-fuKQVan5L-GR/view",
            networks={"unet": "ddim-celeba64"},
            dataset="celeba64",
            licence="MIT",
            weights="average",
            source="ermongroup/ddim README.md",
        )
    )
    return cards


def _openai(folder: str, file: str, configuration: str, dataset: str) -> Card:
    repository = "improved-diffusion" if folder == "march-2021" else "guided-diffusion"
    return Card(
        name=("iddpm-" if folder == "march-2021" else "adm-") + file.replace("_", "-"),
        url=f"https://openaipublic.blob.core.windows.net/diffusion/{folder}/{file}.pt",
        networks={"classifier" if "classifier" in file else "unet": configuration},
        dataset=dataset,
        licence="MIT",
        weights="unspecified" if folder == "march-2021" or "classifier" in file else "average",
        source=f"openai/{repository} README.md",
    )


_OPENAI = [
    ("march-2021", "cifar10_uncond_50M_500K", "iddpm-cifar10", "cifar10"),
    ("march-2021", "cifar10_uncond_vlb_50M_500K", "iddpm-cifar10", "cifar10"),
    ("march-2021", "imagenet64_uncond_100M_1500K", "iddpm-imagenet64", "imagenet64"),
    ("march-2021", "imagenet64_uncond_vlb_100M_1500K", "iddpm-imagenet64", "imagenet64"),
    ("march-2021", "imagenet64_cond_270M_250K", "iddpm-imagenet64-conditional", "imagenet64"),
    ("march-2021", "upsample_cond_500K", "iddpm-imagenet64-256", "imagenet256"),
    ("march-2021", "lsun_uncond_100M_1200K_bs128", "iddpm-lsun256", "lsun-bedroom"),
    ("march-2021", "lsun_uncond_100M_2400K_bs64", "iddpm-lsun256", "lsun-bedroom"),
    ("jul-2021", "64x64_diffusion", "adm-imagenet64", "imagenet64"),
    ("jul-2021", "64x64_classifier", "adm-classifier64", "imagenet64"),
    ("jul-2021", "128x128_diffusion", "adm-imagenet128", "imagenet128"),
    ("jul-2021", "128x128_classifier", "adm-classifier128", "imagenet128"),
    ("jul-2021", "256x256_diffusion", "adm-imagenet256", "imagenet256"),
    ("jul-2021", "256x256_diffusion_uncond", "adm-imagenet256-unconditional", "imagenet256"),
    ("jul-2021", "256x256_classifier", "adm-classifier256", "imagenet256"),
    ("jul-2021", "512x512_diffusion", "adm-imagenet512", "imagenet512"),
    ("jul-2021", "512x512_classifier", "adm-classifier512", "imagenet512"),
    ("jul-2021", "64_256_upsampler", "adm-u-64-256", "imagenet256"),
    ("jul-2021", "128_512_upsampler", "adm-u-128-512", "imagenet512"),
    ("jul-2021", "lsun_bedroom", "adm-lsun256", "lsun-bedroom"),
    ("jul-2021", "lsun_cat", "adm-lsun256", "lsun-cat"),
    ("jul-2021", "lsun_horse", "adm-lsun256", "lsun-horse"),
    ("jul-2021", "lsun_horse_nodropout", "adm-lsun256", "lsun-horse"),
]


def _ldm() -> list[Card]:
    files = "https://ommer-lab.com/files/latent-diffusion/"
    source, licence = "CompVis/latent-diffusion README.md", "MIT"
    vq4 = {"unet": "ldm-4", "first_stage": "vq-f4"}
    churches = {"unet": "ldm-8-churches", "first_stage": "kl-f8"}
    labels = {"unet": "ldm-4-imagenet256", "first_stage": "vq-f4", "condition": "ldm-4-imagenet256-labels"}
    labels8 = {"unet": "ldm-8-imagenet256", "first_stage": "vq-f8", "condition": "ldm-8-imagenet256-labels"}
    text = {"unet": "ldm-8-text", "first_stage": "kl-f8", "condition": "ldm-8-text-encoder"}
    cards = [
        Card(
            name=f"ldm-{data}",
            url=f"{files}{file}.zip",
            member="model.ckpt",
            networks=networks,
            dataset=dataset,
            licence=licence,
            weights="average",
            source=source,
        )
        for data, file, networks, dataset in (
            ("celebahq", "celeba", vq4, "celebahq"),
            ("ffhq", "ffhq", vq4, "ffhq"),
            ("bedroom", "lsun_bedrooms", vq4, "lsun-bedroom"),
            ("church", "lsun_churches", churches, "lsun-church"),
            ("imagenet256-vq8", "cin", labels8, "imagenet256"),
        )
    ]
    # These files have the size of the networks alone, 1.7 and 5.7 GiB: there is no average beside the weights.
    cards += [
        Card(
            name="ldm-imagenet256",
            url=f"{files}nitro/cin/model.ckpt",
            networks=labels,
            dataset="imagenet256",
            licence=licence,
            source=source + " and scripts/latent_imagenet_diffusion.ipynb",
        ),
        Card(
            name="ldm-text",
            url=f"{files}nitro/txt2img-f8-large/model.ckpt",
            networks=text,
            dataset="laion-400m",
            licence=licence,
            source=source,
        ),
    ]
    cards += [
        Card(
            name=f"ldm-{name}",
            url=url or f"{files}{name}.zip",
            member="model.ckpt",
            networks={"first_stage": name},
            dataset="openimages",
            licence=licence,
            source=source,
        )
        for name, url in {
            "vq-f4": None,
            "vq-f4-noattn": "https://heibox.uni-heidelberg.de/f/9c6681f64bb94338a069/?dl=1",
            "vq-f8": None,
            "vq-f8-n256": None,
            "vq-f16": "https://heibox.uni-heidelberg.de/f/0e42b04e2e904890a9b6/?dl=1",
            "kl-f4": None,
            "kl-f8": None,
            "kl-f16": None,
            "kl-f32": None,
        }.items()
    ]
    hub = "https://huggingface.co/CompVis/"
    parts = [
        ("ldm-celebahq-256", "unet", "unet", "ldm-4", "celebahq", "Apache-2.0"),
        ("ldm-celebahq-256", "vqvae", "first_stage", "vq-f4", "celebahq", "Apache-2.0"),
        ("ldm-text2im-large-256", "unet", "unet", "ldm-8-text", "laion-400m", "Apache-2.0"),
        ("ldm-text2im-large-256", "vqvae", "first_stage", "kl-f8", "laion-400m", "Apache-2.0"),
        ("stable-diffusion-v1-4", "unet", "unet", "stable-diffusion-v1", "laion-aesthetics", "CreativeML-OpenRAIL-M"),
        ("stable-diffusion-v1-4", "vae", "first_stage", "kl-f8", "laion-aesthetics", "CreativeML-OpenRAIL-M"),
    ]
    for repository, folder, role, configuration, dataset, terms in parts:
        suffix = "safetensors" if repository.startswith("stable") else "bin"
        cards.append(
            Card(
                name=f"compvis-{repository}-{folder}",
                url=f"{hub}{repository}/resolve/main/{folder}/diffusion_pytorch_model.{suffix}",
                networks={role: configuration},
                dataset=dataset,
                licence=terms,
                source=f"huggingface.co/CompVis/{repository}",
            )
        )
    cards += [
        Card(
            name="compvis-ldm-text2im-large-256-bert",
            url=f"{hub}ldm-text2im-large-256/resolve/main/bert/pytorch_model.bin",
            networks={"condition": "ldm-8-text-encoder"},
            dataset="laion-400m",
            licence="Apache-2.0",
            source="huggingface.co/CompVis/ldm-text2im-large-256",
        ),
        Card(
            name="compvis-stable-diffusion-v1-4-text-encoder",
            url=f"{hub}stable-diffusion-v1-4/resolve/main/text_encoder/model.safetensors",
            networks={"condition": "stable-diffusion-v1-text-encoder"},
            dataset="laion-aesthetics",
            licence="CreativeML-OpenRAIL-M",
            source="huggingface.co/CompVis/stable-diffusion-v1-4",
        ),
    ]
    cards.append(
        Card(
            name="sd-v1-4",
            url=f"{hub}stable-diffusion-v-1-4-original/resolve/main/sd-v1-4.ckpt",
            networks={
                "unet": "stable-diffusion-v1",
                "first_stage": "kl-f8",
                "condition": "stable-diffusion-v1-text-encoder",
            },
            dataset="laion-aesthetics",
            licence="CreativeML-OpenRAIL-M",
            weights="average",
            sha256="fe4efff1e174c627256e44ec2991ba279b3816e364b49f9be2abc0b3ff3f8556",
            source="CompVis/stable-diffusion README.md; digest as in lmmx/deforum-stable-diffusion model_map.py",
        )
    )
    return cards


_VOCABULARY = Card(
    name="bert-base-uncased-vocabulary",
    url="https://huggingface.co/google-bert/bert-base-uncased/resolve/main/vocab.txt",
    networks={},
    dataset="",
    licence="Apache-2.0",
    source="CompVis/latent-diffusion `modules.py:BERTTokenizer`, which reads it from there",
)

PUBLISHED: dict[str, Card] = {
    card.name: card for card in (*_ddpm(), *(_openai(*row) for row in _OPENAI), *_ldm(), _VOCABULARY)
}
"""Name to card."""
