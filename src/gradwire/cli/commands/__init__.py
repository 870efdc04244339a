"""Commands and their options. Nothing here imports torch: a command that can be read imports its work."""
