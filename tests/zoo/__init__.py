"""Other people's architectures, built with random weights: what the tracer must understand without having been told."""
