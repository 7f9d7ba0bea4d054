"""Makes a bundle: data chosen by name → F, C, the small U-Nets, the rivals, the maps' scales.

Every stage is a stream; the command line and the app's jobs consume the same ones, so neither has a training
loop of its own.
"""

from anounet.prepare.centers import Scores, make_center, make_centers, make_local_centers, score_split
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
)
from anounet.prepare.f_net import (
    F_NET_CHECKPOINT,
    BegunFNet,
    FNetTraining,
    begun_f_net,
    make_f_net,
    resume_f_net,
)
from anounet.prepare.levels import Levels, make_scales, measure_levels
from anounet.prepare.plan import Plan, prepare
from anounet.prepare.rivals import (
    ANOGAN_CHECKPOINT,
    DECODER_CHECKPOINT,
    ENCODER_CHECKPOINT,
    make_anogan,
    make_decoder,
    make_encoder,
)
from anounet.prepare.stage import Stage
from anounet.prepare.unets import CHECKPOINT, make_identity, make_instant

__all__ = [
    "ANOGAN_CHECKPOINT",
    "CHECKPOINT",
    "DECODER_CHECKPOINT",
    "ENCODER_CHECKPOINT",
    "F_NET_CHECKPOINT",
    "BegunFNet",
    "DataChoice",
    "FNetData",
    "FNetTraining",
    "Levels",
    "Normals",
    "Plan",
    "Scores",
    "Stage",
    "begun_f_net",
    "choice_of",
    "choice_of_preset",
    "describe",
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
    "make_scales",
    "measure_levels",
    "normal_images",
    "own_settings",
    "prepare",
    "read_normals",
    "resume_f_net",
    "score_split",
]
