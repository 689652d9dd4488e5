"""A workspace on an object store.

store.py      the objects under one URL
artifacts.py  artifacts as objects: upload, commit, fetch
mirror.py     the local folder that caches a remote workspace
"""
