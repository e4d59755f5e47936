"""Controls that are evaluated on request: encoders of timm and torchvision, and the run's own trained with labels.

To add a kind, write a function from a `Request` to a `NamedEncoder` and list it in `KINDS`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hjepa.errors import UserError
from hjepa.evaluation.features import Reader, View

if TYPE_CHECKING:
    from hjepa.config import Config
    from hjepa.data import Splits
    from hjepa.runs.load import TrainedRun

RANDOM = "random"
_CHANNELS = 3


@dataclass(frozen=True)
class Request:
    """What a control on request may be built from.

    Attributes:
        name: as requested, for example ``timm:resnet18@random``.
        model: the part after the colon, without weights.
        weights: the part after ``@``: ``random``, a file, or a name that the library knows; None for its default.
        run: the trained model that it stands beside.
        config: of the evaluation.
        splits: the images.
        train_rows: int64 rows of ``splits.train`` that may be fitted.
        device: where the encoder should be.
    """

    name: str
    model: str
    weights: str | None
    run: TrainedRun
    config: Config
    splits: Splits
    train_rows: Tensor
    device: torch.device


@dataclass(frozen=True)
class NamedEncoder:
    """An encoder that is evaluated beside the trained one.

    Attributes:
        name: as requested; the row in the table.
        read: from images [B, C, H, W], normalised as `mean` and `std` say, to features [B, D].
        image_size: height and width of its input.
        mean, std: normalisation of the loader, per channel of the data set.
        about: stored in ``results["controls"]``: weights, licence, source and so on.
    """

    name: str
    read: Callable[[Tensor], Tensor]
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    about: Mapping[str, Any]

    def reader(self) -> Reader:
        """The features by name."""
        return lambda images: {self.name: self.read(images)}

    def view(self, view: View) -> View:
        """Another encoder's view with this one's size and normalisation."""
        return View(
            self.image_size, self.mean, self.std, view.device, view.batch_size, view.num_workers, view.pin_memory
        )


def build(request: Request) -> NamedEncoder:
    """Build one control.

    Raises:
        UserError: its library, model or weights are not there, or the images do not fit it.
    """
    return KINDS[kind_of(request.name)](request)


def kind_of(name: str) -> str:
    """The part before the colon."""
    return name.partition(":")[0]


def parts_of(name: str) -> tuple[str, str | None]:
    """Model and weights of ``kind:model@weights``."""
    model, _, weights = name.partition(":")[2].partition("@")
    return model, weights or None


def _timm(request: Request) -> NamedEncoder:
    try:
        timm: Any = importlib.import_module("timm")
    except ModuleNotFoundError:
        raise UserError(f"control {request.name}: timm is not installed; pip install 'hjepa[timm]'") from None
    _check_name(request, timm.list_models() + timm.list_pretrained())
    library_default = request.weights is None
    if request.weights not in (None, RANDOM):
        _check_file(request)
    torch.manual_seed(request.config.seed)  # random weights repeat
    try:
        model = timm.create_model(request.model, pretrained=library_default, num_classes=0)
    except RuntimeError as error:
        raise UserError(f"control {request.name}: {_one_line(error)}; use {request.name}@random") from None
    except Exception as error:  # of every library that downloads
        raise _no_weights(request, error) from None
    if request.weights not in (None, RANDOM):
        _load_file(request, model)
    settings = timm.data.resolve_model_data_config(model)
    known = model.pretrained_cfg
    about = {
        "library": f"timm {timm.__version__}",
        "weights": "random" if request.weights == RANDOM else request.weights or known.get("hf_hub_id") or "pretrained",
        "licence": known.get("license") if library_default else None,
        "source": (known.get("origin_url") or known.get("url") or known.get("hf_hub_id")) if library_default else None,
    }
    size = tuple(settings["input_size"][1:])
    return _named(request, model, size, settings["mean"], settings["std"], about)


def _torchvision(request: Request) -> NamedEncoder:
    import torchvision
    from torchvision import models

    _check_name(request, models.list_models(module=models))
    known = models.get_model_weights(request.model)
    chosen = known.DEFAULT if request.weights in (None, RANDOM) and len(known) else None
    if request.weights in known.__members__:
        chosen = known[request.weights]
    elif request.weights not in (None, RANDOM):
        _check_file(request)
    from_library = request.weights is None or request.weights in known.__members__
    torch.manual_seed(request.config.seed)
    try:
        model = models.get_model(request.model, weights=chosen if from_library else None)
    except Exception as error:
        raise _no_weights(request, error) from None
    if not from_library and request.weights != RANDOM:
        _load_file(request, model)
    _without_classifier(request, model)
    preset = None if chosen is None else chosen.transforms()
    size = 224 if preset is None else preset.crop_size[0]
    mean, std = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) if preset is None else (preset.mean, preset.std)
    about = {
        "library": f"torchvision {torchvision.__version__}",
        "weights": chosen.name if from_library and chosen is not None else request.weights,
        "licence": chosen.meta.get("license", "not stated; torchvision is BSD-3-Clause")
        if from_library and chosen is not None
        else None,
        "source": chosen.url if from_library and chosen is not None else None,
    }
    return _named(request, model, (size, size), mean, std, about)


def _supervised(request: Request) -> NamedEncoder:
    from hjepa.evaluation.tuning.supervised import supervised_encoder

    encoder, about = supervised_encoder(
        request.run, request.config, request.splits.train, request.train_rows, request.device
    )
    return NamedEncoder(
        request.name,
        lambda images: encoder.extract_features(images, depths=encoder.depths),
        encoder.geometry.height_width,
        request.run.mean,
        request.run.std,
        {"name": request.name, **about},
    )


KINDS: dict[str, Callable[[Request], NamedEncoder]] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "supervised": _supervised,
}
"""By the part before the colon."""
WITHOUT_MODEL = ("supervised",)
"""Kinds that are a name by themselves."""


def _named(
    request: Request,
    model: nn.Module,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    about: Mapping[str, Any],
) -> NamedEncoder:
    channels = request.run.channels
    if channels not in (1, _CHANNELS):
        raise UserError(
            f"control {request.name}: takes images of 3 channels, but the run's have {channels}; leave it out"
        )
    encoder = model.to(request.device).eval()
    shift = torch.tensor(mean, device=request.device).view(-1, 1, 1)
    scale = torch.tensor(std, device=request.device).view(-1, 1, 1)

    def read(images: Tensor) -> Tensor:
        features: Tensor = encoder((images.expand(-1, _CHANNELS, -1, -1) - shift) / scale)
        return features if features.ndim == 2 else features.flatten(2).mean(dim=2)

    parameters = sum(p.numel() for p in model.parameters())
    return NamedEncoder(
        request.name,
        read,
        (int(size[0]), int(size[1])),
        (0.0,) * channels,
        (1.0,) * channels,
        {"name": request.name, **about, "parameters": parameters, "image_size": list(size)},
    )


def _without_classifier(request: Request, model: nn.Module) -> None:
    """Replace the last linear layer of a classifier by the identity."""
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise UserError(f"control {request.name}: has no linear classifier to take features from; use another model")
    place, _, name = linear[-1].rpartition(".")
    setattr(model.get_submodule(place), name, nn.Identity())


def _check_name(request: Request, known: Sequence[str]) -> None:
    if request.model in known:
        return
    library = kind_of(request.name)
    close = difflib.get_close_matches(request.model, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"give one, for example {library}:resnet18"
    raise UserError(f"control {request.name}: {library} has no model {request.model!r}; {hint}")


def _check_file(request: Request) -> None:
    if request.weights is None or not Path(request.weights).expanduser().is_file():
        raise UserError(
            f"control {request.name}: {request.weights} is no file of weights; use @random, or nothing for pretrained ones"
        )


def _load_file(request: Request, model: nn.Module) -> None:
    """Load a state dictionary from a file of safetensors or PyTorch; classifier weights may be left over."""
    path = Path(request.weights or "").expanduser()
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state.get("model", state))
        missing = model.load_state_dict(state, strict=False).missing_keys
    except Exception as error:
        raise UserError(f"control {request.name}: {path} cannot be read as weights ({_one_line(error)})") from None
    if missing:
        raise UserError(f"control {request.name}: {path} lacks the weight {missing[0]}; it is of another model")


def _no_weights(request: Request, error: Exception) -> UserError:
    bare = request.name.partition("@")[0]
    return UserError(
        f"control {request.name}: its weights cannot be had ({_one_line(error)}); download them and use {bare}@FILE, or "
        f"use {bare}@random"
    )


def _one_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines and lines[0] else type(error).__name__
