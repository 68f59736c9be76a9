"""Test-time compute: how many samples each prompt gets, by predicted difficulty."""
