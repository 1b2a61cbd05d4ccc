"""Veils: the bank, its file, its keys; protect and recover with it."""
