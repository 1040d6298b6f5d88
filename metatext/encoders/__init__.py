"""What depends on the insides of transformers: architectures, tokens, adapters, classifiers."""
