"""The archive on object storage: a log of commits for each shard of sessions. docs/object-layout.md

Pure: ``records.py`` (what is known of a session, and what a commit says of it), ``segment.py`` (a
commit), ``snapshot.py`` (all states of a shard, ``order.py``: and by last use), ``head.py`` (what both
begin with), ``layout.py`` (names), ``recent.py`` (what changed since a snapshot, by last use). Above them, on
``storage/objects.py`` (whole objects, put if absent): ``opened.py`` (a snapshot of which parts are read),
``log.py`` (one log: following it), ``shard.py`` (committing, snapshots, collection), ``store_note.py`` (whose
archive it is) and ``leases.py``. Then the cold tier, each floor a class: ``base.py``, ``reader.py``,
``writer.py``, ``bundling.py``, ``tier.py``. ``frame_cache.py`` keeps frames on the local disk.
"""
