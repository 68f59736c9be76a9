"""What a user writes, one file each; every one is run by a test."""
