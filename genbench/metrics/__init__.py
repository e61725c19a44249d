"""Metrics, one family a module. Each is a `genbench.contracts.Metric` that the registry names."""
