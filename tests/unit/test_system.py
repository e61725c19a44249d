"""The models on the shipped weights: arguments, keys, and images that depend on seed and label alone.

No pixel is asserted: better weights may replace these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from baselines import networks, noise, steps, system
from baselines.conditions import Given
from baselines.denoisers import Condition, Denoiser, Prediction
from baselines.files import cards
from baselines.files.loading import loader
from baselines.files.weights import Weights
from baselines.guidance import classifier_free, on_x0
from baselines.networks.transformer import TextEncoderConfig
from baselines.networks.unet import UNetConfig
from baselines.records import Preset, Release
from baselines.sampling import walk
from baselines.system import Cascade, System, View, conditional, told
from baselines.systems import adm, cfg, ldm
from baselines.systems import ddim as ddim_system
from baselines.systems import ddpm as ddpm_system

WHERE = {"dataset": "shapes", "device": "cpu", "precision": "float32"}


def ddim(**arguments: object) -> System:
    return ddim_system.load(**WHERE, **{"steps": 3, **arguments})  # type: ignore[arg-type]


def ddpm(**arguments: object) -> System:
    return ddpm_system.load(**WHERE, **{"steps": 3, **arguments})  # type: ignore[arg-type]


def images(model: System, seeds: list[int], labels: list[int] | None) -> Tensor:
    chosen = None if labels is None else np.array(labels, dtype=np.int64)
    return model.sample(np.array(seeds, dtype=np.uint64), labels=chosen)


def visited(model: System) -> list[float]:
    """What the network is told, one number a call."""
    told: list[float] = []

    class Listening(Weights):
        def denoiser(self, role: str = "unet") -> Denoiser:
            return lambda x, level, condition: (told.append(level.t), Prediction(x, x, x))[1]

    listening = Listening(release=model.weights.release, device="cpu", precision="float32")
    seeds = torch.zeros(1, dtype=torch.int64)
    denoise, condition = model.build(listening, Given(seeds=seeds, labels=seeds))
    model.sampler(denoise, torch.zeros(1, *model.state), noise.image_noise(seeds), condition)
    return told


@pytest.mark.parametrize(("make", "arguments"), [(ddim, {}), (ddpm, {}), (ddpm, {"variance": "learned"})])
def test_an_image_is_the_same_alone_and_in_a_batch(make: Callable[..., System], arguments: dict[str, object]) -> None:
    model, seeds, labels = make(**arguments), [5, 2**64 - 3, 9], [0, 1, 2]
    together = images(model, seeds, labels)
    assert together.shape == (3, *model.shape) and together.dtype == torch.float32
    assert torch.allclose(images(model, seeds[1:2], labels[1:2]), together[1:2], rtol=0, atol=1e-4)
    assert torch.allclose(images(model, seeds[::-1], labels[::-1]).flip(0), together, rtol=0, atol=1e-4)
    assert float((together[0] - together[1]).abs().mean()) > 0.01


def test_seed_and_label_matter_and_no_label_is_the_null_label() -> None:
    model = ddim()
    one = images(model, [5, 5, 5, 6], [0, 0, 1, 0])
    assert torch.allclose(one[0], one[1], rtol=0, atol=1e-4)
    assert float((one[0] - one[2]).abs().mean()) > 0.01
    assert float((one[0] - one[3]).abs().mean()) > 0.01
    null = model.weights.release.null
    assert null is not None and model.classes == null
    assert torch.equal(images(model, [5], None), images(model, [5], [null]))


def test_guidance_of_scale_two_is_another_image_and_of_scale_one_the_same() -> None:
    plain = images(ddim(), [5], [1])
    guided = cfg.load(**WHERE, scale=2.0, steps=3, spacing="uniform")
    same = cfg.load(**WHERE, scale=1.0, steps=3, spacing="uniform")
    assert float((images(guided, [5], [1]) - plain).abs().mean()) > 1e-3
    assert torch.equal(images(same, [5], [1]), plain)
    assert (same.evaluations, guided.evaluations) == (3, 6)


def test_clipped_images_stay_in_range() -> None:
    assert images(ddim(), [1, 2], [3, 4]).abs().max() <= 1, "the last step returns the clipped image"


def test_guided_ddim_leaves_out_the_last_timestep_as_the_original_code_does() -> None:
    def timesteps(sampler: str) -> list[float]:
        return visited(adm.load_guided(**WHERE, steps=4, sampler=sampler))

    assert (timesteps("ancestral"), timesteps("ddim")) == ([999, 666, 333, 0], [750, 500, 250, 0])


@pytest.mark.parametrize("make", [ddim, ddpm])
def test_watching_tells_every_step_and_shows_the_state(make: Callable[..., System]) -> None:
    told: list[tuple[int, int]] = []
    shown: list[View] = []
    seeds, labels = np.array([5], dtype=np.uint64), np.array([1])
    result = make().sample(seeds, labels=labels, watch=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    make().trajectory(seeds, labels=labels, watch=shown.append)
    assert [(view.done, view.steps) for view in shown] == told
    assert torch.equal(shown[-1].x, result) and not torch.equal(shown[0].x, shown[1].x)
    assert torch.allclose(shown[-1].predicted, result, atol=1e-6), "the last step lands on what was predicted"


def test_draw_0_is_the_start_and_the_others_belong_to_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    original = noise.image_noise

    def recording(seeds: Tensor) -> noise.Noise:
        drawn = original(seeds)
        return lambda draw, like, stream=0: (used.append(draw), drawn(draw, like, stream))[1]

    monkeypatch.setattr(system, "image_noise", recording)
    images(ddpm(), [5], [0])
    images(ddim(), [5], [0])
    assert used == [0, 1, 2, 0]


def test_levels_are_those_of_the_process() -> None:
    assert visited(ddim(steps=20)) == list(range(950, -1, -50))
    assert visited(ddpm(steps=20))[0] == 999


def test_key_is_of_the_weights_that_are_used_not_of_the_arguments() -> None:
    assert ddim().key == ddpm(steps=7).key and len(ddim().key) == 64
    guided = adm.load_guided(**WHERE, steps=3)  # type: ignore[arg-type]
    assert guided.key != ddim().key
    assert adm.load_guided(**WHERE, steps=3, scale=0.0).key == ddim().key, "without guidance no classifier is used"  # type: ignore[arg-type]
    assert ldm.load(**WHERE, steps=3).key != ddim().key  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (ddim, {"steps": 0}, r"\[1, 1000\].*got 0"),
        (ddim, {"steps": 1001}, r"\[1, 1000\].*got 1001"),
        (ddim, {"eta": 1.5}, r"eta lies in \[0, 1\]; got 1\.5"),
        (ddim, {"eta": -0.1}, r"eta lies in \[0, 1\]"),
        (ddim, {"spacing": "even"}, "'even'; there are uniform, offset, quadratic"),
        (ddim, {"dataset": "imagenet64"}, "'imagenet64'; there are weights for shapes"),
        (ddpm, {"steps": -1}, r"\[1, 1000\].*got -1"),
        (ddpm, {"variance": "medium"}, "small, large or learned; got 'medium'"),
    ],
)
def test_bad_arguments_name_their_range(
    make: Callable[..., System], arguments: dict[str, object], message: str
) -> None:
    loader = ddim_system.load if make is ddim else ddpm_system.load
    with pytest.raises(ValueError, match=message):
        loader(**{**WHERE, **arguments})  # type: ignore[arg-type]


def test_weights_that_are_not_there() -> None:
    with pytest.raises(FileNotFoundError, match="'nothing' are not in"):
        cards.description("nothing")


# Parts that are exchanged.


def test_evaluations_are_counted_in_a_rehearsal() -> None:
    model = ddim(steps=4)
    grid = model.weights.process.grid([0, 250, 500, 750])
    assert replace(model, sampler=walk(steps.heun, grid)).evaluations == 7, "the last step is Euler's"
    assert replace(model, sampler=walk(steps.ddim, grid)).evaluations == 4

    def twice(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        denoise, condition = conditional(weights, given)
        return classifier_free(denoise, scale=2.0, null={"y": torch.tensor([10])}), condition

    assert replace(model, sampler=walk(steps.heun, grid), build=twice).evaluations == 14


def test_evaluations_that_depend_on_the_image_are_the_mean_of_what_was_sampled() -> None:
    """A solver whose number of calls is that of the first draw's sign."""

    def adaptive(
        denoise: Denoiser, x: Tensor, noise: noise.Noise, condition: Condition, watch: object = None
    ) -> Tensor:
        level = ddim().weights.process.grid([500])[0]
        for _ in range(3 if x[0, 0, 0, 0] > 0 else 1):
            x = denoise(x, level, condition).x0
        return x

    model = replace(ddim(), sampler=adaptive)
    assert model.evaluations is None
    expected = []
    for seed in range(6):
        first = float(noise.image_noise(torch.tensor([seed]))(0, torch.empty(1, *model.state))[0, 0, 0, 0])
        expected.append(3 if first > 0 else 1)
        images(model, [seed], [0])
        assert model.evaluations == sum(expected) / len(expected)
    assert len(set(expected)) == 2, "both happen"


