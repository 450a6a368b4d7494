"""What people look at: before training, a plan of the mixture; after it, one page of what runs left on disk."""

from seaalign.report.counts import Counted, count
from seaalign.report.page import build_report
from seaalign.report.plan import ErosionPlan, Source, erosion_plan

__all__ = ["Counted", "ErosionPlan", "Source", "build_report", "count", "erosion_plan"]
