"""Retention: policies, legal holds, sweeps and clearing."""
