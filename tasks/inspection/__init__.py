"""Look into a model, and write down what is found.

locate.py      which blocks and attention heads carry a concept
attribute.py   from which words and heads a latent gets its activation
relatives.py   how alike the concepts of a domain are
steer.py       what pictures do when one latent is turned up or down
blindspots.py  what a model draws too rarely or too often beside real pictures
compared.py    both sides of blind spots, seen by the same latents, as rows of tables
"""
