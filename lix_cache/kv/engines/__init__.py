"""Engines that run a model: one file for each. None is imported before it is used."""
