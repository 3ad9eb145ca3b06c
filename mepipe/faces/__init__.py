"""Faces: where they are (detect), their landmarks, and the one transform per clip (align)."""
