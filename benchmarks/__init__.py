"""Each figure that README and docs/benchmarks.md quote, by one command.

results.py   the output of all: a table, or --json
removals/    what removals do to pictures
pictures/    blind spots, and pictures that look unlike a model's own
inspection/  where concepts are, and what latents say
sae/         training, quality and interchange of SAEs, beside other libraries
cost/        time and memory of runs, captures and removals
data/        rows read and questions answered, at full size
"""

import saeuron  # noqa: F401  Before any benchmark imports torch: it sets how torch's threads wait.
