"""The archive on object storage: a log of commits for each shard of sessions. docs/object-layout.md

Pure: ``records.py`` (what is known of a session, and what a commit says of it), ``segment.py`` (a
commit), ``snapshot.py`` (all states of a shard), ``head.py`` (what both begin with), ``layout.py``
(names). Above them ``bucket.py`` (whole objects, put if absent), ``shard.py`` (one log: following,
committing, snapshots, collection),
``store_note.py`` (whose archive it is) and ``leases.py``. Then the cold tier, each floor a class:
``base.py``, ``reader.py``, ``writer.py``, ``tier.py``.
"""
