"""Photos that look like others: the nearest of some, and duplicates among all."""
