"""Settings that all tests share."""

import pytest
from hypothesis import settings

from secateur.torch.evaluating.known_times import FOLDER_VARIABLE

# Property tests are not timed: a machine that several jobs share pauses, and a pause is no fault of the code.
settings.register_profile("secateur", deadline=None)
settings.load_profile("secateur")


@pytest.fixture(autouse=True)
def _no_times_from_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests make up times, and no run is to depend on one before it."""
    monkeypatch.setenv(FOLDER_VARIABLE, "")
