"""Look into a model, and say what is found.

locate.py      flow and text of `locate`
attribute.py   flow and text of `latent show --attribution`
relatives.py   flow and text of `concept relatives`
steer.py       flow and text of `latent steer`
blindspots.py  flow and text of `blindspots`
"""
