"""How likely is the policy to solve this prompt? Posteriors, features, and the records they learn from."""
