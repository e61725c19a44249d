"""genbench: evaluate generative image models, with an error bar and a protocol behind every number.

Start at `genbench.pipeline.run`, or at `genbench --help`. Names are imported when they are first used, so that
`import genbench` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "Measurement": "records",
    "Ref": "records",
    "Result": "records",
    "RunSpec": "records",
    "Score": "records",
    "Dataset": "contracts",
    "Extractor": "contracts",
    "Metric": "contracts",
    "Model": "contracts",
    "Evidence": "arrays",
    "Features": "arrays",
    "Moments": "arrays",
    "Samples": "arrays",
    "Evaluator": "streaming",
    "run": "api",
    "score": "api",
}
__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"genbench.{_HOME[name]}"), name)
    raise AttributeError(f"module 'genbench' has no attribute {name!r}")
