"""What turns a condition into context tokens for cross-attention: captions by a transformer, labels by a table."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from baselines.networks.blocks import Activation, TransformerBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoderConfig:
    """The architecture as data. The defaults are those of LDM's text-to-image model.

    Attributes:
        vocabulary: number of tokens; 30522 is that of BERT, uncased.
        length: longest sequence, and the length that captions are padded to.
        width, layers, heads, head_width: of the transformer; heads * head_width need not be `width`.
        activation: see `FeedForward`.
        bias, causal: see `Attention`. Both true for the text encoder of CLIP, which Stable Diffusion v1 uses.
    """

    vocabulary: int = 30522
    length: int = 77
    width: int = 1280
    layers: int = 32
    heads: int = 8
    head_width: int = 64
    activation: Activation = "gelu"
    bias: bool = False
    causal: bool = False

    def build(self) -> TextEncoder:
        """The network with random weights."""
        return TextEncoder(self)


class TextEncoder(nn.Module):
    """A transformer over the tokens of a caption. Padding is attended to like any token, as it was in training.

    Source:
        Rombach et al. 2022 App. E.2.1 (Table 17); CompVis/latent-diffusion `BERTEmbedder`, an encoder of x-transformers
        with norms before the blocks, learned positions and GELU, trained from scratch with the U-Net. Radford et al.
        2021 sec. 2.4 for CLIP, whose tokens after the last norm, not their pooled vector, are the context.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = c = config
        self.tokens = nn.Embedding(c.vocabulary, c.width)
        self.positions = nn.Embedding(c.length, c.width)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                c.width, heads=c.heads, head_width=c.head_width, activation=c.activation, bias=c.bias, causal=c.causal
            )
            for _ in range(c.layers)
        )
        self.norm = nn.LayerNorm(c.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps int64 (b, length) token numbers, or fewer columns, to float (b, length, width)."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelTokensConfig:
    """The architecture as data.

    Attributes:
        classes: number of rows, the null class included where there is one.
        width: of the token.
    """

    classes: int = 1001
    width: int = 512

    def build(self) -> LabelTokens:
        """The table with random weights."""
        return LabelTokens(self)


class LabelTokens(nn.Module):
    """One context token a label. Source: CompVis/latent-diffusion `modules.py:ClassEmbedder`."""

    def __init__(self, config: LabelTokensConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.classes, config.width)

    def forward(self, y: Tensor) -> Tensor:
        """Maps int64 (b,) labels to float (b, 1, width)."""
        return self.table(y)[:, None, :]


KINDS = {"text-encoder": TextEncoderConfig, "label-tokens": LabelTokensConfig}
