"""Readers beside a writer: eight of them, four processes of two threads, ask while artifacts are committed.

Each answer must be that of whole commits, whatever the moment: all rows of an artifact or none, and 'other' made of the
very concepts that are there.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from storage.catalog.query import run_query
from storage.identity import artifact_id
from storage.statistics.sums import FIXED_POINT, Sums, write_statistics
from storage.workspace import Workspace
from tests.storage.conftest import random_sums

ROOT = Path(__file__).parents[3]
SAES = ("sae_a", "sae_b")
STEPS, LATENTS = (20, 40, 60), 3000
CONCEPTS = [f"concept {i}" for i in range(12)]
SUMS = "SELECT concept, sae_id, count(*), sum(fires)::BIGINT, sum(sum) FROM statistics GROUP BY ALL ORDER BY ALL"
OTHERS = """
    SELECT concept, sae_id, count(*), sum(mean_other) FROM scores WHERE timestep = 40 GROUP BY ALL ORDER BY ALL
"""
READER = """
import json, os, sys, threading, time
from pathlib import Path
from storage import connect
root, folder, sums, others = sys.argv[1:]

def read(number):
    with open(f"{folder}/{os.getpid()}-{number}.jsonl", "w") as file:
        last = False
        while not last:
            last = Path(folder, "stop").exists()
            start = time.monotonic()
            with connect(root, threads=1) as connection:
                answers = [connection.execute(sql).fetchall() for sql in (sums, others, sums)]
            file.write(json.dumps([*answers, time.monotonic() - start]) + "\\n")
            file.flush()

threads = [threading.Thread(target=read, args=(number,)) for number in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def sums_of(concept: str, sae: str) -> Sums:
    return random_sums(CONCEPTS.index(concept) * 10 + SAES.index(sae), STEPS, LATENTS)


def commit(workspace: Workspace, concept: str, pause: float) -> None:
    """As a run does it, but with a rest after each file: a moment in which a reader could see half."""
    about = {"domain": "style", "concept": concept, "protocol": "p", "model_id": "m", "half": "conditional"}
    name = artifact_id("score", 1, about)
    for sae in SAES:
        write_statistics(workspace.folder(name) / sae, sums_of(concept, sae))
        time.sleep(pause)
    saes = [{"sae_id": sae, "hookpoint": "unet.mid_block", "folder": sae, "n_images": 3} for sae in SAES]
    workspace.commit(name, config={}, inputs={}, summary=about | {"saes": saes}, seconds=1.0)


def means(concepts: set[str], sae: str) -> dict[str, float]:
    """Of each concept: the sum over latents of the mean over the others' rows at timestep 40."""
    parts = {concept: sums_of(concept, sae) for concept in concepts}
    at = STEPS.index(40)
    sums = {c: int(p.sum_fixed[at].sum()) for c, p in parts.items()}
    rows = {c: int(p.n_rows[at]) for c, p in parts.items()}
    total, n_rows = sum(sums.values()), sum(rows.values())
    return {
        c: (total - sums[c]) / FIXED_POINT / (n_rows - rows[c]) if len(concepts) > 1 else 0.0 for c in sorted(concepts)
    }


def test_eight_readers_see_whole_commits_while_a_run_writes(tmp_path: Path) -> None:
    workspace, answers = Workspace.open(tmp_path / "work"), tmp_path / "answers"
    answers.mkdir()
    commit(workspace, CONCEPTS[0], 0)
    command = [sys.executable, "-c", READER, str(workspace.root), str(answers), SUMS, OTHERS]
    readers = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    # A run holds a lock on what it makes, and may hold it for hours: readers do not ask for it.
    with workspace.lock("the artifact"):
        while sum(path.stat().st_size > 0 for path in answers.iterdir()) < 8:
            assert all(reader.poll() is None for reader in readers), readers[0].communicate()
            time.sleep(0.05)
        for concept in CONCEPTS[1:]:
            commit(workspace, concept, 0.1)
        (answers / "stop").touch()
        errors = [reader.communicate(timeout=300)[1] for reader in readers]
    assert [reader.returncode for reader in readers] == [0] * 4
    assert not any("Traceback" in text for text in errors), errors
    printed = [path.read_text() for path in answers.glob("*.jsonl")]
    assert len(printed) == 8
    expected = {
        (concept, sae): (len(STEPS) * LATENTS, int(sums.fires.sum()), int(sums.sum_fixed.sum()) / FIXED_POINT)
        for concept in CONCEPTS
        for sae in SAES
        for sums in [sums_of(concept, sae)]
    }
    numbers = set()
    for text in printed:
        for answer in text.splitlines():
            sums, others, again, seconds = json.loads(answer)
            assert again == sums, "one connection, one state"
            seen = {concept for concept, *_ in sums}
            numbers.add(len(seen))
            assert [(c, s) for c, s, *_ in sums] == [(c, s) for c in sorted(seen) for s in SAES]
            for concept, sae, count, fires, total in sums:
                assert (count, fires) == expected[concept, sae][:2]
                np.testing.assert_allclose(total, expected[concept, sae][2], rtol=1e-12)
            assert [(c, s, n) for c, s, n, _ in others] == [(c, s, LATENTS) for c in sorted(seen) for s in SAES]
            for sae in SAES:
                found = {c: total for c, s, _, total in others if s == sae}
                wanted = means(seen, sae)
                np.testing.assert_allclose([found[c] for c in wanted], list(wanted.values()), rtol=1e-9)
            # The writer worked for seconds in all, under a lock: a reader that waited for it would show.
            assert seconds < 60
    assert max(numbers) == len(CONCEPTS) and len(numbers) > 3, f"the readers saw only {sorted(numbers)} concepts"


def test_a_query_sees_what_was_committed_when_it_was_asked(tmp_path: Path) -> None:
    workspace = Workspace.open(tmp_path / "work")
    for number, concept in enumerate(CONCEPTS[:4], start=1):
        # What a killed run left: all files of an artifact, and no manifest.
        write_statistics(workspace.folder(artifact_id("score", 1, concept)) / "sae_a", sums_of(concept, "sae_a"))
        commit(workspace, concept, 0)
        [row] = run_query(
            workspace, "SELECT count(DISTINCT concept) AS n, count(*) AS rows FROM statistics"
        ).to_pylist()
        assert row == {"n": number, "rows": number * len(SAES) * len(STEPS) * LATENTS}
