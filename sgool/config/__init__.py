"""What every configuration needs: composition, rules for values, components by name or dotted path, places of files.

What the keys of a run may hold stands in `sgool.run.config`; what a component may hold, in the ``options.py`` of its
room.
"""
