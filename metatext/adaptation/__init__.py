"""Turns a learner and a few labelled texts into a classifier."""
