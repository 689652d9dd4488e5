"""How long Try it takes: from a request to both pictures, unedited and edited, on a workspace of canvas.

    saeuron run && python -m benchmarks.data.trying --workspace workspace

Each removal in use, and one latent of each trained SAE turned off, is asked for with the same prompt and another seed
each time, as the page asks. The first request waits for the model to load, as the first of an explorer does. `baseline`
is the limit. The processor's time says what the figure would be on a machine with nothing else to do.
"""

import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from fastapi.testclient import TestClient

from benchmarks.results import Figure, parser, show
from flows.explore.app import create
from flows.explore.guards import Guard
from flows.explore.shelves import Shelves
from storage import Workspace
from tasks.explore.studio import Studio

LIMIT = 2000
"""Milliseconds from a request to both pictures."""
PORT = 8130
POLL = 0.02
"""Seconds between two questions whether the pictures are there."""


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__ or "")
    arguments.add_argument("--workspace", type=Path, default=Path("workspace"))
    arguments.add_argument("--prompt", default="An image of a cat in neon style.")
    arguments.add_argument("--repeats", type=int, default=5)
    options = arguments.parse_args()
    shelves = Shelves(Workspace.open(options.workspace, create=False))
    trained = [m for m in shelves.shelf.of("sae") if m.summary.get("dictionary") in (None, "trained")]
    asked = {f"removal {c}.{method}": f"removal={c}.{method}" for c, method in sorted(shelves.shelf.in_use)}
    asked |= {f"latent 3 off, {m.summary['hookpoint']}": f"latent={m.id}:3:off" for m in trained}
    figures: list[Figure] = []
    with ExitStack() as stack:
        app = create(shelves, Studio(), Guard("127.0.0.1", PORT))
        base = f"http://127.0.0.1:{PORT}"
        client = stack.enter_context(TestClient(app, base_url=base, headers={"origin": base}))
        first, _ = _drawn(client, f"prompt={options.prompt}&seed=0")
        figures.append(Figure("the first picture, with the model's loading", first, "ms"))
        for name, edit in asked.items():
            found = [_drawn(client, f"prompt={options.prompt}&seed={i}&{edit}") for i in range(1, options.repeats + 1)]
            times, work = zip(*found, strict=True)
            typical = statistics.median(times)
            figures += [
                Figure(name, typical, "ms", LIMIT, typical / LIMIT),
                Figure("  slowest", max(times), "ms", LIMIT, max(times) / LIMIT),
                Figure("  processor, all threads", statistics.median(work), "ms"),
            ]
    show(figures, options.json)


def _drawn(client: TestClient, query: str) -> tuple[float, float]:
    """(milliseconds by the clock, of the processor) from a request to its pictures."""
    start, worked = time.perf_counter(), time.process_time()
    told = client.post("/api/try", content=query).json()
    while told.get("state") not in ("done", "failed", "cancelled"):
        if told.get("error"):
            raise SystemExit(f"{query}: {told['error']}")
        time.sleep(POLL)
        told = client.get(f"/api/jobs/{told['id']}").json()
    if told["state"] != "done" or client.get(f"/api/jobs/{told['id']}/unedited.png").status_code != 200:
        raise SystemExit(f"{query} ended as {told['state']}: {told.get('error', '')}")
    return 1000 * (time.perf_counter() - start), 1000 * (time.process_time() - worked)


if __name__ == "__main__":
    main()
