"""Makes a bundle: data chosen by name → F, C, the small U-Nets, the rivals, the maps' scales.

Every stage is a stream; the command line and the app's jobs consume the same ones, so neither has a training
loop of its own.
"""

from anounet.prepare.centers import (
    Scores,
    make_center,
    make_centers,
    make_local_centers,
    score_split,
    usual_metric,
)
from anounet.prepare.data import (
    DataChoice,
    FNetData,
    Normals,
    choice_of,
    choice_of_preset,
    describe,
    f_net_data,
    held_back_normals,
    identity_images,
    normal_images,
    own_settings,
    read_normals,
    training_images,
)
from anounet.prepare.f_net import (
    BegunFNet,
    FNetTraining,
    begun_f_net,
    make_f_net,
    resume_f_net,
)
from anounet.prepare.levels import NORMALS, Levels, distance_levels, make_reach, make_scales, unmeasured
from anounet.prepare.plan import Plan, prepare
from anounet.prepare.reach import Reach, measure_reach
from anounet.prepare.rivals import RivalSettings, make_anogan, make_decoder, make_encoder
from anounet.prepare.stage import CHECKPOINTS, Begun, Stage, Training, begun_training
from anounet.prepare.unets import make_identity, make_instant

__all__ = [
    "CHECKPOINTS",
    "NORMALS",
    "Begun",
    "BegunFNet",
    "DataChoice",
    "FNetData",
    "FNetTraining",
    "Levels",
    "Normals",
    "Plan",
    "Reach",
    "RivalSettings",
    "Scores",
    "Stage",
    "Training",
    "begun_f_net",
    "begun_training",
    "choice_of",
    "choice_of_preset",
    "describe",
    "distance_levels",
    "f_net_data",
    "held_back_normals",
    "identity_images",
    "make_anogan",
    "make_center",
    "make_centers",
    "make_decoder",
    "make_encoder",
    "make_f_net",
    "make_identity",
    "make_instant",
    "make_local_centers",
    "make_reach",
    "make_scales",
    "measure_reach",
    "normal_images",
    "own_settings",
    "prepare",
    "read_normals",
    "resume_f_net",
    "score_split",
    "training_images",
    "unmeasured",
    "usual_metric",
]