def test_a_start_and_what_is_known_come_from_the_images_that_are_given() -> None:
    """Painting in: what the mask keeps is the image that was given, and the rest follows the seed."""
    given = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    masks = (torch.arange(32) < 16).float().view(1, 1, 1, 32).expand(1, 1, 32, 32)

    def build(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        assert given.images is not None and given.masks is not None
        mend = on_x0(weights.denoiser(), lambda x0: torch.where(given.masks > 0, x0, given.images))
        return mend, told(weights, given)[0]

    model = replace(ddim(steps=4), build=build, takes=frozenset({"labels", "images", "masks"}))
    seeds, labels = np.array([5], dtype=np.uint64), np.array([1])
    found = model.sample(seeds, labels=labels, images=given, masks=masks)
    assert model.evaluations == 4
    assert torch.allclose(found[..., 16:], given[..., 16:], atol=1e-6)
    assert float((found[..., :16] - given[..., :16]).abs().mean()) > 0.05


@dataclass(frozen=True)
class GeneratorConfig:
    width: int = 4

    def build(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(self.width, 48), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 4, 4)))


def test_a_generator_of_one_pass_is_a_system_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "kinds", lambda: {"generator": GeneratorConfig})
    network = GeneratorConfig(5).build()
    save_file(network.state_dict(), tmp_path / "gan.safetensors")
    digest = hashlib.sha256((tmp_path / "gan.safetensors").read_bytes()).hexdigest()
    about = {"file": "gan.safetensors", "sha256": digest, "kind": "generator", "network": {"width": 5}}
    (tmp_path / "gan.json").write_text(json.dumps(about))
    release = Release(parts={"generator": cards.part(str(tmp_path / "gan.safetensors"))}, shape=(3, 4, 4))
    model = System(
        weights=Weights(release=release, device="cpu", precision="float32"),
        state=(5,),
        build=lambda weights, given: (weights.network("generator"), {}),
        sampler=lambda generate, z, noise, condition, watch=None: generate(z),
    )
    seeds = np.array([1, 2], dtype=np.uint64)
    z = noise.image_noise(torch.tensor([1, 2]))(0, torch.empty(2, 5))
    assert torch.allclose(model.sample(seeds), network(z)) and model.evaluations == 1
    assert (model.takes, model.classes, len(model.key)) == (frozenset(), 0, 64)
    # Its loader takes another file for the same network, as loaders of diffusion models do.
    torch.save(GeneratorConfig(5).build().state_dict(), tmp_path / "other.pt")
    preset = Preset(release=release)
    one_pass = loader(lambda weights: replace(model, weights=weights), {"shapes": preset})
    where = {"dataset": "shapes", "device": "cpu", "precision": "float32"}
    assert one_pass(**where).key == model.key
    other = one_pass(**where, weights=str(tmp_path / "other.pt"))
    assert other.key != model.key and not torch.allclose(other.sample(seeds), model.sample(seeds))
    with pytest.raises(ValueError, match="no process of noise; they are of generator"):
        _ = model.weights.process
    with pytest.raises(ValueError, match="no network for 'unet', only for generator"):
        model.weights.network("unet")
    (tmp_path / "gan.json").write_text(json.dumps(about | {"network": {"depth": 5}}))
    wrong = Release(parts={"generator": cards.part(str(tmp_path / "gan.safetensors"))}, shape=(3, 4, 4))
    with pytest.raises(ValueError, match="The network 'generator' has no depth; it has width"):
        Weights(release=wrong, device="cpu", precision="float32").network("generator")


