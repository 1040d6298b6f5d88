"""Compares learners and baselines on the same draws of a target."""
