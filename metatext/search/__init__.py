"""Searches the hyper-parameters of meta-training."""
