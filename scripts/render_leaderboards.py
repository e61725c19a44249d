"""Renders `leaderboards/shapes*.csv` as Markdown tables beside them; `--check` writes nothing and fails at old ones.

python -m scripts.render_leaderboards [--check]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from genbench.display import rounded
from genbench.records import Ref

HOME = Path(__file__).resolve().parent.parent / "leaderboards"


def cell(row: pd.Series) -> str:
    """A value with its standard error."""
    error = None if pd.isna(row.stderr) else float(row.stderr)
    return rounded(row.value, error) + ("" if error is None else f" ± {rounded(error, error)}")


def table(path: Path) -> str:
    """One row a model, one column a metric, the floors below; one table for every data set and count."""
    rows = pd.read_csv(
        path, keep_default_na=False, na_values={"value": "", "stderr": "", "floor": "", "floor_stderr": ""}
    )
    rows["value"] = rows["value"].astype(float)
    rows["name"] = [Ref.parse(m).name for m in rows.metric]
    parts = [
        f"# {path.stem}, measured\n",
        f"Made from `{path.name}` by `scripts/render_leaderboards.py`. Do not edit.\n",
    ]
    for (dataset, count), group in rows.groupby(["dataset", "num_samples"], sort=True):
        names = list(dict.fromkeys(group.name))
        references = sorted({r for r in group.reference if r})
        parts += [f"\n`{dataset}`, {count} samples, reference {' and '.join(references)}; value ± standard error.\n"]
        parts += [f"| model | evaluations | {' | '.join(names)} |", "|---|---:|" + "---:|" * len(names)]
        floors: dict[str, dict[str, None]] = {}
        # Other arithmetic is another row: the same run in bfloat16 has other images.
        shown = [
            f"`{m}`" + (f" in {p}" if p != "float32" else "") for m, p in zip(group.model, group.precision, strict=True)
        ]
        group = group.assign(model=shown, steps=group.evaluations.astype(float))
        order = group.sort_values(["steps", "model"], kind="stable")
        for model in dict.fromkeys(order.model):
            mine = {r.name_: r for r in group[group.model == model].rename(columns={"name": "name_"}).itertuples()}
            cells = [cell(pd.Series(mine[n]._asdict())) if n in mine else "" for n in names]
            parts.append(f"| {model} | {next(iter(mine.values())).evaluations} | {' | '.join(cells)} |")
            for n, r in mine.items():
                if not pd.isna(r.floor):
                    floors.setdefault(n, {})[cell(pd.Series({"value": float(r.floor), "stderr": r.floor_stderr}))] = (
                        None
                    )
        # Captions are of the class or of the whole image, by the model: one metric then has two floors.
        last = " | ".join(" or ".join(floors.get(n, ())) for n in names)
        parts.append(f"| *real held-out images (floor)* | | {last} |")
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a table is not that of its CSV")
    args = parser.parse_args()
    stale = []
    for path in sorted(HOME.glob("shapes*.csv")):
        text, target = table(path), path.with_suffix(".md")
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            stale.append(target.name)
            if not args.check:
                target.write_text(text, encoding="utf-8")
    if args.check and stale:
        raise SystemExit(f"Not up to date: {', '.join(stale)}; run scripts/render_leaderboards.py.")


if __name__ == "__main__":
    main()
