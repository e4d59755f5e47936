"""Trained encoders: load them by name or from a run, and pack a run into a small folder."""

from hjepa.zoo.files import shipped_models
from hjepa.zoo.load import load_encoder, load_pretrained
from hjepa.zoo.pack import pack_run
from hjepa.zoo.pretrained import PretrainedEncoder

__all__ = ["PretrainedEncoder", "load_encoder", "load_pretrained", "pack_run", "shipped_models"]
