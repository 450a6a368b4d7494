"""Evidence of separation: does a backbone's style change prosody alone, and does its timbre carry the voice alone?"""

from seaalign.audit.probes import Probe, probe_labels, probe_values
from seaalign.audit.splits import together

__all__ = ["Probe", "probe_labels", "probe_values", "together"]
