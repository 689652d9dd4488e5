"""The figures of a workspace's removals: mean over concepts of UA, IRA and CRA for each family, on test prompts.

    saeuron run canvas_full --workspace workspace
    python -m benchmarks.removals.means --workspace workspace

`baseline` is the unedited model on the same prompts and seeds. Only the newest evaluation of each concept counts.
"""

from pathlib import Path

from benchmarks.results import Figure, parser, show
from storage import Workspace
from storage.catalog.query import run_query

QUERY = """
with newest as (
    select *, max(seeds) over (partition by concept, method) as most from metrics
), chosen as (
    select * from newest where seeds = most
)
select domain, method, metric, avg(value) as value, avg(unedited) as unedited, count(distinct concept) as concepts,
       min(value) as least, stddev_pop(value) as spread, min(seeds) as seeds
from chosen where metric in ('UA', 'IRA', 'CRA', 'CRA-target') group by all order by domain, method, metric
"""


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--workspace", type=Path, default=Path("workspace"))
    options = arguments.parse_args()
    rows = run_query(Workspace.open(options.workspace, create=False), QUERY).to_pylist()
    figures = []
    for domain, method in dict.fromkeys((r["domain"], r["method"]) for r in rows):
        mine = {r["metric"]: r for r in rows if (r["domain"], r["method"]) == (domain, method)}
        for metric, r in mine.items():
            name = f"{domain} by {method}: {metric} ({r['concepts']} concepts, {r['seeds']} seeds)"
            figures.append(
                Figure(
                    name,
                    100 * r["value"],
                    "%",
                    100 * r["unedited"],
                    r["value"] / r["unedited"] if r["unedited"] else None,
                )
            )
            figures.append(Figure(f"  {metric}: standard deviation over concepts", 100 * r["spread"], "points"))
        three = [mine[m]["value"] for m in ("UA", "IRA", "CRA") if m in mine]
        figures.append(Figure(f"{domain} (UA + IRA + CRA) / 3", 100 * sum(three) / 3 if len(three) == 3 else None, "%"))
    show(figures, options.json)


if __name__ == "__main__":
    main()
