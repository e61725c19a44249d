"""Files: which are read, what is said of a wrong one, and that nothing of them is executed."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import baselines
from baselines.files.arguments import Architecture, ConfigurationError
from baselines.files.checkpoints import CheckpointError, Origin, load_network
from baselines.networks.autoencoder import AutoencoderConfig, AutoencoderKL
from baselines.networks.transformer import TextEncoder, TextEncoderConfig
from baselines.networks.unet import UNet, UNetConfig

CONFIG = UNetConfig(width=32, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, asymmetric=False)
ARGUMENTS = {
    "image_size": 16, "in_channels": 3, "out_channels": 3, "model_channels": 32, "attention_resolutions": [2],
    "num_res_blocks": 1, "channel_mult": [1, 2], "num_heads": 2,
}  # fmt: skip
"""In LDM's names."""


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """A U-Net of ARGUMENTS under its original names, with numbers that tell all weights apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UNet(CONFIG)
    names = {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "embedding": "emb_layers.1", "norm2": "out_layers.0",
        "conv2": "out_layers.3", "skip": "skip_connection", "out": "proj_out",
    }  # fmt: skip
    parts = {"encoder": "input_blocks", "middle": "middle_block", "decoder": "output_blocks"}
    found = {}
    for key, value in network.state_dict().items():
        first, _, rest = key.partition(".")
        if first in parts:
            module, leaf = rest.split(".")[-2:]
            change = "op" if first == "encoder" else "conv"
            module = change if module == "conv" else names.get(module, module)
            name = ".".join([parts[first], *rest.split(".")[:-2], module, leaf])
            if rest == "0.0.weight" or rest == "0.0.bias":
                name = key.replace("encoder", "input_blocks") if first == "encoder" else name
        else:
            outer = {"time_embedding": "time_embed", "norm": "out.0", "head": "out.2"}
            name = f"{outer[first]}.{rest}"
        if ".qkv." in name:
            # From (3, heads, c) to (heads, 3, c), and the 1-d convolution that the file has.
            value = value.unflatten(0, (3, 2, -1)).transpose(0, 1).flatten(0, 2)
        if name.endswith(("qkv.weight", "proj_out.weight")):
            value = value[..., None]
        found[name] = value.clone()
    return found


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def same(network: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())


def reference() -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(CONFIG)


def test_the_network_is_ready_to_sample_and_says_where_it_comes_from(
    state: dict[str, Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(state, tmp_path / "net.pt")
    with caplog.at_level(logging.INFO, logger="baselines.files.checkpoints"):
        network = baselines.load_network(path, ARGUMENTS)
    assert caplog.messages == ["net.pt: guided layout, unspecified weights"]
    assert network.origin == Origin(path=path, layout="guided", weights="unspecified")
    assert not network.training
    assert not any(value.requires_grad for value in network.parameters())
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    assert same(network, reference())
    x = torch.zeros(2, 3, 8, 8)
    assert network(x, torch.tensor([1, 2])).shape == x.shape


@pytest.mark.parametrize("prefix", ["", "module.", "model.diffusion_model.", "model."])
@pytest.mark.parametrize("kind", ["pt", "safetensors", "lightning"])
def test_containers_and_prefixes(prefix: str, kind: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    content = {prefix + name: value for name, value in state.items()}
    path = tmp_path / f"net.{'safetensors' if kind == 'safetensors' else 'ckpt'}"
    if kind == "safetensors":
        save_file({name: value.contiguous() for name, value in content.items()}, path)
    else:
        save(content if kind == "pt" else {"epoch": 2, "state_dict": content}, path)
    assert same(load_network(path, ARGUMENTS), reference())


def test_half_precision_and_the_old_file_format(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({name: value.half() for name, value in state.items()}, path, _use_new_zipfile_serialization=False)
    network = load_network(path, ARGUMENTS)
    for name, value in reference().state_dict().items():
        assert torch.equal(network.state_dict()[name], value.half().float())


def test_own_weights_load_under_their_own_names(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_file(reference().state_dict(), path)
    network = load_network(path, CONFIG)
    assert same(network, reference())
    assert network.origin.layout == "baselines"


def test_the_weights_do_not_stay_tied_to_the_file(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(state, tmp_path / "net.pt")
    network = load_network(path, ARGUMENTS)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert same(network, reference())


# Moving averages


def averaged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A Lightning state dict with the trained weights and, as their average, these plus 1."""
    both = {f"model.diffusion_model.{name}": value for name, value in state.items()}
    both |= {f"model_ema.diffusion_model{name.replace('.', '')}": value + 1 for name, value in state.items()}
    return both | {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(3)}


def bias(network: torch.nn.Module) -> Tensor:
    return network.get_parameter("head.bias")


