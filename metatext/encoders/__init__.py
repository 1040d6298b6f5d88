"""Code that depends on the internals of transformers: architectures, tokens, adapters and classifiers."""
