"""`python -m knowcusbench`."""

from knowcusbench.cli import main

main()
