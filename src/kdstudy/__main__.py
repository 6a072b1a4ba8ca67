"""`python -m kdstudy`."""

from kdstudy.cli import main

main()
