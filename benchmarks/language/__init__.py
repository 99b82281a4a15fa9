"""Perplexity at equal parameters: small language models trained here on the Brown corpus, narrowed by us and by others."""
