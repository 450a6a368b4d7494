"""Evidence of separation: does a backbone's style change prosody alone, and does its timbre carry the voice alone?"""

from seaalign.audit.audit import SeparationAudit
from seaalign.audit.features import timbre_features, token_features
from seaalign.audit.findings import Finding
from seaalign.audit.probes import Probe, probe_labels, probe_values
from seaalign.audit.splits import together
from seaalign.audit.verdict import Separation
from seaalign.audit.watch import SeparationWarning, quick_audit, warn_before_training

__all__ = [
    "Finding",
    "Probe",
    "Separation",
    "SeparationAudit",
    "SeparationWarning",
    "probe_labels",
    "probe_values",
    "quick_audit",
    "timbre_features",
    "together",
    "token_features",
    "warn_before_training",
]
