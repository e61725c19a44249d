"""The direction of imports, and that listing names stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LIGHT = {"errors", "records", "files", "tables", "papers"}
FOUNDATION = LIGHT | {
    "arrays",
    "contracts",
    "uncertainty",
    "gaussians",
    "neighbours",
    "weights",
    "resize",
    "images",
    "arithmetic",
    "mixing",
    "labels",
    "pieces",
    "ranks",
    "stopping",
}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "mixing": set(),
    "stopping": set(),
    "ranks": {"errors"},
    "records": {"errors"},
    "files": {"errors"},
    "tables": {"errors", "files"},
    "papers": {"errors", "records", "tables", "registry", "weights"},
    "arrays": {"errors"},
    "contracts": {"arrays", "records", "errors"},
    "labels": {"arrays", "contracts", "errors"},
    "uncertainty": {"errors", "mixing", "records"},
    "neighbours": {"arithmetic", "errors", "ranks", "uncertainty"},
    "pieces": {"arrays", "ranks"},
    "gaussians": {"errors", "arrays", "pieces", "records", "uncertainty"},
    "weights": {"errors", "records", "files", "downloads"},
    "resize": {"errors"},
    "arithmetic": set(),
    "images": {"errors", "arrays", "files", "labels", "records", "weights"},
    "registry": {"errors", "records", "contracts"},
    "protocols": {"errors", "records"},
    "identities": {"errors", "records", "arrays", "contracts", "files"},
    "environment": {"errors", "ranks"},
    "metrics": FOUNDATION,
    "extractors": FOUNDATION,
    "datasets": FOUNDATION,
    "feature_files": {"errors", "files"},
    "downloads": {"errors", "files"},
    "features": FOUNDATION | {"feature_files"},
    "generation": FOUNDATION,
    "likelihoods": FOUNDATION | {"generation"},
    "differences": {"errors", "records", "uncertainty"},
    "comparability": {"errors", "records", "registry"},
    "report": FOUNDATION | {"comparability"},
    "subsets": FOUNDATION | {"features"},
    "streaming": FOUNDATION | {"preflight", "requests", "measuring", "pipeline", "outcome", "features", "environment"},
    "conformance": {"arrays", "contracts"},
    "measuring": FOUNDATION
    | {"likelihoods", "identities", "features", "subsets", "registry", "protocols", "environment", "report"},
    "display": {"errors", "records", "report"},
    "outcome": {"records", "report", "display"},
    "progress": {"errors"},
    "console": {"errors", "progress", "ranks", "registry", "protocols", "stopping"},
    "preflight": FOUNDATION | {"measuring", "features", "generation", "report", "tables"},
    "sets": FOUNDATION | {"measuring", "registry", "subsets"},
    "pipeline": FOUNDATION
    | {"sets", "preflight", "measuring", "features", "subsets", "generation", "registry", "protocols", "environment"}
    | {"identities", "likelihoods", "report", "outcome"},
    "requests": FOUNDATION | {"sets", "outcome", "measuring", "pipeline", "generation", "registry", "protocols"},
    "reference_statistics": FOUNDATION
    | {"environment", "features", "identities", "measuring", "preflight", "protocols", "records"},
    "costs": FOUNDATION | {"registry", "pieces"},
    "planning": FOUNDATION
    | {"costs", "measuring", "pipeline", "generation", "registry", "protocols", "environment", "report"},
    "doctor": FOUNDATION | {"registry", "environment", "describe"},
    "advice": {"display", "errors", "papers", "records", "registry", "report", "tables"},
    "describe": FOUNDATION | {"advice", "registry", "protocols"},
    "baseline": FOUNDATION | {"comparability", "report"},
    "sides": FOUNDATION
    | {"baseline", "comparability", "identities", "measuring", "outcome", "pipeline", "protocols", "report"}
    | {"requests"},
    "comparison": FOUNDATION | {"comparability", "differences", "display", "measuring", "report", "requests", "sides"},
    "acceptance": FOUNDATION
    | {"baseline", "comparison", "environment", "features", "measuring", "pipeline", "protocols", "requests", "sides"},
    "gating": FOUNDATION
    | {"baseline", "comparison", "differences", "display", "identities", "measuring", "pipeline", "protocols"}
    | {"requests", "rules", "sides"},
    "reporters": {"errors", "records", "files", "report", "comparison", "gating"},
    "moved": FOUNDATION | {"comparison", "environment", "features", "measuring", "sides"},
    "rules": {"errors", "records", "differences"},
    "exports": {"display", "errors", "files", "images", "outcome", "records", "registry", "report", "sides"},
    "benchmark": FOUNDATION | {"measuring", "pipeline", "planning", "preflight", "registry", "report", "requests"},
    "leaderboard": FOUNDATION | {"comparability", "measuring", "pipeline", "registry", "report", "requests"},
    "housekeeping": FOUNDATION | {"feature_files", "generation", "report"},
    "standings": {"differences", "display", "errors", "records", "registry", "tables", "uncertainty"},
    "page": FOUNDATION
    | {"comparability", "comparison", "display", "leaderboard", "moved", "registry", "report", "standings"},
    "commands": FOUNDATION
    | {"acceptance", "baseline", "comparison", "console", "display", "gating", "measuring", "pipeline", "report"}
    | {"reference_statistics", "preflight", "reporters", "requests", "rules", "sides", "exports", "images", "moved"}
    | {"benchmark", "leaderboard", "planning", "standings", "housekeeping", "sets", "page"},
    "api": FOUNDATION | {"requests", "measuring", "pipeline", "outcome", "protocols", "progress"},
    "cli": FOUNDATION
    | {
        "advice",
        "commands",
        "exports",
        "requests",
        "sets",
        "display",
        "outcome",
        "progress",
        "preflight",
        "console",
        "measuring",
        "pipeline",
        "registry",
        "protocols",
        "report",
        "planning",
        "doctor",
        "describe",
    },
}


def imported(path: Path) -> set[str]:
    """Full names of the modules and attributes that a file imports, at the top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def modules(root: Path, package: str) -> list[Path]:
    return [p for p in (root / package).rglob("*.py") if p.name not in ("__init__.py", "__main__.py")]


