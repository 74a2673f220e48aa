"""Types of fields that sections of the configuration share, whichever file declares the section.

In: nothing.  Out: the types, and the rules of every section.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Dtype = Literal["float32", "bfloat16", "float16"]
SignalKind = Literal["image", "audio", "video", "series", "molecule", "text", "vector"]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Rules of every section: no unknown keys, no infinities."""
