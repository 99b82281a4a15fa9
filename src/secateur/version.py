"""The version of this package: apart from `secateur` itself, so that lower rooms can name it."""

__version__ = "0.1.0"
