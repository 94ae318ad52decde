"""Short programs, each run with ``python -m examples.NAME`` from the project's folder."""
