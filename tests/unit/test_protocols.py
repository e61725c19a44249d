from __future__ import annotations

import pytest

from genbench import registry
from genbench.errors import UsageError
from genbench.pipeline import bind_cells
from genbench.protocols import PROTOCOLS, protocol
from genbench.records import Measurement, Ref


@pytest.mark.parametrize("name", PROTOCOLS)
def test_everything_that_a_protocol_names_exists_and_takes_its_arguments(name: str) -> None:
    p = PROTOCOLS[name]
    cells = bind_cells([Measurement.parse(m) for m in p.metrics], p)
    assert [c.metric.name for c in cells] == list(p.metrics)
    for metric in {*p.args, *p.references, *p.extractors}:
        assert metric in p.metrics
    for extractor in p.extractors.values():
        registry.bind("extractor", extractor)


def test_what_the_user_gives_goes_before_the_protocol() -> None:
    adm = protocol("adm")
    given = adm.resolve(Measurement.parse("precision(k=7)@compact"))
    assert given == Measurement(Ref("precision", {"k": 7, "arithmetic": "fp16-adm"}), Ref("compact"))
    assert adm.resolve(Measurement.parse("fid")).extractor == Ref("inception", {"resize": "tf1", "scaling": "tf"})


def test_the_differences_between_protocols_are_those_of_their_tools() -> None:
    resize = {name: p.extractor.args.get("resize") for name, p in PROTOCOLS.items()}
    assert resize == {
        "embedded": None, "adm": "tf1", "tf1": "tf1", "clean": "clean", "pytorch-fid": "bilinear", "edm": "nvidia",
        "dgm": "pil-bicubic", "edm2": "nvidia", "clip-fd": None, "clipscore": None, "torchmetrics-clip": None,
    }  # fmt: skip
    assert [n for n, p in PROTOCOLS.items() if p.quantise == "truncate"] == ["adm"]


def test_an_unknown_protocol_says_what_is_near() -> None:
    with pytest.raises(UsageError, match="Did you mean 'clean'"):
        protocol("claen")
