"""The small GPT trained on real ranks, one exchange against another, and the record of it."""
