"""The command `knowcusbench`."""
