"""From photos to annotations and back: which photos people look at, what they said, and how often labels are right."""
