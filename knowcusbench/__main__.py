"""`python -m knowcusbench`."""

from knowcusbench.cli.main import main

main()
