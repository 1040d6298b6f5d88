"""Compares learners and baselines on the same few-shot draws of a target domain."""
