"""Is it better, and would one know? Systems x texts x repeats x style: generated, heard, measured and compared.

texts -> each system's speech -> recogniser, F0, similarity, tokens -> rows -> intervals and paired tests
"""

from seaalign.evaluation.encoders import Naturalness, WavLM
from seaalign.evaluation.engine import evaluate
from seaalign.evaluation.files import Comparison, Evaluation, Result, Score, read_evaluation, write_evaluation
from seaalign.evaluation.fleurs import Fleurs
from seaalign.evaluation.hearing import Heard
from seaalign.evaluation.recorded import Recorded
from seaalign.evaluation.rows import Row
from seaalign.evaluation.systems import Policy, Said, System
from seaalign.evaluation.texts import Case, Texts, read_cases

__all__ = [
    "Case",
    "Comparison",
    "Evaluation",
    "Fleurs",
    "Heard",
    "Naturalness",
    "Policy",
    "Recorded",
    "Result",
    "Row",
    "Said",
    "Score",
    "System",
    "Texts",
    "WavLM",
    "evaluate",
    "read_cases",
    "read_evaluation",
    "write_evaluation",
]
