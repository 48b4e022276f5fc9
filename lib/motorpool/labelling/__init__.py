"""From the looks of people at some photos to a value of every attribute for all of them."""
