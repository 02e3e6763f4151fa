"""`python -m deployments` is the `millrace` command."""

from deployments.cli import main

main()
