"""What every room may know: values that travel, errors, keyed randomness, intervals. Imports no other room."""
