"""Measurements, each by one documented command; what they print stands in docs/benchmarks.md."""
