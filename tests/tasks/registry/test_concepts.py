"""What stays in a workspace of the concepts that were added."""

import pytest

from flows.config import load
from saeuron.config import ConceptConfig, RunConfig
from saeuron.errors import ConfigError
from storage import Workspace
from tasks.registry import concepts


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load("canvas")


class TestAdded:
    def test_is_computed_against_the_concepts_of_its_day(self, workspace: Workspace, config: RunConfig) -> None:
        first = concepts.add(workspace, config, ConceptConfig(name="grain", domain="style"))
        second = concepts.add(workspace, config, ConceptConfig(name="wood", domain="style"))
        assert first.reference == (*config.domains["style"].concepts, "grain")
        assert second.reference == (*first.reference, "wood")
        assert concepts.added(workspace) == [first, second]

    def test_twice_is_once_and_differently_is_refused(self, workspace: Workspace, config: RunConfig) -> None:
        concept = ConceptConfig(name="grain", domain="style")
        assert concepts.add(workspace, config, concept) == concepts.add(workspace, config, concept)
        with pytest.raises(ConfigError, match="was added before, with other templates"):
            concepts.add(workspace, config, concept.model_copy(update={"domain": "object"}))
        assert len(concepts.added(workspace)) == 1

    def test_one_that_the_configuration_has_taken_in_counts_once(self, workspace: Workspace, config: RunConfig) -> None:
        concepts.add(workspace, config, ConceptConfig(name="grain", domain="style"))
        concepts.add(workspace, config, ConceptConfig(name="bolt", domain="object"))
        assert [a.name for a in concepts.joined(workspace, config)] == ["grain", "bolt"]
        style = config.domains["style"]
        taken = style.model_copy(update={"concepts": (*style.concepts, "grain")})
        config = config.model_copy(update={"domains": {"style": taken}})
        assert [a.name for a in concepts.joined(workspace, config)] == []
