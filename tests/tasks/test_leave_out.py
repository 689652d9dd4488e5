"""Figures of concepts in and out of an SAE's training, beside loops."""

import numpy as np
import pytest

from saeuron.figures.metrics import Judged, evaluate, summary, wilson
from tasks.measure import leave_out
from tasks.measure.leave_out import LeaveOutJob, permuted

DOMAINS, STYLES, OBJECTS = ("style", "object"), ("neon", "dots", "sepia"), ("cat", "star", "moon")
CONCEPTS = [("neon", "style"), ("dots", "style"), ("cat", "object"), ("star", "object")]


def images(gone: str, seed: int, right: float = 0.8) -> list[Judged]:
    chance, found = np.random.default_rng(seed), []
    for s in STYLES:
        for o in OBJECTS:
            for i in range(2):
                asked = {"style": s, "object": o}
                seen = {d: "other" if c == gone or chance.random() > right else c for d, c in asked.items()}
                found.append(Judged(f"{s} {o}", i, asked, seen))
    return found


def test_figures_are_means_over_concepts_and_differences_are_paired() -> None:
    kinds = ("in", "out", "untrained")
    edited = {(k, c): images(c, 10 * n + m) for n, k in enumerate(kinds) for m, (c, _) in enumerate(CONCEPTS)}
    plain = {c: images("", 99, 2.0) for c, _ in CONCEPTS}
    job = LeaveOutJob.model_construct(domains=DOMAINS)
    rows = {(r["kind"], r["metric"]): r for r in leave_out._rows(job, None, CONCEPTS, edited, plain)}

    def slow(of: dict[str, list[Judged]]) -> dict[str, float]:
        alone = [evaluate(d, c, DOMAINS, of[c], plain[c]) for c, d in CONCEPTS]
        found = {m: float(np.mean([x.value for a in alone for x in a if x.metric == m])) for m in ("UA", "IRA", "CRA")}
        return found | {"mean": float(np.mean([summary(a) for a in alone]))}

    means = {k: slow({c: edited[k, c] for c, _ in CONCEPTS}) for k in kinds} | {"unedited": slow(plain)}
    means["all"] = {m: (means["in"][m] + means["out"][m]) / 2 for m in means["in"]}
    for kind, expected in means.items():
        for metric, value in expected.items():
            assert rows[kind, metric]["value"] == pytest.approx(value, abs=1e-12), (kind, metric)
            assert rows[kind, metric]["control"] == (kind in ("untrained", "unedited"))
    for other in ("in", "untrained"):
        row = rows[f"out - {other}", "mean"]
        assert row["value"] == pytest.approx(means["out"]["mean"] - means[other]["mean"], abs=1e-12)
        assert row["low"] <= row["value"] <= row["high"]


def test_permuted_labels_are_those_of_the_next_left_out_concept_of_the_domain() -> None:
    out = {c: images(c, m) for m, (c, _) in enumerate(CONCEPTS)}
    found = permuted(CONCEPTS, out)
    gone = [
        j.seen[d] != c
        for c, d, other in (("neon", "style", "dots"), ("dots", "style", "neon"), ("cat", "object", "star"),
                            ("star", "object", "cat"))
        for j in out[other]
        if j.asked[d] == c
    ]  # fmt: skip
    assert found.value == pytest.approx(np.mean(gone)) and found.n_images == len(gone) == 24
    assert (found.low, found.high) == wilson(sum(gone), len(gone))
    # A removal that removes everything is caught: its permuted labels remove, too.
    all_gone = {
        c: [Judged(j.prompt_id, j.index, j.asked, dict.fromkeys(DOMAINS, "blank")) for j in out[c]] for c in out
    }
    assert permuted(CONCEPTS, all_gone).value == 1
    assert permuted(CONCEPTS[:1], out).value is None
