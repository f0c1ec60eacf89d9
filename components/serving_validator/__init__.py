"""ServingValidator: the last gate, a model server answering real requests."""

from components.serving_validator.component import ServingValidator

__all__ = ["ServingValidator"]
