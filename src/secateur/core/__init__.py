"""Plain data and arithmetic: the algebra of spaces, graphs, plans, budgets, costs and their texts. No framework."""
