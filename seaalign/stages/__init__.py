"""The flow over many processes: a shard of rows in, a shard of rows out, run by `trainer.predict` or by Ray."""

from seaalign.stages.base import Stage
from seaalign.stages.explore import Exploring
from seaalign.stages.judge import Judging
from seaalign.stages.score import Scoring

__all__ = ["Exploring", "Judging", "Scoring", "Stage"]
