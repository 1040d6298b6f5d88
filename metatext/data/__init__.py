"""From a user's file to an episode."""
