"""The arithmetic of torch is chosen for a while, and then what it was."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from genbench.arithmetic import float32


@pytest.mark.parametrize("on_cuda", ["ieee", "tf32"])
def test_arithmetic_is_set_inside_and_restored_afterwards_even_after_an_error(on_cuda: Literal["ieee", "tf32"]) -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(KeyError), float32(on_cuda=on_cuda):
            assert torch.backends.mkldnn.matmul.fp32_precision == torch.backends.mkldnn.conv.fp32_precision == "ieee"
            assert torch.backends.cudnn.conv.fp32_precision == torch.backends.cuda.matmul.fp32_precision == on_cuda
            assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
            raise KeyError
        assert torch.get_float32_matmul_precision() == "medium" and not torch.backends.cudnn.deterministic
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision("highest")
