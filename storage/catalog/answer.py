"""What a query's process (`guard`) and the process that asks (`query`) agree on; imports nothing."""

READY = b"\n"
"""First byte of the answer: connected, the query begins."""
REFUSED = 3
"""Exit code that says: read the file `refused`."""
