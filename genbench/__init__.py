"""genbench: evaluate generative image models, with an error bar and a protocol behind every number.

Start at `genbench.run` and `genbench.score`, or at `genbench --help`. Names are imported when they are first used, so
that `import genbench` costs nothing.

Where to look: `contracts` says what a component is and `registry` where each one stands. `pipeline` is the order of a
run: `preflight` refuses, `generation` samples into shards, `measuring` makes every number and its floor, `report`
writes. `uncertainty` has the error bars of one number and `differences` those of two. `comparability` says whether two
results were measured alike, `papers` whether a published number was. `streaming` is the `Evaluator`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genbench.acceptance import accept as accept
    from genbench.api import run as run
    from genbench.api import score as score
    from genbench.arrays import Evidence as Evidence
    from genbench.arrays import Features as Features
    from genbench.arrays import Moments as Moments
    from genbench.arrays import Samples as Samples
    from genbench.comparison import Comparison as Comparison
    from genbench.comparison import compare as compare
    from genbench.contracts import Dataset as Dataset
    from genbench.contracts import Extractor as Extractor
    from genbench.contracts import Metric as Metric
    from genbench.contracts import Model as Model
    from genbench.errors import ComponentError as ComponentError
    from genbench.errors import GenbenchError as GenbenchError
    from genbench.errors import InputRejected as InputRejected
    from genbench.errors import MissingAsset as MissingAsset
    from genbench.errors import NotComparable as NotComparable
    from genbench.errors import OutOfResources as OutOfResources
    from genbench.errors import UsageError as UsageError
    from genbench.gating import Gate as Gate
    from genbench.gating import gate as gate
    from genbench.generation import quantise as quantise
    from genbench.housekeeping import results as results
    from genbench.measuring import Execution as Execution
    from genbench.records import Measurement as Measurement
    from genbench.records import Ref as Ref
    from genbench.records import Result as Result
    from genbench.records import RunSpec as RunSpec
    from genbench.records import Score as Score
    from genbench.streaming import Evaluator as Evaluator

__version__ = "0.1.0"

_HOMES = {
    "acceptance": ("accept",),
    "api": ("run", "score"),
    "arrays": ("Evidence", "Features", "Moments", "Samples"),
    "comparison": ("Comparison", "compare"),
    "contracts": ("Dataset", "Extractor", "Metric", "Model"),
    "housekeeping": ("results",),
    "errors": (
        "ComponentError",
        "GenbenchError",
        "InputRejected",
        "MissingAsset",
        "NotComparable",
        "OutOfResources",
        "UsageError",
    ),
    "gating": ("Gate", "gate"),
    "generation": ("quantise",),
    "measuring": ("Execution",),
    "records": ("Measurement", "Ref", "Result", "RunSpec", "Score"),
    "streaming": ("Evaluator",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = ["__version__", *sorted(_HOME)]


if not TYPE_CHECKING:  # a type checker would otherwise believe that every name exists

    def __getattr__(name: str) -> object:
        if name in _HOME:
            return getattr(import_module(f"genbench.{_HOME[name]}"), name)
        raise AttributeError(f"module 'genbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__", "__file__", "__name__", "__path__"])
