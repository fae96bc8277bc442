"""The base class of all blocks of parameters."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from mst_distill.errors import did_you_mean


class Block(BaseModel):
    """A frozen block of parameters that accepts only its own keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key, value in values.items():
                if key not in cls.model_fields:
                    raise ValueError(did_you_mean("parameter", key, cls.model_fields))
                if isinstance(value, bool) and cls.model_fields[key].annotation in (int, float):
                    raise ValueError(f"{key} is {value}; it must be a number")
            for key, field in cls.model_fields.items():
                if field.is_required() and key not in values:
                    raise ValueError(
                        f"parameter {key!r} is missing; a block in an environment replaces the "
                        f"whole block of conf/base"
                    )
        return values
