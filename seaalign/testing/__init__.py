"""Contract tests for users' own test suites: `check_backbone` makes every rule of the backbone contract executable."""

from seaalign.testing.backbone import Report, check_backbone
from seaalign.testing.faults import BackboneError

__all__ = ["BackboneError", "Report", "check_backbone"]
