"""How many units each width keeps, and which: strategies over a Graph and scores, without a framework."""
