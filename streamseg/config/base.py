"""What all sections of the configuration have in common."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from streamseg.core.model.spec import parse_duration


def _duration(text: str) -> str:
    """Raises ValueError."""
    parse_duration(text)
    return text


Duration = Annotated[str, AfterValidator(_duration)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, given: Any) -> Any:
        """Raises ValueError."""
        for name, value in given.items() if isinstance(given, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and bool not in (field.annotation, *get_args(field.annotation)):
                raise ValueError(f"{name} is no matter of true or false")
        return given
