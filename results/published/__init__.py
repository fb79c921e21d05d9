"""Tables of published results, as CSV."""
