"""Self-critique on disk: what an iteration needs is read where it is there, and made where it is missing."""

from seaalign.critique.decode import decoded
from seaalign.critique.loop import Loop, Reference
from seaalign.critique.plan import NothingAccepted, Plan
from seaalign.critique.round import Round

__all__ = ["Loop", "NothingAccepted", "Plan", "Reference", "Round", "decoded"]
