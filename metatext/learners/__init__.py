"""Learner: encoder, head and inner learning rates; its meta-gradient on an episode, and its adaptation to a support."""
