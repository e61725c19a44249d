"""The arithmetic of torch while something is computed, whatever the program around it has chosen for itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch


@contextmanager
def float32(*, on_cuda: Literal["ieee", "tf32"] = "ieee") -> Iterator[None]:
    """Products and convolutions in float32, by deterministic algorithms; what was set before is set again afterwards.

    CUDA convolutions use TensorFloat-32 by default and oneDNN bfloat16 on request, which cost 1e-3 and more.

    Args:
        on_cuda: "ieee", or "tf32" where digits matter less than several times the speed, as in training. On the CPU it
            is always the former.
    """
    backends: Any = torch.backends
    wanted = (
        (backends.cudnn, "benchmark", False),
        (backends.cudnn, "deterministic", True),
        (backends.cudnn.conv, "fp32_precision", on_cuda),
        (backends.cuda.matmul, "fp32_precision", on_cuda),
        (backends.mkldnn.conv, "fp32_precision", "ieee"),
        (backends.mkldnn.matmul, "fp32_precision", "ieee"),
    )
    before = [(where, name, getattr(where, name)) for where, name, _ in wanted]
    try:
        for where, name, value in wanted:
            setattr(where, name, value)
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)
