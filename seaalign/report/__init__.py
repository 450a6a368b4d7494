"""What people look at: before training, a plan of the mixture."""

from seaalign.report.counts import Counted, count
from seaalign.report.plan import ErosionPlan, Source, erosion_plan

__all__ = ["Counted", "ErosionPlan", "Source", "count", "erosion_plan"]
