"""One retryable, cached step each: open storage, call the library, commit, return a small record."""
