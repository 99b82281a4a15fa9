TRAPS = {}