@pytest.mark.parametrize(("ema", "shift", "kind"), [("auto", 1, "average"), (True, 1, "average"), (False, 0, "raw")])
def test_average_or_trained_weights(ema: Any, shift: int, kind: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save({"state_dict": averaged(state)}, tmp_path / "model.ckpt")
    network = load_network(path, ARGUMENTS, ema=ema)
    assert network.origin.weights == kind
    assert torch.equal(bias(network), state["out.2.bias"] + shift)


def test_average_alone(state: dict[str, Tensor], tmp_path: Path) -> None:
    alone = {name: value for name, value in averaged(state).items() if name.startswith("model_ema.")}
    path = save({"state_dict": alone}, tmp_path / "model.ckpt")
    assert torch.equal(bias(load_network(path, ARGUMENTS)), state["out.2.bias"] + 1)
    with pytest.raises(CheckpointError, match="missing: time_embed"):
        load_network(path, ARGUMENTS, ema=False)


def test_an_average_that_misses_a_weight_is_not_completed_from_the_trained_ones(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    content = averaged(state)
    del content["model_ema.diffusion_modelout2bias"]
    path = save({"state_dict": content}, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"1 missing: out\.2\.bias\."):
        load_network(path, ARGUMENTS)


def test_an_average_that_does_not_exist_is_not_promised(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(state, tmp_path / "net.pt")
    assert load_network(path, ARGUMENTS, ema=False).origin.weights == "unspecified"
    with pytest.raises(CheckpointError, match="holds one set of weights"):
        load_network(path, ARGUMENTS, ema=True)
    with pytest.raises(CheckpointError, match="ema must be True, False or 'auto'; got 'yes'"):
        load_network(path, ARGUMENTS, ema="yes")  # type: ignore[arg-type]


def test_average_of_an_autoencoder(tmp_path: Path) -> None:
    config = AutoencoderConfig(width=32, multipliers=(1, 2), blocks=1)
    network = AutoencoderKL(config)
    state = {"quant_conv.weight": network.to_code.weight.detach()}
    # Only one name is needed to see that the average is looked for where a whole autoencoder has it.
    path = save(
        {"state_dict": {"model_ema." + k.replace(".", ""): v for k, v in state.items()} | state}, tmp_path / "x.ckpt"
    )
    with pytest.raises(CheckpointError) as caught:
        load_network(path, config)
    assert "encoder.conv_in.weight" in str(caught.value)
    assert "quant_conv.weight" not in str(caught.value)


# Wrong files


def complaint(content: Any, tmp_path: Path, config: Any = ARGUMENTS) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_network(save(content, tmp_path / "net.pt"), config)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_unexpected_and_misshapen_weights_are_named_together(state: dict[str, Tensor], tmp_path: Path) -> None:
    broken = dict(state)
    del broken["input_blocks.1.0.in_layers.2.weight"]
    broken["label_emb.weight"] = torch.zeros(10, 128)
    broken["out.2.weight"] = torch.zeros(6, 32, 3, 3)
    assert complaint(broken, tmp_path) == (
        "net.pt does not hold this network. Weights 1 missing: input_blocks.1.0.in_layers.2.weight; "
        "1 unexpected: label_emb.weight; 1 of another shape: out.2.weight is (6, 32, 3, 3), needed for (3, 32, 3, 3). "
        "Does the configuration belong to the file?"
    )


def test_the_first_ten_are_named_in_the_order_of_the_network(state: dict[str, Tensor], tmp_path: Path) -> None:
    kept = {name: value for name, value in state.items() if not name.startswith("output_blocks")}
    message = complaint(kept, tmp_path)
    missing = [name for name in state if name.startswith("output_blocks")]
    named = re.search(r"(\d+) missing: (.*) and (\d+) more", message)
    assert named is not None
    assert int(named[1]) == len(missing)
    assert named[2].split(", ") == missing[:10]
    assert int(named[3]) == len(missing) - 10


def test_every_single_missing_weight_is_found(state: dict[str, Tensor], tmp_path: Path) -> None:
    for name in list(state)[::7]:
        assert f"1 missing: {name}." in complaint({k: v for k, v in state.items() if k != name}, tmp_path)


def test_another_architecture_is_never_loaded_in_part(state: dict[str, Tensor], tmp_path: Path) -> None:
    assert "unexpected" in complaint(state, tmp_path, ARGUMENTS | {"attention_resolutions": []})
    assert "missing" in complaint(state, tmp_path, ARGUMENTS | {"num_res_blocks": 2})
    assert "of another shape" in complaint(state, tmp_path, ARGUMENTS | {"use_scale_shift_norm": True})
    assert "of another shape" in complaint(state, tmp_path, ARGUMENTS | {"model_channels": 64})
    assert "missing" in complaint(state, tmp_path, "ldm-4-imagenet256-labels")
    assert "missing" in complaint(state, tmp_path, "kl-f4")


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a file"):
        load_network(tmp_path / "nothing.pt", ARGUMENTS)
    for suffix, content in (
        (".pt", b"<html>Sign in</html>"),
        (".safetensors", b"<html>Sign in</html>"),
        (".pt", b""),
        (".ckpt", b"PK\x03\x04 broken zip"),
    ):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as weights"):
            load_network(path, ARGUMENTS)
    for empty in ({}, {"epoch": 3}, [], {"state_dict": {}}, torch.zeros(3)):
        with pytest.raises(CheckpointError, match="holds no weights"):
            load_network(save(empty, tmp_path / "net.pt"), ARGUMENTS)


def test_a_truncated_download(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(state, tmp_path / "net.pt")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_network(path, ARGUMENTS)


def test_a_configuration_without_a_meaning(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(state, tmp_path / "net.pt")
    with pytest.raises(ConfigurationError, match="cannot be split into attention heads of 48"):
        load_network(path, ARGUMENTS | {"num_head_channels": 48})
    assert issubclass(CheckpointError, ValueError)
    assert issubclass(ConfigurationError, ValueError)


# Pickles


class Touch:
    """Unpickled, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_nothing_in_a_file_is_executed(state: dict[str, Tensor], tmp_path: Path) -> None:
    target = tmp_path / "written"
    path = save({"state_dict": state, "callback": Touch(target)}, tmp_path / "evil.ckpt")
    network = load_network(path, ARGUMENTS)
    assert same(network, reference())
    assert not target.exists()
    old = tmp_path / "old.ckpt"
    torch.save({"state_dict": state, "callback": Touch(target)}, old, _use_new_zipfile_serialization=False)
    assert same(load_network(old, ARGUMENTS), reference())
    assert not target.exists()


@pytest.mark.slow
def test_files_of_lightning_load_without_lightning(state: dict[str, Tensor], tmp_path: Path) -> None:
    # Callbacks, argument namespaces and dictionaries of classes that are not installed where the file is read.
    code = """
import collections, sys, types, torch
module = types.ModuleType("pytorch_lightning_of_old"); sys.modules[module.__name__] = module
class ModelCheckpoint:
    def __init__(self): self.best = 1.0
class AttributeDict(dict): pass
for cls in (ModelCheckpoint, AttributeDict):
    cls.__module__ = module.__name__; cls.__qualname__ = cls.__name__; setattr(module, cls.__name__, cls)
folds = collections.defaultdict(list); folds["a"].append(1)
torch.save({
    "state_dict": torch.load(sys.argv[1], weights_only=True), "callbacks": {ModelCheckpoint: {"best": 2.0}},
    "object": ModelCheckpoint(), "hyper_parameters": AttributeDict(lr=1e-4), "folds": folds,
}, sys.argv[2])
"""
    source, path = save(state, tmp_path / "net.pt"), tmp_path / "model.ckpt"
    subprocess.run([sys.executable, "-c", code, str(source), str(path)], check=True)
    assert same(load_network(path, ARGUMENTS), reference())
    assert "pytorch_lightning_of_old" not in sys.modules


def test_the_text_encoder_as_diffusers_names_it(tmp_path: Path) -> None:
    config = TextEncoderConfig(vocabulary=20, length=6, width=16, layers=2, heads=8, head_width=64)
    network = TextEncoder(config)
    state = {
        "model.embed_tokens.weight": network.tokens.weight, "model.embed_positions.weight": network.positions.weight,
        "model.layer_norm.weight": network.norm.weight, "model.layer_norm.bias": network.norm.bias,
        "to_logits.weight": torch.zeros(20, 16), "to_logits.bias": torch.zeros(20),
    }  # fmt: skip
    for i, block in enumerate(network.blocks):
        keys, values = block.self_attention.kv.weight.chunk(2)
        modules = {
            "self_attn_layer_norm": block.norm_self, "final_layer_norm": block.norm_feed,
            "fc1": block.feed_forward.inner, "fc2": block.feed_forward.outer,
            "self_attn.out_proj": block.self_attention.out,
        }  # fmt: skip
        state |= {f"model.layers.{i}.{a}.{b}": getattr(m, b) for a, m in modules.items() for b in ("weight", "bias")}
        weights = {"q": block.self_attention.q.weight, "k": keys, "v": values}
        state |= {f"model.layers.{i}.self_attn.{a}_proj.weight": value for a, value in weights.items()}
    path = save({name: value.detach().clone() for name, value in state.items()}, tmp_path / "pytorch_model.bin")
    loaded = load_network(path, {"n_embed": 16, "n_layer": 2, "vocab_size": 20, "max_seq_len": 6})
    assert same(loaded, network)
    assert loaded.origin.layout == "diffusers"


def test_row_order_is_part_of_the_architecture(state: dict[str, Tensor], tmp_path: Path) -> None:
    # The same file under both orders: what a network does with it differs, and no error can tell.
    path = save(state, tmp_path / "net.pt")
    right = load_network(path, Architecture(network=CONFIG))
    wrong = load_network(path, Architecture(network=CONFIG, qkv="qkv_first"))
    key = "encoder.3.1.qkv.weight"
    assert same(right, reference())
    assert torch.equal(wrong.state_dict()[key], state["input_blocks.3.1.qkv.weight"][..., 0])
    assert not torch.equal(wrong.state_dict()[key], right.state_dict()[key])


@pytest.mark.parametrize(
    ("trained", "averaged"), [("model", "ema"), ("net_model", "ema_model"), ("model_state_dict", "ema_state_dict")]
)
def test_weights_and_average_under_the_names_of_other_repositories(
    trained: str, averaged: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    shadow = {name: value + 1 for name, value in state.items()}
    content = {trained: {f"module.{k}": v for k, v in state.items()}, averaged: shadow, "step": 3, "optim": {"lr": 0.1}}
    path = save(content, tmp_path / "both.pt")
    raw, average = load_network(path, ARGUMENTS, ema=False), load_network(path, ARGUMENTS)
    assert same(raw, reference()) and (raw.origin.weights, average.origin.weights) == ("raw", "average")
    assert torch.equal(average.head.bias, raw.head.bias + 1)
    del content[averaged]
    assert same(load_network(save(content, tmp_path / "one.pt"), ARGUMENTS), reference())
    alone = save({averaged: state}, tmp_path / "alone.pt")
    assert same(load_network(alone, ARGUMENTS), reference())
    with pytest.raises(CheckpointError, match="holds an average alone"):
        load_network(alone, ARGUMENTS, ema=False)


def test_a_file_without_weights_tells_what_it_has(state: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"under state_dict, model, .*; it has the keys optimizer, step\."):
        load_network(save({"optimizer": {"a": 1}, "step": 3}, tmp_path / "none.pt"), ARGUMENTS)


def test_an_average_without_names_is_in_the_order_of_the_trained_weights(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    values = [value + 1 for value in state.values()]
    path = save({"model": state, "ema": {"decay": 0.9, "shadow_params": values}}, tmp_path / "list.pt")
    raw, average = load_network(path, ARGUMENTS, ema=False), load_network(path, ARGUMENTS)
    assert same(raw, reference()) and average.origin.weights == "average"
    assert torch.equal(average.head.bias, raw.head.bias + 1)
    for listed in (values[::-1], values[:-1]):
        save({"model": state, "ema": {"decay": 0.9, "shadow_params": listed}}, path)
        with pytest.raises(CheckpointError, match=r"as a list of .* weights without names"):
            load_network(path, ARGUMENTS)
    save({"model": state, "ema": {"decay": 0.9, "values": values}}, path)
    with pytest.raises(CheckpointError, match="under 'ema' as a list without names"):
        load_network(path, ARGUMENTS)


def test_the_prefix_of_a_wrapped_model_stands_before_that_of_its_parts(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    wrapped = {f"module.model.diffusion_model.{name}": value for name, value in state.items()}
    assert same(load_network(save({"state_dict": wrapped}, tmp_path / "w.ckpt"), ARGUMENTS), reference())


def test_damage_inside_a_file_of_the_right_length_is_noticed(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(state, tmp_path / "whole.ckpt")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(255 - value for value in content[middle : middle + 400])
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged\.ckpt is damaged: the check sum of \S+ in it is wrong"):
        load_network(damaged, ARGUMENTS)


def test_an_archive_around_the_file_is_not_the_file(state: dict[str, Tensor], tmp_path: Path) -> None:
    save(state, tmp_path / "model.ckpt")
    with zipfile.ZipFile(tmp_path / "celeba.zip", "w") as archive:
        archive.write(tmp_path / "model.ckpt", "model.ckpt")
    with pytest.raises(CheckpointError, match=r"is an archive of 1 files; extract model\.ckpt and give its path"):
        load_network(tmp_path / "celeba.zip", ARGUMENTS)


class Callback:
    """Stands for a class of a training library."""


def test_old_files_of_lightning_load_too(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    content = {"state_dict": state, "callbacks": {"x": Callback()}, "hyper_parameters": Path("a")}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert same(load_network(path, ARGUMENTS), reference())
