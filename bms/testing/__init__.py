"""The proving ground: whole meshes in one process, on virtual time, with the faults of real networks and machines."""
from .world import *
