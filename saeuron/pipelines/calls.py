"""The call that runs the denoiser. Diffusers passes nothing about it, so it is looked up among the frames."""

import sys
from collections.abc import Mapping
from typing import Any


def caller(pipe: Any) -> tuple[Any | None, Mapping[str, Any]]:
    """The pipeline whose call runs the denoiser now, and that call's variables; (None, {}) in a loop of one's own.

    That may be another pipeline than `pipe`, with the same components: whether it is guided, only it knows.
    """
    from diffusers import DiffusionPipeline

    if not isinstance(pipe, DiffusionPipeline):
        return pipe, {}
    frame = sys._getframe(1)
    while found := frame.f_back:
        frame = found
        if frame.f_code.co_name == "__call__":
            variables = frame.f_locals
            if isinstance(owner := variables.get("self"), DiffusionPipeline):
                return owner, variables
    return None, {}
