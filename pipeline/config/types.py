"""Types of fields that sections of the configuration share, whichever file declares the section.

In: nothing.  Out: the types, and the rules of every section.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Dtype = Literal["float32", "bfloat16", "float16"]
SignalKind = Literal["image", "audio", "video", "series", "molecule", "text", "vector"]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]


def _support_size(value: Any) -> Any:
    # One message where a union would have one an alternative.
    if value != "full" and (type(value) is not int or value < 1):
        raise ValueError(f"expected a number of pairs from 1 on, or 'full', got {value!r}")
    return value


Shots = Annotated[int | Literal["full"], BeforeValidator(_support_size)]
"""A support size: a number of pairs, or all pairs of the training split."""

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Rules of every section: no unknown keys, no infinities."""
