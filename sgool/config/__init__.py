"""Tools for all configurations: composition, rules for values, components by name or dotted path, paths of files.

The rules for the keys of a run are in `sgool.run.config`, and those for a component in the ``options.py`` of its room.
"""
