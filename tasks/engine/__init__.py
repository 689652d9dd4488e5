"""How a task runs.

job.py        a stage: jobs and their ids, summaries, the commit; how to declare one
step.py       tasks: the cache, locks, retries
worker.py     what another process does before it runs a task
model.py      one loaded pipeline per process
judge.py      who judges a domain, loaded once per process
gpu.py        turns on a shared GPU
progress.py   how far the work is, for whoever listens
page.py       what Prefect's page shows beside states
"""
