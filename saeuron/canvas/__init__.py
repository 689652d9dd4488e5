"""The models that ship with the project: renderer, prompts, classifier, diffusion model.

shapes.py      the twenty objects of canvas20 as signed distance fields
glyphs.py      symbols of DejaVu Sans as signed distance fields
hundred.py     the hundred objects of canvas, each with a description
renderer.py    images of any object in any style
vocabulary.py  what canvas20 can draw, and the sentences that ask for it
vocabularies.py  one vocabulary per model
phrases.py     paraphrases and misspellings, in three splits
classifier.py  the judge: a two-headed CNN trained on renders
realism.py     whether a picture looks like a render
overlaps.py    how much the templates of two objects overlap
model.py       the untrained pipeline
vae.py         an exact rearrangement of pixels in place of a VAE
training.py    train the pipeline, with exact resume
batches.py     labels, token ids and time steps of a training step
growth.py      a model of more objects from a trained one
evaluation.py  share of generated images that the classifier recognises
card.py        the model card
__main__.py    `python -m saeuron.canvas train | grow | export | classifier | evaluate | sheet | prompts`
commands/      its larger commands
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
"""The folder of canvas and of its judge. Here, so that naming it loads nothing."""
WEIGHTS20 = Path(__file__).parent / "weights20"
"""The folder of canvas20, the small model for quick tests, and of its judge."""
FOLDERS = {"canvas": WEIGHTS, "canvas20": WEIGHTS20}
"""The folder of each shipped model; each has a vocabulary of the same name."""
