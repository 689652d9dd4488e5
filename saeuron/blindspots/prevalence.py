"""How often each latent is there in generated pictures and in real ones (2506.19708: third-party notes and its site).

    real_i, gen_i = mean over pictures of xi_i        share_i = gen_i / (gen_i + real_i), 1/2: as often
    delta_i       = sigmoid(gen_i - real_i), the paper's: below 0.1 suppressed, above 0.9 exaggerated

delta is bound to the scale of activations: it needs a difference of 2.2. So share decides here: suppressed below 1/3,
exaggerated above 2/3, if the difference is beyond chance. The chance is that of exchange: where real and generated
pictures are alike, nothing changes if the two of a prompt change places (without pairs: any of either side). p is the
share of such exchanges with at least this difference of gen_i and real_i, and q is Benjamini-Hochberg's (1995), over
the latents that have at least 1e-4 of the whole mass. The interval of a share is a bootstrap by prompt.

Beside another model that draws the same prompts from the same noise, whatever a change leaves alone is on both sides,
and its faint activations bring every share near to 1/2: a concept of 24 in 480 prompts is less than half the mass of
its latents. There p stays as it is, and share counts the pictures on which a latent fires (`counted`).
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from saeuron.noise import derive_seed

Numbers = NDArray[np.float64]
Verdict = Literal["suppressed", "exaggerated", "alike", "rare"]
SUPPRESSED, EXAGGERATED = 1 / 3, 2 / 3
"""Shares below and above which a latent is said to be drawn too rarely, and too often."""
LEVEL = 0.05
"""Share of false discoveries that is borne, and of chance that an interval leaves out."""
FLOOR = 1e-4
"""Share of the whole mass below which a latent is too rare to be judged."""
DRAWS = 2000
"""Bootstrap draws of an interval."""
_LEAST, _EACH, _TOGETHER = 10_000, 40, 2000
"""Exchanges at least; exchanges for each latent, so that p can be below LEVEL / latents; how many at once."""


class Prevalence(NamedTuple):
    """One entry for each of N latents."""

    real: Numbers
    generated: Numbers
    share: Numbers
    """NaN for a latent that is silent on either side."""
    low: Numbers
    high: Numbers
    delta: Numbers
    p: Numbers
    """NaN for a rare latent."""
    q: Numbers
    verdict: list[Verdict]


def prevalence(
    real: Numbers,
    generated: Numbers,
    *seed: object,
    paired: bool = True,
    counted: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
) -> Prevalence:
    """Compare xi of real pictures [n, N] with that of generated ones [m, N].

    Args:
        seed: parts of the seed of draws.
        paired: row i of either is of the same prompt, n = m. Otherwise rows are taken as independent.
        counted: whether latents fire on the same pictures; shares are of their numbers then, and not of xi.

    Raises:
        ValueError: there are no pictures, or pairs without a partner.
    """
    if not len(real) or not len(generated) or (paired and len(real) != len(generated)):
        raise ValueError(f"{len(real)} real and {len(generated)} generated pictures, paired {paired}")
    mean, made = real.mean(0), generated.mean(0)
    mass = mean + made
    first, second = (counted[0].astype(np.float64), counted[1].astype(np.float64)) if counted else (real, generated)
    with np.errstate(invalid="ignore"):
        share = second.mean(0) / (first.mean(0) + second.mean(0))
    judged = mass >= FLOOR * mass.sum()
    judged &= mass > 0
    p = np.full(len(mass), np.nan)
    p[judged] = _exchanged(real[:, judged], generated[:, judged], paired, derive_seed("exchange", *seed))
    q = np.full(len(mass), np.nan)
    q[judged] = benjamini_hochberg(p[judged])
    low, high = _interval(first, second, paired, derive_seed("prevalence", *seed))
    found: list[Verdict] = []
    for i in range(len(mass)):
        beyond = judged[i] and q[i] <= LEVEL
        if not judged[i]:
            found.append("rare")
        elif beyond and share[i] < SUPPRESSED:
            found.append("suppressed")
        elif beyond and share[i] > EXAGGERATED:
            found.append("exaggerated")
        else:
            found.append("alike")
    delta = 1 / (1 + np.exp(-(made - mean)))
    return Prevalence(mean, made, share, low, high, delta, p, q, found)


def benjamini_hochberg(p: Numbers) -> Numbers:
    """q: the least rate of false discoveries at which each of these would be one, min over j >= i of p_(j) m / j."""
    order = np.argsort(p, kind="stable")
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    found = np.empty_like(p)
    found[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1)
    return found


def strongest(found: Prevalence, verdict: Verdict) -> list[int]:
    """The latents of a verdict, the surest first: by the end of the interval that is nearer to one half."""
    mine = [i for i, v in enumerate(found.verdict) if v == verdict]
    suppressed = verdict == "suppressed"
    return sorted(mine, key=lambda i: (found.high[i], found.share[i]) if suppressed else (-found.low[i],))


def _exchanged(real: Numbers, generated: Numbers, paired: bool, seed: int) -> Numbers:
    """p of each latent, [N]; the given arrangement is one of those counted."""
    draws = max(_LEAST, _EACH * real.shape[1])
    if paired:
        values = generated - real
        observed = np.abs(values.sum(0))
    else:
        values = np.concatenate([generated, real])
        observed = np.abs(generated.mean(0) - real.mean(0))
    # Rounding must not tell equal arrangements apart.
    least = observed * (1 - 1e-5) - 1e-12
    values = values.astype(np.float32)
    count = np.zeros(real.shape[1], dtype=np.int64)
    for weights in _arrangements(len(generated), len(real), paired, draws, seed):
        count += (np.abs(weights @ values) >= least).sum(0)
    p: Numbers = (count + 1) / (draws + 1)
    return p


def _arrangements(made: int, real: int, paired: bool, draws: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Weights of rows, [some draws, rows]: +-1 for pairs, else 1/made for the chosen ones and -1/real for the rest."""
    chance = np.random.default_rng(seed)
    for start in range(0, draws, _TOGETHER):
        size = min(_TOGETHER, draws - start)
        if paired:
            yield (2 * chance.integers(2, size=(size, made), dtype=np.int8) - 1).astype(np.float32)
            continue
        chosen = chance.random((size, made + real), dtype=np.float32).argpartition(made - 1, axis=1)[:, :made]
        weights = np.full((size, made + real), -1 / real, dtype=np.float32)
        np.put_along_axis(weights, chosen, np.float32(1 / made), axis=1)
        yield weights


