"""The learner: encoder, head and inner learning rates, and its gradient on an episode of texts."""
