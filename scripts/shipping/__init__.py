"""`scripts/submit`: the package and its environment on their way to a cluster."""