def _interval(real: Numbers, generated: Numbers, paired: bool, seed: int) -> tuple[Numbers, Numbers]:
    """The 95 % percentile interval of each share, prompts resampled; draws without the latent are left out."""
    chance = np.random.default_rng(seed)
    shares = []
    for start in range(0, DRAWS, _TOGETHER):
        size = min(_TOGETHER, DRAWS - start)
        mine = _times(chance, size, len(real))
        made = (mine if paired else _times(chance, size, len(generated))) @ generated
        with np.errstate(invalid="ignore"):
            shares.append(made / (made + mine @ real))
    every = np.concatenate(shares)
    known = np.isfinite(every).any(0)
    low, high = (np.full(real.shape[1], np.nan) for _ in range(2))
    low[known], high[known] = np.nanpercentile(every[:, known], [2.5, 97.5], axis=0)
    return low, high


def _times(chance: np.random.Generator, draws: int, n: int) -> Numbers:
    """How often each of n rows is drawn, as weights that sum to 1; [draws, n]."""
    return chance.multinomial(n, np.full(n, 1 / n), draws) / n


class Together(NamedTuple):
    """Two latents that are seen together more, or less, in generated pictures than in real ones."""

    a: int
    b: int
    real: float
    """Lift among real pictures: P(a and b) / (P(a) P(b))."""
    generated: float


def lifts(real: NDArray[np.bool_], generated: NDArray[np.bool_], least: int = 5) -> list[Together]:
    """The pairs whose lift differs most, as a ratio, the largest first; from which latents fire, [n, N] and [m, N].

    Pairs that fewer than `least` pictures of either side would show by chance are left out. A half is added to counts.
    """
    sides = []
    for fires in (real, generated):
        f = fires.astype(np.float64)
        expected = np.outer(f.sum(0), f.sum(0)) / max(len(f), 1)
        sides.append((f.T @ f, expected))
    (both, due), (both_made, due_made) = sides
    enough = np.triu((due >= least) & (due_made >= least), 1)
    a, b = np.nonzero(enough)
    lift, made = (both + 0.5) / (due + 0.5), (both_made + 0.5) / (due_made + 0.5)
    found = [Together(int(i), int(j), float(lift[i, j]), float(made[i, j])) for i, j in zip(a, b, strict=True)]
    return sorted(found, key=lambda t: -abs(np.log(t.generated / t.real)))
