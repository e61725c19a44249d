"""Blocks and networks by properties that hold exactly, and published parameter counts."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from oracles import noise

from baselines.files import catalogue
from baselines.files.arguments import architecture
from baselines.networks.autoencoder import AutoencoderConfig, AutoencoderKL, AutoencoderVQ, posterior
from baselines.networks.blocks import (
    Attention,
    AttentionPool,
    FeedForward,
    GroupNorm,
    Linear,
    SelfAttention,
    SpatialTransformer,
    attend,
    timestep_embedding,
)
from baselines.networks.classifier import Classifier, ClassifierConfig
from baselines.networks.transformer import LabelTokens, LabelTokensConfig, TextEncoder, TextEncoderConfig
from baselines.networks.unet import UNet, UNetConfig, zero_outputs


def count(network: torch.nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


@pytest.mark.parametrize("name", catalogue.configurations())
def test_published_configurations_have_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        network = architecture(name).build()
    assert round(count(network) / 1e6, 2) == catalogue.configurations()[name].parameters


def test_parameters_of_the_halves_of_first_stages() -> None:
    # In millions: vq-f4 22.3 and 33.0, vq-f8 decoder 40.3, kl-f8 34.2 and 49.5.
    for name, encoder, decoder in (("vq-f4", 22.3, 33.0), ("vq-f8", None, 40.3), ("kl-f8", 34.2, 49.5)):
        with torch.device("meta"):
            network = architecture(name).build()
        assert encoder is None or round(count(network.encoder) / 1e6, 1) == encoder
        assert round(count(network.decoder) / 1e6, 1) == pytest.approx(decoder, abs=0.051)


def test_default_unet_has_the_parameters_of_ddpm_on_cifar10() -> None:
    assert count(UNet(UNetConfig())) == 35_746_307


def test_text_to_image_of_ldm_has_1_45_billion_parameters_with_the_unused_output_layer() -> None:
    with torch.device("meta"):
        unet, text = architecture("ldm-8-text").build(), architecture("ldm-8-text-encoder").build()
    assert isinstance(text, TextEncoder)
    logits = (text.config.width + 1) * text.config.vocabulary
    assert round((count(unet) + count(text) + logits) / 1e9, 2) == 1.45


@pytest.mark.parametrize(("order", "span"), [("sin_cos", 3), ("cos_sin", 4)])
def test_timestep_embedding_formula(order: str, span: int) -> None:
    t = 37.0
    angles = [t * 10000 ** (-i / span) for i in range(4)]
    parts = [[math.sin(a) for a in angles], [math.cos(a) for a in angles]]
    first, second = parts if order == "sin_cos" else parts[::-1]
    value = timestep_embedding(torch.tensor([t]), 8, order=order)  # type: ignore[arg-type]
    torch.testing.assert_close(value[0], torch.tensor(first + second), atol=5e-6, rtol=0)


def test_attention_is_a_softmax_average_head_by_head() -> None:
    q, k, v = (noise(2, n, 6, seed=n).double() for n in (3, 5, 5))
    v = noise(2, 5, 6, seed=9).double()
    expected = torch.empty(2, 3, 6, dtype=torch.float64)
    for head in range(2):
        c = slice(3 * head, 3 * head + 3)
        weight = torch.exp(q[..., c] @ k[..., c].mT / math.sqrt(3))
        expected[..., c] = weight @ v[..., c] / weight.sum(-1, keepdim=True)
    torch.testing.assert_close(attend(q, k, v, 2), expected)


@pytest.mark.parametrize(("tokens", "causal"), [(256, False), (257, False), (20, True)])
def test_attention_without_gradients_is_that_with_them(tokens: int, causal: bool) -> None:
    # A CPU takes another way where no gradient is wanted, on up to 256 tokens.
    q, k, v = (noise(2, tokens, 24, seed=i) for i in range(3))
    with torch.no_grad():
        fast = attend(q, k, v, 3, causal=causal)
    torch.testing.assert_close(fast, attend(q, k, v, 3, causal=causal), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_without_gradients_are_those_with_them(bias: bool) -> None:
    layer, x = Linear(40, 72, bias=bias), noise(3, 17, 80)[:, :, ::2]
    with torch.no_grad():
        fast = layer(x)
        assert fast.shape == (3, 17, 72) and fast.is_contiguous()
        torch.testing.assert_close(fast, F.linear(x, layer.weight, layer.bias), rtol=1e-5, atol=1e-6)
        assert layer(x[0]).shape == (17, 72)
        assert layer.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert layer.float()(x).dtype == torch.bfloat16
    assert layer(x).requires_grad


@pytest.mark.parametrize("side", [16, 32])
def test_group_norm_in_bfloat16_is_the_formula(side: int) -> None:
    # Another kernel for each size, see the class.
    norm = GroupNorm(4, 8, eps=1e-3).requires_grad_(requires_grad=False)
    norm.weight.copy_(noise(8))
    norm.bias.copy_(noise(8, seed=1))
    x = (3 * noise(2, 8, side, side, seed=2) + 2).bfloat16().to(memory_format=torch.channels_last)
    groups = x.double().reshape(2, 4, -1)
    variance = groups.var(-1, correction=0, keepdim=True)
    expected = ((groups - groups.mean(-1, keepdim=True)) / (variance + 1e-3).sqrt()).reshape(x.shape)
    expected = expected * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]
    found = norm.bfloat16()(x)
    assert found.dtype == torch.bfloat16 and found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=2e-2, atol=2e-2)


def test_cross_attention_does_not_depend_on_the_order_of_the_context() -> None:
    block = Attention(8, heads=2, head_width=5, context=6).double()
    x, context = noise(2, 4, 8).double(), noise(2, 7, 6, seed=1).double()
    shuffled = context[:, torch.randperm(7, generator=torch.Generator().manual_seed(2))]
    torch.testing.assert_close(block(x, context), block(x, shuffled))
    assert not torch.allclose(block(x, context), block(x, context + noise(2, 7, 6, seed=3)))


def test_feed_forward_gates_the_first_half_by_the_second() -> None:
    block = FeedForward(4, activation="geglu").double()
    x = noise(3, 4).double()
    h = x @ block.inner.weight.T + block.inner.bias
    gate = h[:, 16:] * 0.5 * (1 + torch.erf(h[:, 16:] / math.sqrt(2)))
    torch.testing.assert_close(block(x), (h[:, :16] * gate) @ block.outer.weight.T + block.outer.bias)


def test_attention_pool_is_the_first_row_of_full_attention() -> None:
    pool = AttentionPool(8, 9, 5, heads=2).double()
    x = noise(2, 8, 3, 3).double()
    tokens = x.flatten(2).mT
    tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + pool.position
    torch.testing.assert_close(pool(x), pool.out(attend(*pool.qkv(tokens).chunk(3, -1), 2))[:, 0])


def test_attention_refuses_heads_that_do_not_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="32 channels cannot be split among 3 attention heads"):
        SelfAttention(32, heads=3)
    with pytest.raises(ValueError, match="64 channels cannot be split into attention heads of 24"):
        UNet(UNetConfig(width=32, head_width=24))


SMALL = UNetConfig(width=16, multipliers=(1, 2), blocks=1, groups=4, attention=(2,), heads=2)


def small(**changes: object) -> UNetConfig:
    values = {name: getattr(SMALL, name) for name in SMALL.__dataclass_fields__}
    return UNetConfig(**(values | changes))


def test_zeroed_networks_output_their_last_bias_and_spatial_transformers_become_the_identity() -> None:
    network = UNet(small(context=6))
    zero_outputs(network)
    x, context = noise(2, 3, 8, 8), noise(2, 4, 6)
    assert torch.equal(network(x, torch.zeros(2), context=context), torch.zeros(2, 3, 8, 8))
    blocks = [m for m in network.modules() if isinstance(m, SpatialTransformer)]
    assert blocks
    h = noise(2, 32, 4, 4)
    assert torch.equal(blocks[0](h, context), h)


def test_every_condition_of_a_unet_is_needed_and_no_other_is_taken() -> None:
    given = {"y": torch.tensor([0, 1]), "context": noise(2, 4, 6), "low_res": noise(2, 3, 4, 4)}
    has = {"y": {"classes": 3}, "context": {"context": 6}, "low_res": {"low_resolution": True}}
    x, t = noise(2, 3, 8, 8), torch.tensor([1.0, 2.0])
    plain = UNet(SMALL)
    for name, value in given.items():
        network = UNet(small(**has[name]))
        with pytest.raises(ValueError, match=f"needs {name}"):
            network(x, t)
        with pytest.raises(ValueError, match=f"takes no {name}"):
            plain(x, t, **{name: value})
        # Image by image: no condition leaks from one image of a batch to another.
        both = network(x, t, **{name: value})
        for i in range(2):
            alone = network(x[i : i + 1], t[i : i + 1], **{name: value[i : i + 1]})
            torch.testing.assert_close(alone, both[i : i + 1], atol=1e-5, rtol=1e-5)
        other = network(x, t, **{name: value.flip(0)})
        assert (other - both).abs().max() > 1e-3


def test_low_resolution_input_is_the_bilinear_enlargement() -> None:
    # With all weight of the first convolution on the enlarged image, the first feature map is that image.
    network = UNet(small(low_resolution=True))
    low = noise(1, 3, 4, 4)
    stem = network.encoder[0][0]
    with torch.no_grad():
        stem.weight.zero_()
        stem.bias.zero_()
        stem.weight[0, 3, 1, 1] = 1.0
    seen = []
    network.encoder[0].register_forward_hook(lambda _m, _i, output: seen.append(output.detach()))
    network(noise(1, 3, 8, 8), torch.zeros(1), low_res=low)
    enlarged = F.interpolate(low[:, :1], scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(seen[0][:, :1], enlarged)
    # Half a pixel from the border, the enlargement is the border itself.
    assert seen[0][0, 0, 0, 0] == pytest.approx(float(low[0, 0, 0, 0]))


def test_options_that_did_not_exist_before_leave_the_names_of_weights_as_they_were() -> None:
    # Shipped weights carry these names.
    with torch.device("meta"):
        names = list(UNet(small(classes=3, patch=2)).state_dict())
    assert names[:5] == [
        "time_embedding.0.weight", "time_embedding.0.bias", "time_embedding.2.weight", "time_embedding.2.bias",
        "class_embedding.weight",
    ]  # fmt: skip
    assert {n.rpartition(".")[0] for n in names if n.startswith("encoder.3.")} == {
        *(f"encoder.3.0.{x}" for x in ("norm1", "conv1", "embedding", "norm2", "conv2", "skip")),
        *(f"encoder.3.1.{x}" for x in ("norm", "qkv", "out")),
    }
    assert [n for n in names if ".conv." in n] == [
        "encoder.2.0.conv.weight", "encoder.2.0.conv.bias", "decoder.1.2.conv.weight", "decoder.1.2.conv.bias",
    ]  # fmt: skip
    assert names[-4:] == ["norm.weight", "norm.bias", "head.weight", "head.bias"]


@pytest.mark.parametrize("pool", ["attention", "average", "stages", "normalised_stages"])
def test_classifier_gives_the_same_logits_alone_and_in_a_batch_and_a_gradient_of_the_image(pool: str) -> None:
    torch.manual_seed(0)  # for some weights the slope is so small that differences cannot tell it to five digits
    config = ClassifierConfig(trunk=small(head_width=8), classes=7, image_size=8, pool=pool)  # type: ignore[arg-type]
    network = Classifier(config).double()
    x, t = noise(2, 3, 8, 8).double().requires_grad_(), torch.tensor([1.0, 900.0])
    logits = network(x, t)
    torch.testing.assert_close(network(x[1:], t[1:]), logits[1:])
    assert (network(x, t.flip(0)) - logits).abs().max() > 1e-6
    direction = noise(2, 3, 8, 8, seed=5).double()
    (slope,) = torch.autograd.grad(logits[:, 3].sum(), x)
    step = 1e-5
    with torch.no_grad():
        ahead, back = (network(x + s * step * direction, t)[:, 3].sum() for s in (1, -1))
    assert float((slope * direction).sum()) == pytest.approx(float((ahead - back) / (2 * step)), rel=1e-5)


FIRST_STAGE = {"width": 16, "multipliers": (1, 2), "blocks": 1, "groups": 4, "latent_channels": 4, "code_channels": 3}


def test_posterior_clips_the_log_variance() -> None:
    moments = torch.tensor([1.0, -2.0, 0.0, -50.0, 50.0, 2 * math.log(3.0)]).view(1, 6, 1, 1)
    mean, std = posterior(moments)
    assert mean.flatten().tolist() == [1.0, -2.0, 0.0]
    expected = torch.tensor([math.exp(-15), math.exp(10), 3.0])
    torch.testing.assert_close(std.flatten(), expected, rtol=1e-5, atol=0)


def test_nearest_code_by_brute_force_also_across_pieces_and_in_half_precision() -> None:
    network = AutoencoderVQ(AutoencoderConfig(codes=50, **FIRST_STAGE))  # type: ignore[arg-type]
    torch.nn.init.normal_(network.codebook.weight)
    z = noise(5, 3, 32, 32)
    vectors = z.permute(0, 2, 3, 1).double()
    distance = (vectors[..., None, :] - network.codebook.weight.double()).square().sum(-1)
    rows = network.nearest(z)
    best = distance.min(-1).values
    assert (
        torch.equal(rows, distance.argmin(-1))
        or float((distance.gather(-1, rows[..., None])[..., 0] - best).max()) < 1e-5
    )
    assert torch.equal(network.quantise(z).permute(0, 2, 3, 1), network.codebook.weight[rows])
    # A code is its own nearest row, and decoding it again changes nothing.
    assert torch.equal(network.quantise(network.quantise(z)), network.quantise(z))
    # The same codes whatever the precision of the network: a rounded row or vector has another nearest row.
    rounded = AutoencoderVQ(AutoencoderConfig(codes=50, **FIRST_STAGE))  # type: ignore[arg-type]
    rounded.load_state_dict(network.state_dict())
    rounded = rounded.to(torch.bfloat16).to(memory_format=torch.channels_last)
    assert rounded.from_code.weight.dtype == torch.bfloat16
    assert torch.equal(rounded.codebook.weight, network.codebook.weight)
    found, codes = rounded.decode(z), rounded.decode(network.quantise(z), quantise=False)
    assert torch.equal(rounded.nearest(z), rows) and torch.equal(found, codes) and found.dtype == torch.bfloat16


def test_autoencoders_refuse_the_other_latent() -> None:
    with pytest.raises(ValueError, match="no codebook"):
        AutoencoderKL(AutoencoderConfig(codes=5))
    with pytest.raises(ValueError, match="needs codes"):
        AutoencoderVQ(AutoencoderConfig())


def test_encoder_pads_below_and_on_the_right_only() -> None:
    # f = 2: the last row of the latent sees zeros below the image, the first sees none above it.
    network = AutoencoderKL(AutoencoderConfig(**FIRST_STAGE))  # type: ignore[arg-type]
    change = network.encoder.stages[2][0]
    with torch.no_grad():
        change.conv.weight.zero_()
        change.conv.weight[0, 0] = 1.0
        change.conv.bias.zero_()
    ones = change(torch.ones(1, 16, 4, 4))[0, 0]
    assert ones.tolist() == [[9.0, 6.0], [6.0, 4.0]]


def test_text_encoder_tells_tokens_and_positions_apart() -> None:
    network = TextEncoder(
        TextEncoderConfig(vocabulary=20, length=6, width=16, layers=2, heads=2, head_width=4)
    ).double()
    a, b = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 1, 3]])
    assert not torch.allclose(network(a), network(b))
    # Without positions, a permutation of the tokens is a permutation of the output.
    with torch.no_grad():
        network.positions.weight.zero_()
    torch.testing.assert_close(network(a)[:, [1, 0, 2]], network(b))


def test_causal_text_encoder_does_not_see_later_tokens() -> None:
    config = TextEncoderConfig(
        vocabulary=20,
        length=6,
        width=16,
        layers=2,
        heads=2,
        head_width=8,
        activation="quick_gelu",
        bias=True,
        causal=True,
    )
    network = TextEncoder(config).double()
    a, b = torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 2, 9, 8]])
    torch.testing.assert_close(network(a)[:, :2], network(b)[:, :2])
    torch.testing.assert_close(network(a)[:, :2], network(a[:, :2]))
    assert not torch.allclose(network(a)[:, 3], network(b)[:, 3])


def test_a_classifier_takes_no_condition() -> None:
    network = Classifier(ClassifierConfig(trunk=SMALL, classes=7, image_size=8))
    x, t = noise(1, 3, 8, 8), torch.zeros(1)
    assert torch.equal(network(x, t, None, None), network(x, t))
    with pytest.raises(ValueError, match="takes neither labels nor a context"):
        network(x, t, torch.zeros(1, dtype=torch.int64))  # type: ignore[arg-type]


def test_label_tokens_are_rows_of_the_table() -> None:
    network = LabelTokens(LabelTokensConfig(classes=4, width=3))
    y = torch.tensor([3, 0])
    assert torch.equal(network(y), network.table.weight[y].view(2, 1, 3))
