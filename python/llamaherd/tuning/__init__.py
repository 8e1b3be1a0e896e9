"""Tuning of engine options for a workload."""