def test_every_kind_of_network_is_made_from_its_description() -> None:
    needed: dict[str, dict[str, object]] = {
        "classifier": {"trunk": UNetConfig()},
        "discriminator": {"trunk": UNetConfig()},
        "variational": {"unet": UNetConfig(in_channels=15)},
        "text-unet": {"unet": UNetConfig(context=8), "text": TextEncoderConfig(width=8, layers=1)},
    }
    for kind, config in networks.kinds().items():
        one = config(**needed.get(kind, {}))
        told = json.loads(json.dumps(asdict(one)))  # type: ignore[call-overload]
        assert networks.configured(kind, told) == one and networks.kind_of(one) == kind
    with pytest.raises(ValueError, match="no kind of network 'dit'; there are "):
        networks.configured("dit", {})


def test_a_cascade_hands_images_on_and_gives_every_stage_noise_of_its_own() -> None:
    small = ddim(steps=2)
    seen: list[Tensor] = []

    def enlarging(weights: Weights, given: Given) -> tuple[Denoiser, Condition]:
        if given.images is not None and len(given.seeds) == 2:  # not in the rehearsal
            seen.append(given.images)
        return conditional(weights, given)

    large = replace(small, build=enlarging, takes=frozenset({"labels", "images"}))
    cascade = Cascade(stages=(small, large, large), between=lambda x: x / 2)
    seeds, labels = np.array([5, 6], dtype=np.uint64), np.array([1, 2])
    last = cascade.sample(seeds, labels=labels)
    assert (cascade.takes, cascade.evaluations, cascade.classes) == ({"labels"}, 6, 10)
    first = small.sample(seeds, labels=labels)
    assert torch.equal(seen[0], first / 2) and not torch.equal(seen[1], seen[0])
    assert not torch.equal(last, first) and not torch.equal(2 * seen[1], first), "three walks from three noises"


