"""Settings that all tests share."""

from hypothesis import settings

# Property tests are not timed: a machine that several jobs share pauses, and a pause is no fault of the code.
settings.register_profile("secateur", deadline=None)
settings.load_profile("secateur")
