"""Vision transformer, predictor, levels and the H-JEPA model."""

from hjepa.models.blocks import Block
from hjepa.models.build import build_model, create_hjepa
from hjepa.models.encoder import Encoder, Features, VisionTransformer
from hjepa.models.hjepa import HJEPA, JepaOutput
from hjepa.models.levels import distinct_levels, level_features
from hjepa.models.predictor import Predictor

__all__ = [
    "HJEPA",
    "Block",
    "Encoder",
    "Features",
    "JepaOutput",
    "Predictor",
    "VisionTransformer",
    "build_model",
    "create_hjepa",
    "distinct_levels",
    "level_features",
]
