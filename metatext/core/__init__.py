"""The algorithms of meta-learning; they know no text and no transformers."""
