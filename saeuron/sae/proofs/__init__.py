"""Whether an SAE's latents are the model's own: tests against a dictionary made from labels (2405.08366).

rows.py           activations of labelled images at one hookpoint; an SAE fitted to them
attributes.py     the dictionary made from labels: one row for each concept
rewriting.py      other activations in a hookpoint's place, while the model runs
approximation.py  test 1: what the model loses with a reconstruction in place, and without it
control.py        test 2: few latents moved so that another concept is drawn
splitting.py      tests 4 and 5: latents that name a concept, alone and together
occlusion.py      test 4: the louder attribute taken away, and rows that are planted
"""
