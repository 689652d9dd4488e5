"""The command line and thin Prefect flows: which steps run, and in which order.

cli.py          the command `saeuron`: its commands, exit codes, and errors as one line
config.py       a YAML file and `--set` options -> RunConfig
check.py        find a user's mistakes before anything heavy is loaded
environment.py  environment variables set before Prefect and torch are imported
work.py         what is to be run: shared by commands and deployments
pipeline.py     the whole method in order
flow.py         the same as a Prefect flow
run.py          state of one run: configuration, what was made, what failed
runners.py      where tasks run: this process, Dask or Ray
walk.py         whether a run finds everything in place, and so needs no Prefect
plan.py         `run --plan`: what a run would make, why, and at what cost
server.py       the Prefect server that a run starts for itself
display.py      progress on a terminal: bars, or one line per finished job
hints.py        commands shown to the user, quoted for a shell
bench.py        `bench`: a removal as one row of a table
audit.py        `audit`: attack removals, beside their controls
closing.py      what a run prints at its end: figures, counts, paths, the next command
summary.py      pages that commands print: tables, a concept, the state of a workspace
counting/       what a run would cost, counted before weights are loaded
commands/       one file per command
stages/         one ordering function per stage
sae/            what is said of SAEs, and how they are measured
inspection/     look into a model, and say what is found
measure/        measure many removals together, and say what is found
explore/        the report, and the explorer in a browser
upkeep/         verify, gc, diff, refresh
deploy/         schedules: deployments, forms, notifications
"""
