"""Commands that measure removals and models.

audit.py          `audit`
bench.py          `bench`
blindspots.py     `blindspots`
compare.py        `compare`
hookpoints.py     `hookpoints`
inception.py      `inception`
locate.py         `locate`
sequence.py       `sequence`
steer.py          `latent steer`
unlearncanvas.py  `unlearncanvas`, `unlearncanvas convert | export`
"""
