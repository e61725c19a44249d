"""The extractor without a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from genbench.errors import InputRejected, UsageError
from genbench.extractors import pixels


def test_pixels_are_pixels() -> None:
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8))
    extractor = pixels.load()
    found = extractor.embed(x, ["pooled"])["pooled"]
    assert extractor.widths == {"pooled": 3072} and extractor.embed_captions is None
    assert np.allclose(found.numpy(), x.numpy().reshape(4, -1) / 255, atol=1e-7)


def test_other_sizes_are_resized() -> None:
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 3, 50, 41), dtype=np.uint8))
    found = pixels.load(side=8).embed(x, ["pooled"])["pooled"].reshape(3, 8, 8).numpy()
    for channel, expected in zip(x[0].numpy().astype(np.float32), found, strict=True):
        shrunk = np.asarray(Image.fromarray(channel).resize((8, 8), Image.Resampling.BICUBIC))
        assert np.allclose(shrunk.clip(0, 255) / 255, expected, atol=1e-6)


def test_arguments_and_their_keys() -> None:
    keys = {pixels.load(side=s, resize=r).key for s in (8, 32) for r in ("clean", "tf1")}
    assert len(keys) == 4 and pixels.load().key == pixels.load(side=32, resize="clean").key
    with pytest.raises(UsageError, match="No resize 'near'"):
        pixels.load(resize="near")
    with pytest.raises(UsageError, match="positive"):
        pixels.load(side=0)
    with pytest.raises(UsageError, match="has no weights"):
        pixels.load(weights="x.pth")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="float32 or exact; got 'bfloat16'"):
        pixels.load(precision="bfloat16")
    with pytest.raises(UsageError, match="no tap 'logits'; there are pooled"):
        pixels.load().embed(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ["logits"])
    pixel = torch.zeros(1, dtype=torch.uint8)
    for wrong in (torch.zeros(1, 3, 4, 4), pixel.expand(1, 2, 4, 4), pixel.expand(3, 4, 4)):
        with pytest.raises(InputRejected, match="uint8"):
            pixels.load().embed(wrong, ["pooled"])
