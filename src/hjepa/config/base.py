"""Base class of the configuration sections."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """A section of the configuration. Unknown keys are errors.

    Booleans are rejected where a number is expected; otherwise YAML's ``yes`` would become 1.
    """

    model_config = ConfigDict(extra="forbid", validate_assignment=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _no_booleans_for_numbers(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for key, value in values.items():
            field = cls.model_fields.get(key)
            if isinstance(value, bool) and field is not None and not _accepts_bool(field.annotation):
                raise ValueError(f"{key}: expected a {_type_name(field.annotation)}, got {str(value).lower()}")
        return values


def _accepts_bool(annotation: Any) -> bool:
    return "bool" in str(annotation) or annotation is Any


def _type_name(annotation: Any) -> str:
    text = str(annotation)
    if "int" in text and "float" not in text:
        return "whole number"
    if "float" in text or "int" in text:
        return "number"
    return "string" if "str" in text else "value of another type"