def test_imports_point_one_way(root: Path) -> None:
    for path in modules(root, "genbench"):
        parts = path.relative_to(root / "genbench").with_suffix("").parts
        home = parts[0]
        assert home in ALLOWED, f"{path} has no place in the table of imports"
        for name in imported(path):
            if not name.startswith("genbench."):
                continue
            target = name.split(".")[1]
            if target == home:
                # Files of one room may share; metrics, extractors and data sets never see each other.
                continue
            if target != "__version__":
                assert target in ALLOWED[home], f"genbench.{'.'.join(parts)} may not import {name}"


ROOMS: dict[str, set[str]] = {
    # What a reader reads first: noise is added, undone and walked.
    "noise": set(),
    "ranges": set(),
    "schedules": {"ranges"},
    "networks": set(),
    "processes": {"ranges", "schedules"},
    "denoisers": {"schedules"},
    "guidance": {"denoisers", "schedules"},
    "steps": {"denoisers", "noise", "ranges", "schedules"},
    "sampling": {"denoisers", "noise", "schedules", "steps"},
    "multistep": {"denoisers", "noise", "schedules", "steps"},
    "analytic": {"denoisers", "noise", "ranges", "schedules", "steps"},
    "langevin": {"denoisers", "noise", "processes", "ranges", "schedules", "steps"},
    "ode": {"denoisers", "noise", "ranges", "sampling", "schedules", "steps"},
    "adaptive": {"denoisers", "noise", "ode", "processes", "ranges", "sampling", "steps"},
    "score_matching": set(),
    "learned": {"denoisers", "noise", "schedules", "steps"},
    "adversarial": {"denoisers", "noise", "schedules", "steps", "training"},
    "joint": {"denoisers", "networks", "processes", "schedules", "training"},
    "equilibrium": {"denoisers", "noise", "schedules", "steps", "training"},
    "importance": {"denoisers", "schedules", "training"},
    "subspace": {"denoisers", "noise", "sampling", "schedules", "steps"},
    "training": {"denoisers", "networks", "schedules"},
    "distillation": {"training"},
    "damped": {"denoisers", "noise", "ode", "ranges", "sampling", "schedules", "steps", "training"},
    "variational": {"denoisers", "networks", "noise", "schedules", "training"},
    "likelihood": {"analytic", "denoisers", "noise", "ode", "schedules", "steps", "training"},
    # What is read of others, and how systems are put together.
    "records": {"schedules"},
    "files": {"damped", "denoisers", "networks", "processes", "ranges", "records", "schedules"},
    "conditions": {"files"},
    "system": {
        "analytic",
        "conditions",
        "denoisers",
        "files",
        "guidance",
        "likelihood",
        "noise",
        "sampling",
        "schedules",
    },
}
"""Room of baselines to the rooms that it imports, no more and no fewer. Systems may import all of them."""


