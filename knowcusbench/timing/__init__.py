"""Stop-watches beside a named alternative: `make timing`."""
