"""The base class of methods: a method makes a removal from evidence and settings."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from saeuron.config import Half, ModelConfig, RunConfig
from saeuron.errors import ConfigError, UnknownName
from saeuron.generation import Request
from saeuron.methods.parts import Part
from saeuron.methods.removal import Removal
from saeuron.profiles import Profile
from saeuron.prompts import Prompt
from saeuron.sae.autoencoder import SAE
from saeuron.sae.config import Dictionary

Need = Literal["latents", "activations", "prompts"]
Settings = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The inputs of a method. `Method.needs` says which of the optional fields are filled."""

    concept: str
    domain: str
    hookpoints: tuple[str, ...] = ()
    """The domain's hookpoints."""
    half: Half = "both"
    """Which half of the guidance batch is edited."""
    saes: Mapping[str, SAE] = field(default_factory=dict)
    """{hookpoint: SAE}. With `latents`."""
    sae_ids: Mapping[str, str] = field(default_factory=dict)
    """{hookpoint: id of its SAE}. With `latents`."""
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    """{hookpoint: statistics of the concept against its domain}. With `latents`."""
    pipe: Any = None
    """The pipeline. With `activations` or `prompts`."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """How the pipeline is sampled."""
    target: Sequence[Request] = ()
    """Training images asked to show the concept. With `activations`."""
    others: Sequence[Request] = ()
    """Training images asked to show other concepts of the domain. With `activations`."""
    asked: Sequence[Prompt] = ()
    """Training prompts that ask for the concept. With `prompts`."""
    retained: Sequence[Prompt] = ()
    """Training prompts that ask for other concepts of the domain. With `prompts`."""
    seed: int = 0
    """Seed of the images' noise."""


class Method(ABC):
    """A way to make removals."""

    name: ClassVar[str]
    """Its name in configurations."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """`latents`: SAEs and the concept's statistics; `activations`: the pipeline and training images; `prompts`: the
    pipeline and training prompts."""
    dictionary: ClassVar[Dictionary] = "trained"
    """The kind of SAEs that a method with `latents` is given, which the run makes; or of one that it makes itself."""
    like: ClassVar[str] = ""
    """The method that a control belongs to. It tries that method's values, unless it has values of its own."""
    grid: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """{setting: values to try if the configuration names none}. Without a judge, the mildest combination is taken."""

    @property
    def reads_sae(self) -> bool:
        """Whether its removals read an SAE of the kind `dictionary`: the run's, with `latents`, or one of its own."""
        return "latents" in self.needs

    def check(self, config: RunConfig) -> None:  # noqa: B027 - most methods have nothing to check
        """Raise ConfigError if a run of this configuration cannot use the method."""

    def told(self, config: RunConfig, domain: str) -> dict[str, tuple[Any, ...]]:
        """{setting: values} that a configuration names for a domain."""
        return (config.grid(domain, self.like) if self.like else {}) | config.grid(domain, self.name)

    def candidates(self, grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Every combination of settings in a grid, mild before strong; missing settings take the method's own values.

        Raises:
            UnknownName: the method has no such setting.
            ConfigError: a setting has no value, or one that cannot be used.
        """
        for name, values in grid.items():
            if name not in self.grid:
                raise UnknownName(f"setting of the method {self.name!r}", name, self.grid)
            if not values:
                raise ConfigError(f"setting {name!r} of the method {self.name!r} has no values; give at least one.")
            if bad := [v for v in values if isinstance(v, float) and not math.isfinite(v)]:
                raise ConfigError(f"{name} holds {bad[0]}; expected finite numbers.")
        values_of = {name: self.ordered(name, grid.get(name, self.grid[name])) for name in self.grid}
        return [dict(zip(values_of, chosen, strict=True)) for chosen in itertools.product(*values_of.values())]

    def ordered(self, name: str, values: Sequence[Any]) -> list[Any]:
        """The values of a setting, checked, mild before strong; by default in the given order."""
        del name
        return list(values)

    def learn(self, evidence: Evidence) -> Any:
        """Whatever all candidates share, computed once; passed to `parts`."""
        del evidence
        return None

    @abstractmethod
    def parts(self, evidence: Evidence, learned: Any, settings: Settings) -> tuple[Part, ...]:
        """The parts of the removal with these settings; `learned` is what `learn` returned."""

    def removal(
        self, evidence: Evidence, learned: Any, settings: Settings, provenance: Mapping[str, Any] | None = None
    ) -> Removal:
        """The removal of the evidence's concept with these settings."""
        parts = self.parts(evidence, learned, settings)
        return Removal(evidence.concept, evidence.domain, self.name, dict(settings), parts, dict(provenance or {}))


def above_zero(name: str, values: Sequence[Any]) -> list[float]:
    """Values of a setting that says how much, weak before strong.

    Raises:
        ConfigError: a value is no number above 0.
    """
    if bad := [v for v in values if isinstance(v, bool) or not isinstance(v, (int, float)) or v <= 0]:
        raise ConfigError(f"{name} holds {bad[0]!r}; expected numbers above 0.")
    return sorted(map(float, values))
