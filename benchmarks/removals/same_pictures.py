"""How many pictures a removal leaves as they are, to the bit: those that ask for another concept of its domain.

    saeuron run && python -m benchmarks.removals.same_pictures --workspace workspace

Stored pictures are compared, so nothing is drawn. Of each removal its newest evaluation counts; with a Wilson interval.
"""

from collections import defaultdict
from pathlib import Path

from benchmarks.results import Figure, parser, show
from saeuron.figures.metrics import wilson
from storage import Workspace
from tasks import images


def main() -> None:
    """Compare, and print a line for each domain and method."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--workspace", type=Path, default=Path("workspace"))
    options = arguments.parse_args()
    workspace = Workspace.open(options.workspace, create=False)
    newest = {}
    for manifest in sorted(workspace.artifacts("evaluation"), key=lambda m: m.created):
        newest[manifest.config["concept"], manifest.config["method"]] = manifest
    counts: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for (concept, method), manifest in sorted(newest.items()):
        domain = manifest.config["domain"]
        [edited], unedited = manifest.config["edited"], manifest.config["unedited"]
        rows = [r for r in images.index(workspace, edited) if dict(r["asked"]).get(domain, concept) != concept]
        keys = {r["key"] for r in rows}
        mine = images.pictures(workspace, edited, keys)
        theirs = {k: v for name in unedited for k, v in images.pictures(workspace, name, keys).items()}
        counts[domain, method] += [bool((mine[k] == theirs[k]).all()) for k in sorted(keys)]
    figures = []
    for (domain, method), same in sorted(counts.items()):
        low, high = wilson(sum(same), len(same))
        told = f"{domain} by {method}: {sum(same)} of {len(same)} ({100 * low:.1f} to {100 * high:.1f} %)"
        figures.append(Figure(told, 100 * sum(same) / len(same), "%"))
    show(figures, options.json)


if __name__ == "__main__":
    main()