def test_rooms_of_baselines_import_what_the_table_says(root: Path) -> None:
    used: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in modules(root, "baselines"):
        home = path.relative_to(root / "baselines").with_suffix("").parts[0]
        if home != "systems":
            targets = {name.split(".")[1] for name in imported(path) if name.startswith("baselines.")}
            used.setdefault(home, set()).update(targets - {home})
    assert used == ROOMS


def test_files_of_baselines_import_each_other_in_no_circle(root: Path) -> None:
    files = {".".join(path.relative_to(root).with_suffix("").parts): path for path in modules(root, "baselines")}
    names = {name: imported(path) for name, path in files.items()}
    edges = {
        name: {target for target in files if any(f"{one}.".startswith(f"{target}.") for one in names[name])} - {name}
        for name in files
    }
    while ready := [name for name, targets in edges.items() if not targets & edges.keys()]:
        for name in ready:
            del edges[name]
    assert not edges, f"a circle among {', '.join(edges)}"


def test_baselines_know_nothing_of_genbench(root: Path) -> None:
    for path in (root / "baselines").rglob("*.py"):
        assert not any(name.split(".")[0] == "genbench" for name in imported(path)), path


def test_genbench_reaches_components_by_text_only(root: Path) -> None:
    for path in modules(root, "genbench"):
        names = imported(path)
        assert not any(name.split(".")[0] == "baselines" for name in names), path
        if path.parent.name not in ("metrics", "datasets", "extractors"):
            rooms = ("genbench.metrics", "genbench.datasets", "genbench.extractors")
            assert not any(name.startswith(rooms) for name in names), path


@pytest.mark.parametrize("command", ["import genbench", "MAIN --help", "MAIN list", "MAIN run --help"])
def test_light_commands_import_neither_torch_nor_pandas(command: str, clean_environment: dict[str, str]) -> None:
    code = command if command.startswith("import") else f"from genbench.cli import main; main({command.split()[1:]!r})"
    code += "\nimport sys; heavy = {'torch', 'pandas', 'scipy', 'PIL'} & set(sys.modules); assert not heavy, heavy"
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_file_is_unpickled_and_no_seed_is_global(root: Path) -> None:
    for package in ("genbench", "baselines"):
        for path in modules(root, package):
            text = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                called = ast.unparse(node.func)
                given = {k.arg: ast.unparse(k.value) for k in node.keywords}
                if called == "torch.load":
                    assert given.get("weights_only") == "True", f"{path}:{node.lineno}"
                if called == "np.load":
                    assert given.get("allow_pickle") == "False", f"{path}:{node.lineno}"
                assert called not in ("torch.manual_seed", "np.random.seed", "random.seed"), f"{path}:{node.lineno}"


def test_every_room_is_told_to_contributors() -> None:
    """The tables of CONTRIBUTING.md name every file and folder of both packages."""
    root = Path(__file__).resolve().parent.parent
    told = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for package in ("genbench", "baselines"):
        rooms = {path.stem for path in (root / package).iterdir() if not path.name.startswith(("_", "py.typed"))}
        assert not {room for room in rooms if f"`{room}`" not in told and f"`{room}/`" not in told}
