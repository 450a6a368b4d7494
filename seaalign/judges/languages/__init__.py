"""What was said, as text: one normal form, and the units that error rates count.

`normalise` needs no language package unless a number has to be spelled; `graphemes` builds on it; `words` asks the
kept library of each script that writes no spaces. docs/languages.md says what is chosen, and why.
"""

from seaalign.judges.languages.normal import graphemes, normalise
from seaalign.judges.languages.segment import words

__all__ = ["graphemes", "normalise", "words"]
