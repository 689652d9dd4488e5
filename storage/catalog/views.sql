-- The views of a workspace. The schema `source` is filled when connecting: one small table per kind of manifest, and
-- *_rows over the Parquet files, where file_index is the index of the file in the list (source.<kind>_files).
-- Views of one file per artifact, or of its summary, are declared instead (storage/tables.py, declared.py).

CREATE VIEW statistics AS
SELECT
    f.score_id, f.sae_id, f.hookpoint, f.protocol, f.domain, f.concept, f.half, s.timestep, s.latent,
    s.fires, s.image_fires,
    s.sum_fixed / 16777216.0::DOUBLE AS sum,
    s.sumsq_fixed / 16777216.0::DOUBLE AS sumsq,
    s.max, c.n_rows, c.n_images,
    s.sum_fixed / (16777216.0::DOUBLE * c.n_rows) AS mean
FROM source.statistics_rows s
JOIN source.cell_rows c ON c.file_index = s.file_index AND c.timestep = s.timestep
JOIN source.score_files f ON f.file_index = s.file_index;

-- The same rows, from files ordered by latent: for queries about one or a few latents.
CREATE VIEW statistics_by_latent AS
SELECT
    f.score_id, f.sae_id, f.hookpoint, f.protocol, f.domain, f.concept, f.half, s.timestep, s.latent,
    s.fires, s.image_fires,
    s.sum_fixed / 16777216.0::DOUBLE AS sum,
    s.sumsq_fixed / 16777216.0::DOUBLE AS sumsq,
    s.max, s.n_rows, s.n_images,
    s.sum_fixed / (16777216.0::DOUBLE * s.n_rows) AS mean
FROM (
    SELECT m.score_index, p.* EXCLUDE (member, file_index)
    FROM source.pack_rows p JOIN source.pack_members m ON m.file_index = p.file_index AND m.member = p.member
    UNION ALL
    SELECT o.score_index, r.* EXCLUDE (file_index)
    FROM source.own_rows r JOIN source.own_files o ON o.file_index = r.file_index
) s
JOIN source.score_files f ON f.file_index = s.score_index;

-- The cell of each current concept, with what a score needs of it. A table, because it is small and read for every row.
CREATE TABLE source.cells AS
WITH domains AS (
    SELECT totals_index, timestep, sum(n_rows) AS n_rows, sum(mass) AS mass FROM source.current_cells GROUP BY ALL
)
SELECT
    c.file_index, c.totals_index, c.timestep,
    f.score_id, f.sae_id, f.hookpoint, f.protocol, f.domain, f.concept,
    16777216.0::DOUBLE * c.n_rows AS units,
    16777216.0::DOUBLE * (d.n_rows - c.n_rows) AS units_other,
    c.mass / units + 1e-8 AS norm,
    CASE WHEN units_other > 0 THEN (d.mass - c.mass) / units_other ELSE 0 END + 1e-8 AS norm_other
FROM source.current_cells c
JOIN domains d ON d.totals_index = c.totals_index AND d.timestep = c.timestep
JOIN source.score_files f ON f.file_index = c.file_index;

-- Score of a latent for a concept (arXiv 2501.18052, section 4):
--   share(i) - share_other(i), share(i) = mean(i) / (sum_j mean(j) + 1e-8), 'other' = the pooled rest of the domain.
-- 'other' is the domain's total minus the concept's own sums. Sums are integers up to the last division, so the order
-- of work changes no bit. Totals are in files; if these are stale, `loose` rows are summed.
-- Rows are joined to totals by a LEFT JOIN: otherwise DuckDB might first join the totals with every concept, which
-- takes 25 s on 51 million rows, and this 4 s.
CREATE VIEW scores AS
WITH totals AS (
    SELECT file_index AS totals_index, timestep, latent, sum_fixed FROM source.totals_rows
    UNION ALL
    SELECT l.totals_index, s.timestep, s.latent, sum(s.sum_fixed)::BIGINT
    FROM source.loose_rows s JOIN source.loose_files l ON l.file_index = s.file_index
    GROUP BY ALL
),
own AS (
    SELECT c.*, r.latent, r.sum_fixed
    FROM source.statistics_rows r
    JOIN source.cells c ON c.file_index = r.file_index AND c.timestep = r.timestep
)
SELECT
    o.score_id, o.sae_id, o.hookpoint, o.protocol, o.domain, o.concept, o.timestep, o.latent,
    o.sum_fixed / o.units AS mean,
    CASE WHEN o.units_other > 0 THEN (t.sum_fixed - o.sum_fixed)::DOUBLE / o.units_other ELSE 0 END AS mean_other,
    mean / o.norm AS share,
    mean_other / o.norm_other AS share_other,
    share - share_other AS score
