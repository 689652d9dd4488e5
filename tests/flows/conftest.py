"""The command line in this process."""

import pytest

from tests.end_to_end.process import Main


@pytest.fixture
def main(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Main:
    return Main(capsys, monkeypatch)
