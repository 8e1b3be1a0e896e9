"""Tuning of options for a workload."""
