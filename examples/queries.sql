-- Ten questions to ask with `saeuron sql`, each run by the tests. Statements end with a semicolon.

-- What went and what stayed when a concept was removed, in percent, beside the unedited model?
select domain, concept, metric, round(100 * value, 1) as percent, round(100 * unedited, 1) as unedited, n_images
from metrics order by domain, concept, metric;

-- Which latents separate a concept best, at how many steps are they among its first eight, and at which one most?
select domain, concept, hookpoint, latent, count(*) as steps, arg_max(timestep, score) as timestep, max(score) as best
from top_latents where rank <= 8 group by domain, concept, hookpoint, latent
qualify row_number() over (partition by domain, concept, hookpoint order by best desc, latent) <= 3
order by domain, concept, hookpoint, best desc;

-- Which concepts share their best latents, so that removing one may touch the other?
with best as (
    select distinct sae_id, hookpoint, protocol, domain, concept, latent from top_latents where rank <= 8
), sizes as (
    select sae_id, protocol, domain, concept, count(*) as n from best group by all
), shared as (
    select a.sae_id, a.hookpoint, a.protocol, a.domain, a.concept, b.concept as other, count(*) as shared
    from best a join best b using (sae_id, protocol, domain, latent) where a.concept < b.concept group by all
)
select s.domain, s.hookpoint, s.concept, s.other, s.shared, round(s.shared / (m.n + n.n - s.shared), 3) as jaccard
from shared s
join sizes m on (m.sae_id, m.protocol, m.domain, m.concept) = (s.sae_id, s.protocol, s.domain, s.concept)
join sizes n on (n.sae_id, n.protocol, n.domain, n.concept) = (s.sae_id, s.protocol, s.domain, s.other)
order by jaccard desc, s.domain, s.hookpoint, s.concept, s.other limit 20;

-- What does a removal cost its nearest relatives, the three concepts with which it shares most of its best latents?
with best as (
    select distinct sae_id, protocol, domain, concept, latent from top_latents where rank <= 8
), relatives as (
    select a.domain, a.concept, b.concept as relative, count(*) as shared
    from best a join best b using (sae_id, protocol, domain, latent) where a.concept <> b.concept
    group by a.domain, a.concept, b.concept
    qualify row_number() over (partition by a.domain, a.concept order by shared desc, relative) <= 3
)
select
    r.domain, r.concept as removed, n.relative, n.shared,
    round(100 * avg((j.label = n.relative)::int) filter (len(i.removals) > 0), 1) as still_seen,
    round(100 * avg((j.label = n.relative)::int) filter (len(i.removals) = 0), 1) as unedited,
    count(*) filter (len(i.removals) > 0) as images
from removals r
join relatives n using (domain, concept)
join judgements j on j.domain = r.domain and j.asked = n.relative
join images i on i.image_set_id = j.image_set_id and i.key = j.key and i.removals in ([], [r.removal_id])
group by all order by still_seen - unedited, removed, relative;

-- How many latents of each SAE does no concept wake at any step, and what did it cost to train?
with woken as (
    select sae_id, latent, sum(fires) as fires from statistics group by all
)
select
    s.hookpoint, s.variant, s.n_latents, s.k, count(*) filter (w.fires = 0) as silent,
    round(100 * avg((w.fires = 0)::int), 1) as percent, round(s.fvu, 4) as fvu, round(s.seconds) as seconds
from saes s join woken w using (sae_id) group by all order by percent desc, hookpoint;

-- When does a concept's best latent fire: on which fraction of the positions, step by step from noise to image?
with best as (
    select sae_id, protocol, domain, concept, arg_max(latent, score) as latent from top_latents group by all
)
select domain, concept, hookpoint, latent, timestep, round(fires / n_rows, 4) as fires_on, mean, max
from statistics join best using (sae_id, protocol, domain, concept, latent)
order by domain, concept, hookpoint, timestep desc;

-- What did one concept change when it joined (here the last by name in each domain): the others' scores, before and
-- after it became a part of 'other'?
with added as (
    select sae_id, protocol, domain, max(concept) as added from scores group by all
), means as (
    select s.*, t.sum, t.n_rows from scores s join statistics t using (score_id, sae_id, timestep, latent)
    anti join added a on a.sae_id = s.sae_id and a.protocol = s.protocol and a.domain = s.domain and a.added = s.concept
), before as (
    select
        * exclude (sum, n_rows),
        (sum(sum) over cell - sum) / nullif(sum(n_rows) over cell - n_rows, 0) as mean_before
    from means window cell as (partition by sae_id, protocol, domain, timestep, latent)
), scored as (
    select *, share - mean_before / (sum(mean_before) over (partition by score_id, sae_id, timestep) + 1e-8) as before
    from before
)
select s.domain, s.concept, a.added, s.hookpoint, s.timestep, s.latent, s.before, s.score as after
from scored s join added a using (sae_id, protocol, domain)
order by abs(s.score - s.before) desc, s.concept, s.timestep, s.latent limit 20;

-- Which images of the unedited model are judged wrongly: what was asked, what was seen, how often?
select domain, j.asked, label as seen, count(*) as images, round(avg(score), 3) as score, min(key) as one_of_them
from judgements j join images i using (image_set_id, key)
where len(removals) = 0 and j.asked <> label group by all order by images desc, domain, j.asked, seen limit 20;

-- Which removals are outdated, and which concepts are scored beside theirs today?
select r.domain, r.concept, r.method, r.settings, r.outdated, list(distinct s.concept order by s.concept) as scored_today
from removals r join top_latents s using (domain) where s.rank = 1 group by all order by outdated desc, domain, concept;

-- Where have time and images gone: runs, training, the scoring of each concept, the evaluation of each removal?
select 'run' as what, flow || ', ' || state as name, count(*) as times, round(sum(epoch(finished - started))) as seconds,
    null as images from runs group by all
union all
select 'training', hookpoint, count(*), round(sum(seconds)), null from saes group by all
union all
select 'scoring', domain || ' ' || concept, count(distinct sae_id), null, max(n_images) from statistics group by all
union all
select 'evaluation', r.domain || ' ' || r.concept, count(distinct i.image_set_id), null, count(*)
from images i join removals r on list_contains(i.removals, r.removal_id) group by all
order by what, seconds desc, name;
