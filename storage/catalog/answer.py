"""The protocol between a query's process (`guard`) and its caller (`query`); imports nothing."""

READY = b"\n"
"""First byte of the answer: connected, the query starts."""
REFUSED = 3
"""Exit code: the reason is in the file `refused`."""
