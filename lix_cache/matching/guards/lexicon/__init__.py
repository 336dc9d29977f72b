"""Word tables of the guards, written for this library: data, no decisions.

All words are folded (lower case, without the accents of Latin and Cyrillic letters), because
that is how people type when in a hurry.
"""
