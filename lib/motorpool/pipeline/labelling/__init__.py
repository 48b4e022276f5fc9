"""What stages and commands that deal with people's looks share: the looks, and the vectors of photos looked at."""
