"""Look into a model, and say what is found.

locate.py  flow and text of `locate`
"""
