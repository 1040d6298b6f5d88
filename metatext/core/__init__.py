"""Algorithms of gradient-based meta-learning. They work on tensors and losses, with any model."""
