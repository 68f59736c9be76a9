"""Which prompts next? Acquisitions, the diverse batch, the rivals, admission."""
