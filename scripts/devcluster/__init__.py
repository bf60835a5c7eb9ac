"""A real small cluster on one machine, for tests and for trying things: see ``scripts/cluster --help``."""
