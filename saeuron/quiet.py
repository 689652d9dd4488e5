"""Silence the libraries that load models: no bars, no chatter."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress output of diffusers and transformers within the context; restore their settings after it."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    kept = diffusers_log.get_verbosity(), transformers_log.get_verbosity()
    for log in (diffusers_log, transformers_log):
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, verbosity in zip((diffusers_log, transformers_log), kept, strict=True):
            log.set_verbosity(verbosity)
            log.enable_progress_bar()
