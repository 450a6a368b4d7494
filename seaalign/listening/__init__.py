"""Would a listener agree? Listening tests without a server: one page per rater out, result files in, statistics."""

from seaalign.listening.analysis import ListeningAnalysis, Statistics, analyse_listening
from seaalign.listening.build import Built, build_listening_test
from seaalign.listening.clips import Clip, read_evaluation_clips, read_manifests
from seaalign.listening.results import Answer, read_key, read_results
from seaalign.listening.scores import Screening
from seaalign.listening.votes import Votes, count_votes, write_votes
from seaalign.listening.words import languages, load_words

__all__ = [
    "Answer",
    "Built",
    "Clip",
    "ListeningAnalysis",
    "Screening",
    "Statistics",
    "Votes",
    "analyse_listening",
    "build_listening_test",
    "count_votes",
    "languages",
    "load_words",
    "read_evaluation_clips",
    "read_key",
    "read_manifests",
    "read_results",
    "write_votes",
]
