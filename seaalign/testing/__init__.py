"""Contract tests for users' own test suites.

`check_backbone` makes every rule of the backbone contract executable, `check_judge` what a judge must keep to.
"""

from seaalign.testing.backbone import Report, check_backbone
from seaalign.testing.faults import BackboneError
from seaalign.testing.judge import JudgeFault, check_judge

__all__ = ["BackboneError", "JudgeFault", "Report", "check_backbone", "check_judge"]