FROM own o
LEFT JOIN totals t ON t.totals_index = o.totals_index AND t.timestep = o.timestep AND t.latent = o.latent;

-- The same of one or a few latents, from files ordered by latent. 'Other' is summed from the rows themselves: all
-- concepts of the domain have one. Partitioned by every name, so that a filter on one comes before the window.
CREATE VIEW scores_by_latent AS
WITH own AS (
    SELECT c.*, s.latent, s.sum_fixed
    FROM (
        SELECT m.score_index, p.timestep, p.latent, p.sum_fixed
        FROM source.pack_rows p JOIN source.pack_members m ON m.file_index = p.file_index AND m.member = p.member
        UNION ALL
        SELECT o.score_index, r.timestep, r.latent, r.sum_fixed
        FROM source.own_rows r JOIN source.own_files o ON o.file_index = r.file_index
    ) s
    JOIN source.cells c ON c.file_index = s.score_index AND c.timestep = s.timestep
),
summed AS (
    SELECT *, (sum(sum_fixed) OVER (PARTITION BY totals_index, sae_id, protocol, domain, timestep, latent))::BIGINT AS total
    FROM own
)
SELECT
    score_id, sae_id, hookpoint, protocol, domain, concept, timestep, latent,
    sum_fixed / units AS mean,
    CASE WHEN units_other > 0 THEN (total - sum_fixed)::DOUBLE / units_other ELSE 0 END AS mean_other,
    mean / norm AS share,
    mean_other / norm_other AS share_other,
    share - share_other AS score
FROM summed;

-- An aggregate that keeps the 32 best, because a window would sort all latents. It groups by all names, so that a
-- filter on one of them is applied before the ranking. Equal scores: the lower latent first.
CREATE VIEW top_latents AS
WITH best AS (
    SELECT
        score_id, sae_id, hookpoint, protocol, domain, concept, timestep,
        max({score: score, lower: -latent::BIGINT, latent: latent, mean: mean, mean_other: mean_other}, 32) AS best
    FROM scores
    GROUP BY ALL
)
SELECT
    score_id, sae_id, hookpoint, protocol, domain, concept, timestep, rank,
    best[rank].latent AS latent, best[rank].score AS score,
    best[rank].mean AS mean, best[rank].mean_other AS mean_other
FROM (SELECT *, unnest(range(1, len(best) + 1)) AS rank FROM best);

-- Measurements of each SAE on held-out images, from the newest `saeuron sae report`, with the newest comparison with
-- another SAE.
CREATE VIEW latents AS
SELECT
    f.sae_id, f.hookpoint, l.latent, l.density,
    CASE WHEN l.density > 0 THEN log10(l.density) END AS log10_density,
    l.image_density, l.mean, l.maximum, l.dead, l.always_on, l.max_cosine, l.nearest,
    s.stability, s.counterpart, s.against_id
FROM source.latent_rows l
JOIN source.diagnosis_files f ON f.file_index = l.file_index AND f.current
LEFT JOIN (
    SELECT c.sae_id, c.against_id, r.latent, r.stability, r.counterpart
    FROM source.stability_rows r JOIN source.stability_files c ON c.file_index = r.file_index AND c.current
) s ON s.sae_id = f.sae_id AND s.latent = l.latent;

CREATE VIEW latent_steps AS
SELECT f.sae_id, f.hookpoint, p.latent, p.timestep, p.density, p.mean, p.maximum
FROM source.profile_rows p JOIN source.diagnosis_files f ON f.file_index = p.file_index AND f.current;

CREATE VIEW top_examples AS
SELECT f.sae_id, e.latent, e.rank, e.prompt_id, e.image_index, e.mean, e.timestep, e.position, e.value
FROM source.example_rows e JOIN source.diagnosis_files f ON f.file_index = e.file_index AND f.current;

CREATE VIEW sae_steps AS
SELECT f.sae_id, f.hookpoint, s.timestep, s.half, s.rows, s.fvu, s.relative, s.l0, s.loss_clean, s.loss_sae, s.loss_zero
FROM source.step_rows s JOIN source.diagnosis_files f ON f.file_index = s.file_index AND f.current;

CREATE VIEW removals AS SELECT * FROM source.removals;

CREATE VIEW runs AS SELECT * FROM source.runs;

-- Former names, for one release.
CREATE VIEW features AS SELECT * RENAME (latent AS feature) FROM statistics_by_latent;
CREATE VIEW top_features AS SELECT * RENAME (latent AS feature) FROM top_latents;

CREATE VIEW columns AS SELECT * FROM source.columns;
