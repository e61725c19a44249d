"""Metrics, one family a module; each is a `genbench.contracts.Metric` that the registry names."""
