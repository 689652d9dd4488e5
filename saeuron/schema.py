"""The base class of configurations."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of all configurations: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
