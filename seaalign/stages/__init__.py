"""The flow over many processes: a shard of rows in, a shard of rows out, run by `trainer.predict` or by Ray."""

from seaalign.stages.base import Stage
from seaalign.stages.engines import OnLightning, OnRay
from seaalign.stages.explore import Exploring
from seaalign.stages.judge import Judging
from seaalign.stages.mining import Mining
from seaalign.stages.score import Scoring

__all__ = ["Exploring", "Judging", "Mining", "OnLightning", "OnRay", "Scoring", "Stage"]
