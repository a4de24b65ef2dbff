"""Measures of prose and shape for scripts/check-prose."""
