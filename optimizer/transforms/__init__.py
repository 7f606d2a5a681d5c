"""Changes of a model that leave its function as it is and make it easier to quantize."""

from optimizer.transforms.awq import AWQ
from optimizer.transforms.channel_scales import ChannelScales, scalable_groups
from optimizer.transforms.hadamard import NoHadamardMatrixError, hadamard
from optimizer.transforms.rotation import Rotation
from optimizer.transforms.scale_search import ScaleMethod, search_scales
from optimizer.transforms.smoothquant import SMOOTHQUANT
from optimizer.transforms.transformed_source import (
    Transform,
    TransformedSource,
    UntransformableModelError,
    refuse_what_cannot_fold,
    transformed,
)

__all__ = [
    "AWQ",
    "SMOOTHQUANT",
    "ChannelScales",
    "NoHadamardMatrixError",
    "Rotation",
    "ScaleMethod",
    "Transform",
    "TransformedSource",
    "UntransformableModelError",
    "hadamard",
    "refuse_what_cannot_fold",
    "scalable_groups",
    "search_scales",
    "transformed",
]
