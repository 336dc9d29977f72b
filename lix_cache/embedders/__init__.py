"""Texts to vectors: one protocol, and embedders that keep it. Nothing is imported until it is used."""
