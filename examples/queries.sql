-- Questions to ask with `saeuron sql`; each is run by the tests. Statements end with a semicolon.

-- What went and what stayed, per removal.
select domain, concept, metric, round(100 * value, 1) as percent, round(100 * unedited, 1) as unedited, n_images
from metrics order by domain, concept, metric;

-- Which removals leave blank images behind: the concept is gone, and so is everything else.
select ua.concept, ua.value as ua, cra.value as cra_target
from metrics ua join metrics cra using (evaluation_id)
where ua.metric = 'UA' and cra.metric = 'CRA-target' and ua.value > 0.8 and cra.value < 0.5;

-- The best latents of each concept at its noisiest step.
select concept, feature, score from top_features
where rank <= 3 qualify timestep = max(timestep) over () order by concept, rank;

-- Latents that several concepts share: removing one will touch the other.
select feature, count(distinct concept) as concepts, list(distinct concept) as names
from top_features where rank <= 8 group by feature having count(distinct concept) > 1 order by concepts desc limit 10;

-- At which steps a concept stands out most.
select concept, arg_max(timestep, score) as timestep, max(score) as best from scores group by concept order by concept;

-- How sparse the code really is, step by step.
select sae_id, timestep, sum(fires) / min(n_rows) as l0 from statistics
where concept = (select min(concept) from statistics) group by all order by timestep desc;

-- Which SAE explains most of its hookpoint.
select hookpoint, variant, n_latents, k, round(fvu, 4) as fvu, round(l0, 1) as l0, round(dead, 4) as never_fired
from saes order by fvu;

-- What canvas draws when an object is taken out: what the judge sees instead.
select asked['object'] as asked, judged['object'] as seen, count(*) as images
from images where len(removals) > 0 and asked['object'] <> judged['object'] group by all order by images desc limit 10;

-- Prompts of one split that cross both domains.
select text from prompts where split = 'test' and cardinality(concepts) = 2 order by text limit 5;

-- How the last runs ended.
select started, flow, state, made, cached, failed, message from runs order by started desc limit 5;
