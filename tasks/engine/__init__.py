"""How a task runs.

job.py        a stage: jobs and their ids, summaries, the commit; how to declare one
step.py       tasks: the cache, locks, retries
worker.py     how another process prepares before it runs a task
model.py      one loaded pipeline per process
judge.py      the judge of a domain, loaded once per process
gpu.py        turns on a shared GPU
progress.py   progress of the work, sent to listeners
relay.py      the progress of steps on Dask's workers
page.py       what Prefect's page shows in addition to states
"""
