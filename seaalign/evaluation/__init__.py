"""Is it better, and would one know? Systems x texts x repeats x style: generated, heard, measured and compared.

texts -> each system's speech -> recogniser, F0, similarity, tokens -> rows -> intervals and paired tests
"""

from seaalign.evaluation.files import (
    Comparison,
    Evaluation,
    Result,
    Score,
    read_evaluation,
    write_evaluation,
)
from seaalign.evaluation.rows import Row

__all__ = ["Comparison", "Evaluation", "Result", "Row", "Score", "read_evaluation", "write_evaluation"]
