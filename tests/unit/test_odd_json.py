"""Every reader of a user's JSON file answers odd content with one of its own errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from baselines.files import catalogue
from genbench import report
from genbench.errors import GenbenchError
from genbench.extractors import clip
from genbench.images import open_images

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
named = st.dictionaries(
    st.sampled_from(
        [
            "schema",
            "spec",
            "shape",
            "shard",
            "classes",
            "results",
            "requests",
            "digest",
            "embed_dim",
            "vision_cfg",
            "text_cfg",
            "model_cfg",
            "num_samples",
        ]
    ),
    values | st.sampled_from(["genbench.samples/1", "genbench.samples/2", "genbench.run/1", "genbench.run/2"]),
)
contents = (
    (values | named).map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=40)
    | st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"NaN", b'"\\ud800"', b"\xef\xbb\xbf{}"])
)

READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "configuration of clip": ("c.json", lambda path: clip.configuration(str(path))),
    "arguments of a model": ("a.json", lambda path: catalogue.arguments_of(str(path))),
    "results": ("result.json", lambda path: report.read_results(path.parent)),
    "manifest": ("samples/manifest.json", lambda path: open_images(path.parent.parent)),
}


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=contents)
@example(content=b'{"model_cfg": null}')
@example(content=b'{"model_cfg": "embed_dim"}')
def test_odd_json_is_refused_in_words(reader: str, content: bytes, tmp_path: Path) -> None:
    name, read = READERS[reader]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    try:
        read(path)
    except (GenbenchError, ValueError) as error:  # models know no classes of this package
        assert isinstance(error, GenbenchError) or reader == "arguments of a model", error
        assert str(error)
