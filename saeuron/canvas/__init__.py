"""The model that ships with the project: renderer, prompts, classifier, diffusion model.

shapes.py      the objects as signed distance fields
renderer.py    images of any object in any style
vocabulary.py  what canvas can draw, and the sentences that ask for it
classifier.py  the judge: a two-headed CNN trained on renders
model.py       the untrained pipeline
vae.py         an exact rearrangement of pixels in place of a VAE
training.py    train the pipeline, with exact resume
evaluation.py  share of generated images that the classifier recognises
card.py        the model card
__main__.py    `python -m saeuron.canvas train | export | classifier | evaluate | sheet`
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The folder of the model, and of its judge; here, for to know of it must not load what builds it."""
