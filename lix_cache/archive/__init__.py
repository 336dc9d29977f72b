"""The cold tier: one append-only ``.huff`` file per session. See docs/archive-format.md."""
