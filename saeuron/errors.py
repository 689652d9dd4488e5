"""The library's exceptions.

    SaeuronError
    ├── UserError            the user can correct it: one line, exit code 2, never retried
    │   ├── ConfigError      a bad value or key in a configuration
    │   ├── UnknownName      a concept, hookpoint, timestep ... that does not exist; names the nearest ones
    │   ├── BadPrompts       a prompt file that cannot be used
    │   ├── BadModel         a model that cannot be loaded
    │   ├── BadSAE           an SAE of another library that cannot be converted (interchange/folder.py)
    │   ├── NoRoom           what does not fit into memory, not even one image at a time
    │   └── WidthMismatch    an SAE or a removal that does not fit a hookpoint
    ├── NotFinite            a generated image of NaN or infinity
    └── BadWeights           a weights file that is damaged or of another kind

A message says what is wrong, the value, what was expected and what to do, in one line. `args` holds the constructor's
arguments, so that every error can be pickled between processes. `OtherModel` and `FullMemory` are warnings.
"""

from collections.abc import Iterable
from difflib import get_close_matches


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def hub_id(spec: str) -> tuple[str, str | None]:
    """(repository, revision) of `owner/name`, or of `owner/name@revision`: a branch, tag, commit or `refs/pr/N`.

    Raises:
        BadModel: nothing follows @.
    """
    name, at, revision = spec.partition("@")
    if at and not revision:
        raise BadModel(f"no revision after @ in {spec!r}; expected owner/name@revision, or owner/name.")
    return name, revision or None


def why_not_fetched(repository: str, revision: str | None, error: Exception) -> str:
    """Why the Hugging Face hub did not give a repository, and what to do; without a capital and a full stop."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repository}"
    match error:
        case errors.GatedRepoError():
            return f"it is gated; accept its licence on {page}, then log in with: hf auth login"
        case errors.RepositoryNotFoundError():
            return f"the hub shows no such model; check the name on {page}, and if it is private: hf auth login"
        case errors.RevisionNotFoundError():
            return f"it has no revision {revision!r}; take one that {page}/commits/main lists"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled() | ConnectionError() | TimeoutError():
            return (
                "the hub cannot be reached, and its files are not in the cache; connect (HF_HUB_OFFLINE forbids it), "
                "or give a folder"
            )
    return first_line(error)


class SaeuronError(Exception):
    """Base of all errors that the library raises on purpose."""


class UserError(SaeuronError):
    """An input of the user is wrong; retrying without a change cannot help."""


class ConfigError(UserError):
    """A value or key of a configuration is wrong."""


class UnknownName(UserError):
    """A name that does not exist; the message suggests the nearest known names."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        super().__init__(kind, name, sorted(known), hint)

    def __str__(self) -> str:
        kind, name, known, hint = self.args
        near = get_close_matches(name, known, n=3)
        if near:
            expected = f"did you mean {' or '.join(repr(n) for n in near)}?"
        else:
            shown = ", ".join(known[:8]) + (f", ... ({len(known)} in all)" if len(known) > 8 else "")
            expected = f"known: {shown}." if known else "there are none yet."
        return f"unknown {kind} {name!r}: {expected}{' ' + hint if hint else ''}"


class BadPrompts(UserError):
    """A prompt file that is missing, empty or malformed."""


class BadModel(UserError):
    """A model that cannot be found or loaded."""


class NoRoom(UserError):
    """The work does not fit into memory, and cannot be split further."""

    def __init__(self, what: str, said: str) -> None:
        super().__init__(what, said)

    def __str__(self) -> str:
        what, said = self.args
        return (
            f"memory is full with {what} ({said}); take a smaller model.size, model.dtype float16 or bfloat16, another "
            "--device, or end what else uses its memory: what was finished is kept."
        )


class WidthMismatch(UserError):
    """An SAE or a removal whose width is not that of the hookpoint's output."""


class BadWeights(SaeuronError):
    """A weights file that is damaged, of another kind, or not safetensors."""


class OtherModel(UserWarning):
    """A removal is attached to another model than the one it was made for."""


class FullMemory(UserWarning):
    """Images are drawn in smaller batches than configured, because memory was full."""


class NotFinite(SaeuronError):
    """A generated image that holds NaN or infinity."""

    def __init__(self, prompt: str, dtype: str) -> None:
        super().__init__(prompt, dtype)

    def __str__(self) -> str:
        prompt, dtype = self.args
        hint = "choose another model or a milder removal."
        if dtype == "float16":
            hint = "float16 overflows in some models; set model.dtype to bfloat16 or float32."
        return f"the image of the prompt {prompt!r} holds values that are not finite, in {dtype}: {hint}"
