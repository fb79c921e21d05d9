"""How the weights of the embedded world are made: one module for each stage, and what they share."""
