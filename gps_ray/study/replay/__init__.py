"""Selectors and predictors replayed against recorded outcomes: no language model needed."""
