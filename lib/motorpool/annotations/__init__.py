"""What people said about photos, read from the files of the tools that they use."""
