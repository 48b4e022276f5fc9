"""What ingest, append and assign share: rows that cannot be worked with, vectors that are computed from photos."""
