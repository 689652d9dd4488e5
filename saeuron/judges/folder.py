"""A model that looks at pictures: a local folder or a hub id, safetensors alone, known by the hash of its files."""

import functools
import hashlib
import json
from collections.abc import Collection
from pathlib import Path

from saeuron.errors import BadModel, ConfigError, hub_id, why_not_fetched

FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


class ModelFolder:
    """The folder or hub id of a judge's model. A folder is checked at once, a hub id when it is first used.

    A hub id is `owner/name`, or `owner/name@revision` for a branch, tag, commit or `refs/pr/N`.

    Args:
        judge: the judge's name, for messages.
        spec: a local folder or a hub id.
        kinds: values of `model_type` in config.json that the judge can read; None: any.
        owner: what the model is, for messages. wanted: what is expected in place of `spec`; empty: a judge's own words.

    Raises:
        ConfigError: `spec` is empty.
        BadModel: the folder does not exist, holds another kind of model, or no safetensors; or nothing follows @.
    """

    def __init__(
        self,
        judge: str,
        spec: str,
        kinds: Collection[str] | None = None,
        owner: str = "the judge's model",
        wanted: str = "",
    ) -> None:
        if not spec:
            expected = wanted or f"{judge}:FOLDER or {judge}:HUB_ID"
            raise ConfigError(f"the judge {judge!r} needs a model; expected {expected}.")
        self.spec, self._owner, self._wanted = spec, owner, wanted
        self._judge, self._kinds = judge, kinds
        self.local = self._found()
        if self.local:
            self._check(self.local)

    @functools.cached_property
    def path(self) -> Path:
        """The folder; of a hub id, after its files were fetched. Raises BadModel."""
        if self.local:
            return self.local
        from huggingface_hub import snapshot_download

        name, revision = hub_id(self.spec)
        try:
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
        except Exception as error:
            why = why_not_fetched(name, revision, error)
            raise BadModel(f"cannot fetch {self._owner} {self.spec!r}: {why}") from error
        self._check(folder)
        return folder

    @functools.cached_property
    def content(self) -> str:
        """Hash of the model's files: weights, labels, preprocessing."""
        digest = hashlib.sha256()
        for path in sorted({p for pattern in FILES for p in self.path.glob(pattern)}):
            with path.open("rb") as file:
                digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _found(self) -> Path | None:
        """The local folder; None if `spec` can only be a hub id."""
        path = Path(self.spec).expanduser()
        if path.is_dir():
            return path
        if path.is_absolute() or self.spec.startswith((".", "~")) or hub_id(self.spec)[0].count("/") > 1:
            wanted = self._wanted or f"{self._judge}:FOLDER with {self._what}, or {self._judge}:HUB_ID"
            raise BadModel(f"no such folder: {self.spec!r}; expected {wanted}.")
        return None

    @property
    def _what(self) -> str:
        return "an image classifier" if self._kinds is None else "a CLIP or SigLIP"

    def _check(self, folder: Path) -> None:
        try:
            kind = json.loads((folder / "config.json").read_text())["model_type"]
        except (OSError, ValueError, KeyError, TypeError):
            raise BadModel(f"{folder} holds no model: config.json is missing or malformed.") from None
        if self._kinds is not None and kind not in self._kinds:
            needed = ", ".join(self._kinds)
            raise BadModel(f"{folder} holds a model of type {kind!r}; the judge {self._judge!r} needs one of {needed}.")
        if not any(folder.glob("*.safetensors")):
            raise BadModel(
                f"{self.spec} holds no .safetensors file; use a model that has one, or a revision of it "
                "(owner/name@revision) that has."
            )
