"""Policy losses, one file each: the formula, what it assumes, a few lines of torch."""
