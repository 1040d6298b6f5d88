"""Reads labelled texts from files or the Hub, checks and cleans them, and draws episodes from them."""
