"""What all dialects need: arguments with defaults, and what arguments mean."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from baselines.networks import NetworkConfig
from baselines.schedules import Trained

Arguments = Mapping[str, Any]


class ConfigurationError(ValueError):
    """Arguments that name no architecture or process of this package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A network as data, and the one thing about its files that neither the network nor their names tell.

    Attributes:
        network: the configuration of the network.
        qkv: row order of fused query-key-value matrices in files of improved diffusion, ADM and LDM: "heads_first" is
            (heads, 3, channels a head), all of them but ADM 64x64, which is "qkv_first": (3, heads, channels a head).
            Both have the same shape; the wrong one computes nonsense without an error.
    """

    network: NetworkConfig
    qkv: Literal["heads_first", "qkv_first"] = "heads_first"

    def build(self) -> nn.Module:
        """The network with random weights on the default device; under `torch.device("meta")` it costs nothing."""
        return self.network.build()


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What arguments say beside the network.

    Attributes:
        process: how noise was added.
        kind: what the network predicts, see `baselines.denoisers.from_output`.
        learned_variance: whether half of the output channels belong to the variance.
        variance: the fixed variance of ancestral steps, empty where the arguments name none.
        side: of the images, None where the arguments do not say.
        null: whether the last class that the network knows means none.
    """

    process: Trained
    kind: str = "eps"
    learned_variance: bool = False
    variance: Literal["", "small", "large"] = ""
    side: int | None = None
    null: bool = False


def checked(
    what: str,
    given: Arguments,
    defaults: Arguments,
    *,
    ignored: Iterable[str] = (),
    fixed: Arguments | None = None,
) -> dict[str, Any]:
    """All arguments, the missing ones with their defaults; texts such as "True" and "4" become what they say.

    `fixed` names arguments of which one value alone is implemented.
    """
    fixed = fixed or {}
    known = {*defaults, *ignored, *fixed}
    values = dict(defaults)
    for name, value in given.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigurationError(
                f"{what} has no argument {name!r}. "
                + (f"Did you mean {close[0]!r}?" if close else f"It takes {', '.join(sorted(known))}.")
            )
        if name in fixed and value != fixed[name]:
            raise ConfigurationError(f"{what} with {name}={value!r} is not implemented, only with {fixed[name]!r}.")
        if name in defaults:
            values[name] = literal(value, defaults[name])
    for name, value in values.items():
        if value is None and defaults[name] is None and name in _REQUIRED:
            raise ConfigurationError(f"{what} needs the argument {name!r}.")
    return values


_REQUIRED = frozenset({
    "in_channels", "out_channels", "out_ch", "model_channels", "num_res_blocks", "attention_resolutions", "ch",
    "z_channels", "resolution", "embed_dim", "n_layer", "n_embed", "attn_resolutions", "ch_mult",
})  # fmt: skip


def literal(value: Any, default: Any) -> Any:
    """Reads text of command lines by the type of the default; everything else is left as it is."""
    if not isinstance(value, str) or isinstance(default, str) or default is None:
        return value
    if isinstance(default, tuple):
        return numbers("An argument", value) if all(isinstance(part, int) for part in default) else value
    if isinstance(default, bool):
        if value.lower() not in ("true", "false", "1", "0", "yes", "no", "t", "f", "y", "n"):
            raise ConfigurationError(f"Cannot read {value!r} as true or false.")
        return value.lower() in ("true", "1", "yes", "t", "y")
    return type(default)(value)


def factors(image_size: int, resolutions: str | Iterable[int]) -> tuple[int, ...]:
    """Factors of downsampling from sides of feature maps."""
    sides = [int(part) for part in resolutions.split(",") if part] if isinstance(resolutions, str) else resolutions
    return tuple(image_size // int(side) for side in sides)


def numbers(name: str, value: Any) -> tuple[int, ...]:
    """Whole numbers of an argument, a list or a text with spaces or commas, as command lines have them.

    Raises:
        ConfigurationError: anything else.
    """
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    try:
        return tuple(int(part) for part in parts)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} is a list of whole numbers, such as [1, 2, 2]; got {value!r}.") from error


def factors_of_sides(image_size: int, sides: Iterable[int]) -> tuple[int, ...]:
    """The same for repositories that compare the sides themselves: one that no feature map has means nothing."""
    halvings = range(int(image_size).bit_length())
    return tuple(2**i for i in halvings if image_size >> i in {int(side) for side in sides})


def schedule(name: Any, known: Mapping[str, str], argument: str) -> str:
    """This package's name of a noise schedule; one that is not implemented is refused."""
    if name not in known:
        raise ConfigurationError(f"{argument}={name!r} is not implemented; there are {', '.join(map(repr, known))}.")
    return known[name]
