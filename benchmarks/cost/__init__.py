"""Time and memory of runs, captures and removals.

run.py            the default run, a second one, an added concept
orchestration.py  the share of Prefect, caching and manifests
many_concepts.py  one more concept beside hundreds; a run with nothing to do
overhead.py       capture and a removal beside plain generation
full_size.py      the same at the size of Stable Diffusion 1.5
canvas.py         images of canvas beside canvas20
removal.py        a saved removal beside plain generation
compiled.py       the same where the denoiser was compiled
scale.py          bytes, hours and money of Stable Diffusion 1.5
"""
