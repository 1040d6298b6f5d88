"""Model folders, model cards and the Hugging Face Hub."""
