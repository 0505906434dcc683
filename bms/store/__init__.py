"""One SQLite file a node, one writing thread, group commit. Rooms above bring their own tables."""

from .database import Database, Operation, Participant

__all__ = ["Database", "Operation", "Participant"]
