"""Running a user's model and leaving no mark: examples, data, randomness, switches, processes, what is seen on the way."""
