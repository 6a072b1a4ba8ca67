"""`python -m kdstudy.cli`."""

from kdstudy.cli import main

main()
