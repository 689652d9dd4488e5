"""A workspace on an object store.

client.py     the S3 client: URLs, credentials, errors
store.py      the objects under one URL
artifacts.py  artifacts as objects: upload, commit, fetch, mend
backend.py    the backend: small files and leases of runs in the store, and the folder that caches it
"""
