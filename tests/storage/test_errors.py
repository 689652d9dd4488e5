import copy

import pytest

from storage import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.NotAWorkspace("/w", "there is no such folder"),
        errors.OtherFormat("/w", 9, 1, ": upgrade saeuron"),
        errors.BadQuery("one line"),
        errors.UnknownArtifact("nonsense"),
        errors.ArtifactMissing("/w/a.tar"),
        errors.ArtifactDamaged("/w/a.tar", "10 bytes", "9"),
        errors.DiskFull("/w/a.tar", 10),
    ],
)
def test_messages_are_one_line_and_survive_a_process(error: errors.StorageError) -> None:
    assert "\n" not in str(error) and len(str(error)) > 5
    assert str(copy.copy(error)) == str(error)
    assert isinstance(error, errors.StorageError)


def test_what_the_user_can_mend() -> None:
    for kind in (errors.OtherFormat, errors.NotAWorkspace, errors.BadQuery, errors.UnknownArtifact):
        assert issubclass(kind, errors.UserError)
    for other in (errors.ArtifactMissing, errors.ArtifactDamaged, errors.DiskFull):
        assert not issubclass(other, errors.UserError)
    assert "mend it with: saeuron verify --deep --repair" in str(errors.ArtifactDamaged("f", "a", "b"))
    assert "the next run continues from here" in str(errors.DiskFull("f", 1))