@pytest.mark.parametrize("make", [ddim_system.load, ldm.load])
def test_networks_are_compiled_whole_and_give_the_same_images(
    make: Callable[..., System], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.compile
    given = {"captions": ["a small red circle", "a large blue star"]} if make is ldm.load else {"labels": LABELS}
    seeds = np.array([5, 6], dtype=np.uint64)
    plain = make(**WHERE, steps=2).sample(seeds, **given)

    # No machine code is made, but whatever torch cannot look into would be an error.
    def whole(network: object, **how: object) -> object:
        return real(network, backend="eager", fullgraph=True, dynamic=how["dynamic"])  # type: ignore[call-overload]

    monkeypatch.setattr(torch, "compile", whole)
    compiled = make(**WHERE, steps=2, compiled=True).sample(seeds, **given)
    assert (plain - compiled).abs().max() < 1e-4


LABELS = np.array([1, 2])


def test_what_a_compiled_network_gave_stays_when_it_is_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ddim(compiled=True)

    def recorded(network: Callable[..., Tensor], **how: object) -> Callable[..., Tensor]:
        memory = torch.empty(1, 6, 32, 32)  # a recorded graph writes here, whenever it is replayed
        return lambda *args, **given: memory.copy_(network(*args, **given))

    monkeypatch.setattr(torch, "compile", recorded)
    network = model.weights._compiled("unet")
    condition = {"y": torch.zeros(1, dtype=torch.int64)}
    one = network(torch.ones(1, 3, 32, 32), torch.ones(1), **condition)
    two = network(torch.zeros(1, 3, 32, 32), torch.ones(1), **condition)
    assert not torch.equal(one, two)
