"""What can be asked of a node, by subject: nodes, messages, data, monitoring. `Mesh` is all of them and its own life.

Each module is one class of verbs over `core.Core`, thin over the rooms that do the work. A verb says in its docstring
what it raises and whether something has changed then.
"""

__all__: list[str] = []
