"""One script a tool. Each runs in that tool's own environment, and knows nothing of Secateur nor of the other tools."""
