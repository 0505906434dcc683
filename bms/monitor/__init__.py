"""What a node sees of itself: samples over time, its log, slow operations, and how all that is shown to others.

The rooms below count where things happen (`counters`); here it is put together. Nothing here is needed for the mesh to
work, and nothing is sent anywhere: who wants to know asks.
"""

__all__: list[str] = []
