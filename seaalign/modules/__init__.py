"""LightningModules: call, log, return. The maths is in `functional`, the model is the user's. `Habits` is fitted."""

from seaalign.modules.dgsa import DGSA
from seaalign.modules.disentangle import Disentangler
from seaalign.modules.dpo import DPO
from seaalign.modules.habits import Habits
from seaalign.modules.sft import SFT
from seaalign.modules.tdsc import TDSC

__all__ = ["DGSA", "DPO", "Disentangler", "Habits", "SFT", "TDSC"]
