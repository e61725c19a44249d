"""The second stage of latent diffusion: a U-Net and the encoder of its condition, which are trained together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from baselines.networks.transformer import TextEncoder, TextEncoderConfig
from baselines.networks.unet import UNet, UNetConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TextUNetConfig:
    """The U-Net's `context` is the width of the text encoder."""

    unet: UNetConfig
    text: TextEncoderConfig

    def build(self) -> TextUNet:
        """The networks with random weights."""
        return TextUNet(self)


class TextUNet(nn.Module):
    """A U-Net that attends to the tokens of a caption.

    Source: Rombach et al. 2022 sec. 3.3 and eq. 3, tau and epsilon optimised jointly.
    """

    def __init__(self, config: TextUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(config.unet)
        self.text = TextEncoder(config.text)

    @property
    def roles(self) -> dict[str, nn.Module]:
        """The networks that one file of such weights holds, by their roles in a system."""
        return {"unet": self.unet, "condition": self.text}

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Maps latents (b, c, h, w), timesteps (b,) and int64 tokens (b, length) to (b, c, h, w)."""
        return self.unet(x, t, context=self.text(tokens).to(x.dtype))


KINDS = {"text-unet": TextUNetConfig}
