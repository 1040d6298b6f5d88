"""From a learner and a few labelled texts to a classifier."""
